import { devicesSchema } from '@reefkeeper/devices';
import { ManualClock } from '@reefkeeper/platform';
import { Sketch, telemetry as message, type Telemetry as Window } from '@reefkeeper/protocol';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Telemetry, telemetrySchema, WindowExport, type ExportedWindow } from './index.ts';

let database: TestDatabase;
let clock: ManualClock;
let telemetry: Telemetry;
let kept: ExportedWindow[];
const sink = { publish: async (rows: readonly ExportedWindow[]) => { kept.push(...rows); } };
const names = () => kept.map(({ device, seq }) => `${device} ${seq}`);

beforeAll(async () => { database = await testDatabase([devicesSchema, telemetrySchema]); });
afterAll(() => database?.drop());
beforeEach(async () => {
  await database.db.query('TRUNCATE telemetry_windows, telemetry_export, devices CASCADE');
  for (const id of ['cam-1', 'cam-2']) await database.db.query('INSERT INTO devices (id, labels, enrolled_at) VALUES ($1, $2, now())', [id, { site: 'lyon' }]);
  clock = new ManualClock(new Date());
  telemetry = new Telemetry(database.db, clock);
  kept = [];
});

const window = (seq: number, some: Partial<Window> = {}): Window => message.schema.parse({
  bootId: 'boot', seq, workload: 'classifier', bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-25T07:00:00Z', durationMs: 5_000, inferences: 3,
  latency: { total: Sketch.of([10_000, 10_000, 10_000]).toBase64() }, ...some,
});
const arrive = (...seqs: number[]) => telemetry.ingest(seqs.flatMap((seq) => [{ device: 'cam-1', window: window(seq) }, { device: 'cam-2', window: window(seq) }]));

it('each window leaves once, in the order of receipt, as a flat row; what was there before stays', async () => {
  await arrive(1);
  clock.advance(1_000);
  const windows = new WindowExport(database.db, sink, clock);
  expect(await windows.run()).toBe(0);
  await telemetry.ingest([{ device: 'cam-1', window: window(2, { errors: { 'inference.timeout': 1 }, labelled: 3, correct: 2, temperatureC: 61.5, drift: { psi: 0.25, reference: 500, current: 60 } }) }]);
  clock.advance(1_000);
  await arrive(3);
  // The clocks of controllers differ.
  expect(await windows.run()).toBe(0);
  clock.advance(15_000);
  expect(await windows.run()).toBe(3);
  expect(names()).toEqual(['cam-1 2', 'cam-1 3', 'cam-2 3']);
  expect(kept[0]).toEqual({
    device: 'cam-1', boot_id: 'boot', seq: 2, workload: 'classifier', bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu', started_at: '2026-11-25T07:00:00.000Z', received_at: expect.stringMatching(/^20..-.*Z$/),
    duration_ms: 5_000, inferences: 3, errors: 1, error_codes: '{"inference.timeout":1}', p50_ms: expect.closeTo(10, 0), p95_ms: expect.closeTo(10, 0), p99_ms: expect.closeTo(10, 0), labelled: 3, correct: 2, temperature_c: 61.5, drift_psi: 0.25, labels: '{"site":"lyon"}',
  });
  expect(await windows.run()).toBe(0);
});

it('more than one bite received at once, and hours of backlog, lose and double nothing', async () => {
  const windows = new WindowExport(database.db, sink, clock);
  await windows.run();
  clock.advance(1);
  await arrive(...Array.from({ length: 505 }, (_, seq) => seq));
  clock.advance(2 * 3_600_000);
  await arrive(5_000);
  clock.advance(60_000);
  let sent = 0;
  for (let run = 0; run < 5; run++) sent += await windows.run();
  expect(sent).toBe(1_012);
  expect(new Set(names()).size).toBe(1_012);
});

it('what the sink did not keep is sent again, and nobody skips it meanwhile', async () => {
  const failing = new WindowExport(database.db, { publish: async (rows) => { kept.push(...rows.slice(0, 1)); throw new Error('the topic is away'); } }, clock);
  expect(await failing.run()).toBe(0);
  clock.advance(1);
  await arrive(1);
  clock.advance(30_000);
  await expect(failing.run()).rejects.toThrow('the topic is away');
  expect(await new WindowExport(database.db, sink, clock).run()).toBe(2);
  expect(names()).toEqual(['cam-1 1', 'cam-1 1', 'cam-2 1']);
});

it('one process does it at a time', async () => {
  const start = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const slow = new WindowExport(database.db, { publish: async (rows) => { start.resolve(); await go.promise; kept.push(...rows); } }, clock);
  await slow.run();
  clock.advance(1);
  await arrive(1);
  clock.advance(30_000);
  const first = slow.run();
  await start.promise;
  expect(await new WindowExport(database.db, sink, clock).run()).toBe(0);
  go.resolve();
  expect(await first).toBe(2);
  expect(names()).toEqual(['cam-1 1', 'cam-2 1']);
});

it('a window whose transaction takes long is not passed by', async () => {
  const windows = new WindowExport(database.db, sink, clock);
  await windows.run();
  clock.advance(1);
  const late = database.db.createQueryRunner();
  await late.startTransaction();
  await late.query("INSERT INTO telemetry_windows (device_id, boot_id, seq, workload, bundle, variant, backend, started_at, received_at, duration_ms, inferences) VALUES ('cam-1', 'boot', 1, 'w', 'b', 'v', 'cpu', now(), $1, 1, 1)", [clock.now()]);
  clock.advance(1_000);
  await arrive(2);
  clock.advance(60_000);
  // Hours may pass: nothing younger than it leaves.
  expect(await windows.run()).toBe(0);
  await late.commitTransaction();
  await late.release();
  expect(await windows.run()).toBe(3);
  expect(names()).toEqual(['cam-1 1', 'cam-1 2', 'cam-2 2']);
});
