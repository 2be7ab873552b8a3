import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PubSub } from '@google-cloud/pubsub';
import { conversionSchema } from '@reefkeeper/conversion';
import { devicesSchema } from '@reefkeeper/devices';
import { systemClock } from '@reefkeeper/platform';
import { Sketch, telemetry as message } from '@reefkeeper/protocol';
import { registrySchema } from '@reefkeeper/registry';
import { rolloutsSchema } from '@reefkeeper/rollouts';
import { Telemetry, telemetrySchema, type ExportedWindow } from '@reefkeeper/telemetry';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { findGoogle, RunningGoogle } from '../support/google.ts';
import { ended, startWorker } from '../support/worker.ts';

// The built worker and Google's own Pub/Sub emulator.
const parts = await findGoogle();

describe.skipIf(typeof parts === 'string')(`telemetry on a topic${typeof parts === 'string' ? `: ${parts}` : ''}`, () => {
  let google: RunningGoogle;
  let pubsub: PubSub;
  let database: TestDatabase;
  let telemetry: Telemetry;
  let dir: string;
  const workers: ChildProcess[] = [];
  const rows: ExportedWindow[] = [];

  beforeAll(async () => {
    google = await RunningGoogle.start(parts as Exclude<typeof parts, string>);
    pubsub = new PubSub({ projectId: google.project });
    await pubsub.createTopic('windows');
    const [subscription] = await pubsub.topic('windows').createSubscription('analyst');
    subscription.on('message', (told) => {
      rows.push(JSON.parse(told.data.toString('utf8')) as ExportedWindow);
      told.ack();
    });
    database = await testDatabase([devicesSchema, registrySchema, conversionSchema, telemetrySchema, rolloutsSchema]);
    telemetry = new Telemetry(database.db, systemClock);
    await database.db.query("INSERT INTO devices (id, labels, enrolled_at) VALUES ('cam-1', '{\"site\":\"lyon\"}', now())");
    dir = await mkdtemp(join(tmpdir(), 'reef-export-'));
  });
  afterAll(async () => {
    await Promise.all(workers.map((worker) => ended(worker, 'SIGKILL')));
    await pubsub?.close();
    await google?.stop();
    await database?.drop();
    await rm(dir, { recursive: true, force: true });
  });

  const start = () => startWorker(database.url, dir, { PUBSUB_EMULATOR_HOST: google.pubsubHost, METADATA_SERVER_DETECTION: 'none', REEF_TELEMETRY_TOPIC: `projects/${google.project}/topics/windows` }, workers);
  const arrive = (from: number, to: number) => telemetry.ingest(Array.from({ length: to - from }, (_, at) => ({
    device: 'cam-1',
    window: message.schema.parse({ bootId: 'boot', seq: from + at, workload: 'classifier', bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-25T07:00:00Z', durationMs: 5_000, inferences: 1, latency: { total: Sketch.of([10_000]).toBase64() } }),
  })));
  const known = () => new Set(rows.map(({ seq }) => seq)).size;

  it('every window arrives, over a worker that is killed and beside a second one', async () => {
    const first = await start();
    await vi.waitFor(async () => expect(await database.db.query('SELECT 1 FROM telemetry_export')).toHaveLength(1), { timeout: 30_000, interval: 100 });
    await arrive(0, 600);
    await vi.waitFor(() => expect(known()).toBeGreaterThan(0), { timeout: 60_000, interval: 20 });
    await ended(first, 'SIGKILL');
    await arrive(600, 900);
    await Promise.all([start(), start()]);
    await vi.waitFor(() => expect(known()).toBe(900), { timeout: 90_000, interval: 100 });
    expect(rows.find(({ seq }) => seq === 7)).toMatchObject({ device: 'cam-1', workload: 'classifier', inferences: 1, errors: 0, p95_ms: expect.closeTo(10, 0), labels: '{"site":"lyon"}' });
  }, 240_000);
});
