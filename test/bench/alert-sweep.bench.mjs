// What a sweep for alerts costs, in a fleet that is well and in one that is not.
import 'reflect-metadata';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { devicesSchema } from '../../libs/devices/dist/index.js';
import { startEmbeddedPostgres } from '../../libs/platform/dist/embedded-postgres.js';
import { ManualClock, openDatabase } from '../../libs/platform/dist/index.js';
import { Sketch } from '../../libs/protocol/dist/index.js';
import { AlertWatch, deviceAlerts, telemetrySchema } from '../../libs/telemetry/dist/index.js';

const usage = `npm run bench -- alert-sweep [--devices 10000] [--limit 50]
Rows of --devices devices with an hour of windows, one a minute each; sweeps of all three paces, three times each, the fastest counts (work beside only adds).
The sweep of every two seconds takes at most --limit ms while the fleet is well.`;
const bundle = 'a'.repeat(64);

export default async function bench(args) {
  const { values } = parseArgs({ args, options: { devices: { type: 'string', default: '10000' }, limit: { type: 'string', default: '50' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const [count, limitMs] = [Number(values.devices), Number(values.limit)];
  const dir = await mkdtemp(join(tmpdir(), 'reef-sweep-'));
  await chmod(dir, 0o755);
  const postgres = await startEmbeddedPostgres(join(dir, 'postgres'));
  let db;
  try {
    db = await openDatabase({ url: postgres.url, slices: [devicesSchema, telemetrySchema] });
    await fill(db, count);
    const clock = new ManualClock(new Date());
    const watch = new AlertWatch(db, clock, deviceAlerts);
    const table = new Table({ head: ['fleet', ...watch.paces.map((s) => `every ${s} s`)], style: { head: [], border: [] } });
    const look = async (name) => {
      const best = [];
      for (const everyS of watch.paces) {
        const took = [];
        for (let n = 0; n < 3; n += 1) {
          clock.advance(2_000);
          const begin = performance.now();
          await watch.sweep(everyS);
          took.push(performance.now() - begin);
        }
        best.push(Math.min(...took));
      }
      table.push([name, ...best.map((ms) => `${ms.toFixed(1)} ms`)]);
      return best;
    };
    const load = loadavg()[0];
    const [well] = await look('well');
    await db.query("UPDATE reported SET health = 'DEGRADED', conditions = '[\"NO_ACCELERATOR\"]' WHERE substr(device_id, 2)::int % 100 = 0");
    await db.query("UPDATE telemetry_windows SET error_count = 60 WHERE substr(device_id, 2)::int % 100 = 1");
    clock.advance(60_000);
    await look('1 % without Edge TPU, 1 % with errors');
    await db.query('UPDATE devices SET online = false');
    await watch.sweep(2);
    clock.advance(125_000);
    const begin = performance.now();
    const opened = await watch.sweep(2);
    table.push([`all offline: ${opened} alerts open at once`, `${(performance.now() - begin).toFixed(1)} ms`, '', '']);
    await look('all offline, alerts open');
    console.log(`${count} devices, an hour of windows each; load average before: ${load.toFixed(1)}\n${table.toString()}\nwhile the fleet is well: ${well.toFixed(1)} ms every two seconds, at most ${limitMs}: ${well <= limitMs ? 'held' : 'NOT HELD'}`);
    return well <= limitMs;
  } finally {
    await db?.destroy();
    await postgres.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

async function fill(db, count) {
  const sketch = Sketch.of(Array.from({ length: 600 }, (_, at) => 8_000 * Math.exp(((at * 37) % 600) / 600))).toBase64();
  await db.query("INSERT INTO devices (id, labels, enrolled_at, online, session, capabilities) SELECT 'd' || g, jsonb_build_object('site', 's' || g % 100), now(), true, 1, jsonb_build_object('hostClass', 'dev-board', 'agentVersion', '0.1.0', 'edgetpus', '[]'::jsonb) FROM generate_series(1, $1::int) g", [count]);
  await db.query("INSERT INTO reported (device_id, boot_id, seq, session, health, conditions, workloads, received_at) SELECT id, 'b', 1, 1, 'HEALTHY', '[]', jsonb_build_object('classifier', jsonb_build_object('running', $1::text, 'variant', 'cpu-int8', 'backend', 'cpu', 'execution', jsonb_build_object('state', 'SUCCEEDED', 'bundle', $1::text))), now() FROM devices", [bundle]);
  await db.query('INSERT INTO desired (device_id, revision) SELECT id, 0 FROM devices');
  await db.query("INSERT INTO certificates (serial, device_id, not_after, issued_at) SELECT id, id, now() + interval '300 days', now() FROM devices");
  await db.query(`
    INSERT INTO telemetry_windows (device_id, boot_id, seq, workload, bundle, variant, backend, started_at, received_at, duration_ms, inferences, latency, drift, temperature_c)
    SELECT 'd' || d, 'b', m, 'classifier', $1, 'cpu-int8', 'cpu', now(), now() - make_interval(mins => 60 - m), 60000, 600, jsonb_build_object('total', $2::text), '{"psi": 0.05, "reference": 500, "current": 100}', 50
    FROM generate_series(1, 60) m, generate_series(1, $3::int) d`, [bundle, sketch, count]);
  await db.query('VACUUM ANALYZE');
}
