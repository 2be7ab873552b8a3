import { devicesSchema } from '@reefkeeper/devices';
import { ManualClock } from '@reefkeeper/platform';
import { Sketch, telemetry as message, type Telemetry as Window } from '@reefkeeper/protocol';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Telemetry, telemetrySchema, windowViewOf } from './index.ts';

let database: TestDatabase;
let clock: ManualClock;
let telemetry: Telemetry;
beforeAll(async () => {
  database = await testDatabase([devicesSchema, telemetrySchema]);
  clock = new ManualClock(new Date('2026-11-25T08:00:00Z'));
  telemetry = new Telemetry(database.db, clock);
  for (const id of ['a', 'b', 'c']) await database.db.query('INSERT INTO devices (id, enrolled_at) VALUES ($1, now())', [id]);
});
beforeEach(async () => { await database.db.query('TRUNCATE telemetry_windows'); });
afterAll(async () => database.drop());

const old = 'a'.repeat(64);
const fresh = 'b'.repeat(64);
const window = (seq: number, some: Partial<Window> & { values?: number[] } = {}): Window => {
  const { values = [10_000, 12_000], ...rest } = some;
  return message.schema.parse({ bootId: 'boot', seq, workload: 'w', bundle: old, variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-25T07:00:00Z', durationMs: 5_000, inferences: values.length, latency: { total: Sketch.of(values).toBase64() }, ...rest });
};
const rows = async (): Promise<number> => Number((await database.db.query('SELECT count(*) AS n FROM telemetry_windows'))[0].n);

describe('ingest', () => {
  it('the same batch again changes nothing, also within one batch and reordered', async () => {
    const batch = [window(1), window(2), window(3)].map((one) => ({ device: 'a', window: one }));
    expect(await telemetry.ingest(batch)).toMatchObject({ stored: 3, repeated: 0, unknown: [], refused: [] });
    const before = await telemetry.healthOf(['a'], { workload: 'w' });
    clock.advance(1_000);
    expect(await telemetry.ingest([...batch].reverse())).toMatchObject({ stored: 0, repeated: 3 });
    expect(await telemetry.ingest([...batch, ...batch, { device: 'a', window: window(4) }])).toMatchObject({ stored: 1, repeated: 6 });
    expect(before.get('a')!.inferences).toBe(6);
    expect(await rows()).toBe(4);
  });

  it('windows that come late and out of order count as if they had come in order', async () => {
    for (const seq of [5, 1, 3, 2, 4]) await telemetry.ingest([{ device: 'a', window: window(seq, { values: [seq * 1_000] }) }]);
    const health = (await telemetry.healthOf(['a'], { workload: 'w' })).get('a')!;
    expect(health.inferences).toBe(5);
    expect(health.latency.quantile(0.5)! / 3_000).toBeCloseTo(1, 1);
  });

  it('keeps what newer agents send besides, and windows without it as they were', async () => {
    const extras = {
      shadow: { bundle: fresh, frames: 10, agreed: 8, errors: 1, latency: Sketch.of([20_000]).toBase64(), active: Sketch.of([10_000]).toBase64() },
      metrics: { reject_rate: { count: 2, sum: 0.5, sumSquares: 0.13 } }, drift: { psi: 0.1, reference: 500, current: 60 },
    };
    await telemetry.ingest([{ device: 'a', window: window(1) }, { device: 'a', window: window(2, extras) }]);
    const [newest, plain] = (await telemetry.latest('a')).map(windowViewOf);
    expect(newest).toMatchObject({ metrics: extras.metrics, drift: extras.drift, shadow: { bundle: fresh, frames: 10, agreed: 8, errors: 1, latency: { count: 1, p50Ms: expect.closeTo(20, 0) as number }, active: { p50Ms: expect.closeTo(10, 0) as number } } });
    expect(plain).toMatchObject({ shadow: null, metrics: null, drift: null });
    expect(await telemetry.ingest([{ device: 'a', window: window(3, { shadow: { ...extras.shadow, agreed: 10 } }) }, { device: 'a', window: window(4, { shadow: { ...extras.shadow, active: 'gA==' } }) }]))
      .toMatchObject({ stored: 0, refused: [{ seq: 3, reason: expect.stringContaining('shadow frames') as string }, { seq: 4, reason: expect.stringContaining('varint') as string }] });
  });

  it('one device\'s restart begins a new count; two devices may share ids of windows', async () => {
    expect(await telemetry.ingest([{ device: 'a', window: window(1) }, { device: 'a', window: window(1, { bootId: 'boot-2' }) }, { device: 'b', window: window(1) }])).toMatchObject({ stored: 3 });
  });

  it('an unknown device and a damaged sketch are named and do not hold up the rest', async () => {
    expect(await telemetry.ingest([
      { device: 'stranger', window: window(1) }, { device: 'a', window: { ...window(1), latency: { total: '////' } } },
      { device: 'a', window: { ...window(2), labelled: 1, correct: 2 } }, { device: 'b', window: window(1) },
    ])).toMatchObject({ stored: 1, repeated: 0, unknown: ['stranger'], refused: [{ device: 'a', seq: 1 }, { device: 'a', seq: 2 }] });
    expect(await telemetry.ingest([])).toMatchObject({ stored: 0 });
  });

  it('two processes with the same batch at once store it once', async () => {
    const batch = Array.from({ length: 200 }, (_, seq) => ({ device: ['a', 'b', 'c'][seq % 3]!, window: window(seq) }));
    const answers = await Promise.all([telemetry.ingest(batch), telemetry.ingest([...batch].reverse()), telemetry.ingest(batch)]);
    expect(answers.reduce((sum, { stored }) => sum + stored, 0)).toBe(200);
    expect(await rows()).toBe(200);
  });
});

describe('health', () => {
  it('adds up by device, workload, bundle and time; sketches are merged, not averaged', async () => {
    await telemetry.ingest([{ device: 'a', window: window(1, { values: Array(95).fill(1_000), errors: { 'inference.failed': 2 }, labelled: 10, correct: 7 }) }, { device: 'a', window: window(2, { values: Array(5).fill(100_000) }) }]);
    clock.advance(60_000);
    await telemetry.ingest([{ device: 'a', window: window(3, { bundle: fresh, values: [2_000] }) }, { device: 'b', window: window(1, { workload: 'other' }) }]);
    const health = (await telemetry.healthOf(['a', 'b'], { workload: 'w', bundle: old })).get('a')!;
    expect(health).toMatchObject({ inferences: 100, errors: 2, labelled: 10, correct: 7 });
    expect(health.latency.count).toBe(100);
    expect(health.latency.quantile(0.95)! / 1_000).toBeCloseTo(1, 1);
    expect(health.latency.quantile(0.96)! / 100_000).toBeCloseTo(1, 1);
    expect([...(await telemetry.healthOf(['a', 'b'], { workload: 'w', from: clock.now() })).keys()]).toEqual(['a']);
    expect((await telemetry.healthOf(['b'], { workload: 'w' })).size).toBe(0);
  });

  it('temperature, drift and numbers over the windows that have them; a stretch without any has none', async () => {
    const moments = (count: number, sum: number) => ({ count, sum, sumSquares: sum * sum });
    await telemetry.ingest([
      { device: 'a', window: window(1, { temperatureC: 60, metrics: { m: moments(2, 3), n: moments(1, 1) }, drift: { psi: 0.5, reference: 900, current: 100 } }) },
      { device: 'a', window: window(2, { metrics: { m: moments(1, 4) }, drift: { psi: 0.2, reference: 900, current: 300 } }) },
      { device: 'a', window: window(3, { temperatureC: 64 }) }, { device: 'b', window: window(1) },
    ]);
    const health = await telemetry.healthOf(['a', 'b'], { workload: 'w' });
    expect(health.get('a')).toMatchObject({ temperatureC: 62, metrics: { m: { count: 3, sum: 7, sumSquares: 25 }, n: { count: 1, sum: 1, sumSquares: 1 } }, drift: { scores: 400 } });
    // Each window loses what chance alone gives ten bins, and weighs as much as it has scores.
    expect(health.get('a')!.drift!.psi).toBeCloseTo((100 * (0.5 - 9 * (1 / 900 + 1 / 100)) + 300 * (0.2 - 9 * (1 / 900 + 1 / 300))) / 400, 10);
    expect(health.get('b')).toMatchObject({ temperatureC: null, metrics: {}, drift: null });
  });

  it('a candidate in shadow, whichever model was active', async () => {
    const shadow = (bundle: string, frames: number, agreed: number) => ({ bundle, frames, agreed, errors: frames - agreed, latency: Sketch.of(Array<number>(frames).fill(20_000)).toBase64(), active: Sketch.of(Array<number>(frames).fill(10_000)).toBase64() });
    await telemetry.ingest([{ device: 'a', window: window(1, { shadow: shadow(fresh, 10, 9) }) }]);
    clock.advance(10_000);
    const from = clock.now();
    await telemetry.ingest([{ device: 'a', window: window(2, { shadow: shadow(fresh, 20, 15) }) }, { device: 'a', window: window(3, { bundle: 'c'.repeat(64), shadow: shadow(fresh, 10, 10) }) }, { device: 'b', window: window(1, { shadow: shadow(old, 5, 5) }) }]);
    const found = await telemetry.shadowOfEach(database.db, 'w', ['a', 'b'].map((device) => ({ device, bundle: fresh, from })));
    expect([...found.keys()]).toEqual(['a']);
    expect(found.get('a')).toMatchObject({ frames: 30, agreed: 25, errors: 5, latency: { count: 30 }, active: { count: 30 } });
  });

  it('each device with its own question, counted back from its own last window', async () => {
    await telemetry.ingest([{ device: 'a', window: window(1) }]);
    clock.advance(600_000);
    await telemetry.ingest([{ device: 'a', window: window(2) }, { device: 'b', window: window(1, { bundle: fresh }) }]);
    clock.advance(7 * 86_400_000);
    const answer = await telemetry.healthOfEach(database.db, 'w', [{ device: 'a', bundle: old, to: clock.now(), lastS: 60 }, { device: 'b', bundle: fresh, lastS: 60 }, { device: 'c', bundle: old }]);
    expect(answer.get('a')!.inferences).toBe(2);
    expect(answer.get('b')!.inferences).toBe(2);
    expect(answer.has('c')).toBe(false);
  });
});

describe('series and latest', () => {
  it('one point per step and bundle, or per device', async () => {
    clock = new ManualClock(new Date('2026-11-25T10:00:00Z'));
    telemetry = new Telemetry(database.db, clock);
    await telemetry.ingest([{ device: 'a', window: window(1, { labelled: 4, correct: 3 }) }, { device: 'b', window: window(1, { bundle: fresh }) }]);
    clock.advance(10_000);
    await telemetry.ingest([{ device: 'a', window: window(2) }]);
    const stretch = { from: new Date('2026-11-25T09:00:00Z'), to: new Date('2026-11-25T11:00:00Z'), stepS: 10 };
    const points = await telemetry.series({ ...stretch, by: 'bundle', workload: 'w' });
    expect(points.map(({ at, bundle, inferences, accuracy }) => [at.toISOString().slice(14, 19), bundle, inferences, accuracy])).toEqual([['00:00', old, 2, 0.75], ['00:00', fresh, 2, null], ['00:10', old, 2, null]]);
    expect(points[0]!.p95Ms).toBeCloseTo(12, 0);
    // Two windows of a step weigh by their scores, each cleared of what chance adds to that many: 9 * (1 / 500 + 1 / n).
    const drifted = (seq: number, psi: number, current: number) => ({ device: 'c', window: window(seq, { workload: 'd', drift: { psi, reference: 500, current } }) });
    await telemetry.ingest([drifted(3, 0.4, 100), drifted(4, 0.1, 300)]);
    const [moved] = await telemetry.series({ ...stretch, by: 'bundle', workload: 'd' });
    expect(moved!.drift!.scores).toBe(400);
    expect(moved!.drift!.psi).toBeCloseTo((0.4 * 100 + 0.1 * 300 - 9 * (100 / 500 + 1) - 9 * (300 / 500 + 1)) / 400, 6);
    expect(points[0]).toMatchObject({ drift: null, temperatureC: null });
    expect((await telemetry.series({ ...stretch, by: 'device', devices: ['a'] })).map(({ group }) => group)).toEqual(['a', 'a']);
    expect(windowViewOf((await telemetry.latest('a', 1))[0]!)).toMatchObject({ seq: 2, latency: { total: { count: 2 } }, accuracy: null, temperatureC: null });
  });
});

it('the sweep deletes what is older than asked, in bites', async () => {
  await telemetry.ingest(Array.from({ length: 25 }, (_, seq) => ({ device: 'a', window: window(seq) })));
  clock.advance(3_600_000);
  await telemetry.ingest([{ device: 'a', window: window(100) }]);
  expect(await telemetry.sweep(1_800, 10)).toBe(25);
  expect(await rows()).toBe(1);
});
