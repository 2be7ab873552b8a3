import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadOrCreateSigningKey, signBundle } from '@reefkeeper/bundle';
import { openObjects } from '@reefkeeper/platform';
import { afterAll, beforeAll, expect, it, onTestFailed } from 'vitest';
import { AgentProcess, fromSources } from '../support/agent-process.ts';
import { eventually, Fleet } from '../support/fleet.ts';
import { Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { balance, create, orphans, quiet, seed, settled } from './books.ts';
import { Island } from './network.ts';

// Real agents with real bundles and inference, among simulated ones.
const island = process.getuid?.() === 0 ? await Island.make(process.pid % 10_000) : undefined;
const diskDir = await mkdtemp(join(tmpdir(), 'reef-disk-'));
const ownDisk = process.getuid?.() === 0 && mounted(diskDir);
const gates = { errorRate: null, latencyP95: null, accuracy: null };

let plant: Plant;
let swarm: Swarm;
let maker: Fleet;
const agents: Record<'dying' | 'island' | 'full', AgentProcess> = {} as never;

function mounted(dir: string): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'none', dir]);
    return true;
  } catch {
    return false;
  }
}

/** A signed bundle that runs, as the pipeline would leave it with the controller. */
async function addVersion(number: number): Promise<void> {
  const key = await loadOrCreateSigningKey(plant.keys);
  const { bundle, manifest } = maker.publish(number, { sign: (unsigned) => signBundle(unsigned, key) });
  const objects = await openObjects(plant.artifactsUrl);
  const envelope = await objects.put(Buffer.from(JSON.stringify(maker.envelopes.get(bundle))));
  const golden = manifest.golden!;
  const files = [envelope, ...manifest.variants.map(({ file }) => file), golden];
  for (const { digest } of files.slice(1)) await objects.put(maker.blobs.get(digest)!);
  await plant.addVersion('m', number, { bundle, envelope: envelope.digest, variant: manifest.variants[0]!.file, golden: golden.digest });
}

async function enrolled(device: string, command?: readonly string[], dir?: string): Promise<AgentProcess> {
  const { token } = await plant.call<{ token: string }>('POST', '/enrolment-tokens', { deviceId: device });
  const agent = await AgentProcess.enrolled({ gatewayUrl: plant.gatewayUrl, token }, device, command, dir);
  await plant.call('PATCH', `/devices/${device}`, { labels: { agent: device }, config: { telemetryWindowS: 1 } });
  await agent.start();
  return agent;
}

beforeAll(async () => {
  maker = await Fleet.open();
  plant = await Plant.open(island ? { host: island.host } : {});
  swarm = new Swarm({ port: plant.ports.plain, count: 100, prefix: 'coral', seed, windowMs: 5_000 });
  await plant.addDevices(swarm.ids);
  await swarm.connected();
  await Promise.all([1, 2, 3, 4].map(addVersion));
  agents.dying = await enrolled('real-dying');
  if (island) agents.island = await enrolled('real-island', island.command(fromSources));
  if (ownDisk) agents.full = await enrolled('real-full', fromSources, diskDir);
  await eventually(async () => (await plant.pool.query('SELECT 1 FROM devices WHERE capabilities IS NOT NULL')).rowCount === 100 + Object.keys(agents).length, 120_000);
  expect(await settled(plant, await create(plant, { version: 'm@1', waves: [{ percent: 100 }], gates }))).toMatchObject({ state: 'SUCCEEDED' });
});
afterAll(async () => {
  for (const agent of Object.values(agents)) await agent.remove().catch(() => {});
  await swarm?.stop();
  await plant?.close();
  await maker?.close();
  await island?.remove();
  if (ownDisk) execFileSync('umount', ['-l', diskDir]);
  await rm(diskDir, { recursive: true, force: true });
});

const runs = async (device: string) => (await plant.pool.query<{ bundle: string }>("SELECT workloads -> 'classifier' ->> 'running' AS bundle FROM reported WHERE device_id = $1", [device])).rows[0]?.bundle;
const bundleOf = async (number: number) => (await plant.pool.query<{ bundle: string }>('SELECT bundle_digest AS bundle FROM versions WHERE version = $1', [number])).rows[0]!.bundle;
const windowsOf = async (device: string) => (await plant.pool.query<{ n: number }>('SELECT count(*)::int AS n FROM telemetry_windows WHERE device_id = $1', [device])).rows[0]!.n;

it('a real agent dies at every step of one update, and its inference process afterwards', async () => {
  const { dying } = agents;
  const points = ['begin:noted', 'download:effect', 'verify:effect', 'install:effect', 'golden:effect', 'activate:effect', 'observe:effect', 'commit:effect'];
  await dying.stop('SIGKILL');
  const id = await create(plant, { version: 'm@2', waves: [{ percent: 100 }], gates, policy: { observeS: 0.5 } });
  for (const point of points) {
    await dying.start(point);
    await eventually(() => dying.dead, 120_000, () => `${point} was never reached`);
  }
  await dying.start();
  expect(await settled(plant, id)).toMatchObject({ state: 'SUCCEEDED' });
  const { execution } = (await dying.state()).workloads.classifier!;
  expect(execution).toMatchObject({ state: 'SUCCEEDED' });

  const [child] = await childrenOf(dying.pid);
  process.kill(child!, 'SIGKILL');
  const before = await windowsOf('real-dying');
  await expect.poll(() => windowsOf('real-dying'), { timeout: 60_000 }).toBeGreaterThan(before + 2);
  expect(await runs('real-dying')).toBe(await bundleOf(2));
  await quiet(plant);
  await balance(plant, swarm);
});

it.skipIf(!island)('a real agent loses its network in the middle of an update (skipped without network namespaces)', async () => {
  await agents.island.stop();
  await agents.island.start();
  await quiet(plant);
  if (!(await island!.lose(15))) process.stdout.write('no packets are lost: this kernel has no netem\n');
  const id = await create(plant, { version: 'm@3', waves: [{ percent: 100 }], gates, policy: { observeS: 10 } });
  // From here on it needs nobody: what it decides, it says when it is back.
  await expect.poll(async () => (await plant.pool.query<{ step: string | null }>("SELECT step FROM rollout_executions WHERE rollout_id = $1 AND device_id = 'real-island'", [id])).rows[0]?.step, { timeout: 120_000, interval: 50 }).toBe('observe');
  await island!.cut();
  await eventually(async () => (await agents.island.state()).workloads.classifier?.execution?.state === 'SUCCEEDED', 120_000);
  await sleep(3_000);
  await island!.mend();
  expect(await settled(plant, id)).toMatchObject({ state: 'SUCCEEDED' });
  await quiet(plant);
  await balance(plant, swarm);
});

it.skipIf(!ownDisk)('a real agent whose disk is full stays on what it has, and takes the version when there is room (skipped where nothing can be mounted)', async () => {
  const full = join(diskDir, 'full');
  onTestFailed(async () => { process.stdout.write(`${await readFile(join(diskDir, 'state.json'), 'utf8').catch(String)}\n`); });
  await fill(full);
  const before = await runs('real-full');
  const id = await create(plant, { version: 'm@4', selector: 'agent=real-full', waves: [{ percent: 100 }], gates });
  await sleep(10_000);
  expect(agents.full.dead).toBe(false);
  expect(await runs('real-full')).toBe(before);
  await rm(full);
  const end = await settled(plant, id);
  // Whether it waited or gave up, the stated end holds, and the next one arrives.
  if (end.state !== 'SUCCEEDED') expect(await settled(plant, await create(plant, { version: 'm@4', selector: 'agent=real-full', waves: [{ percent: 100 }], gates, supersede: true }))).toMatchObject({ state: 'SUCCEEDED' });
  expect(agents.full.dead).toBe(false);
  await expect.poll(() => runs('real-full'), { timeout: 60_000 }).toBe(await bundleOf(4));
  await quiet(plant);
  await balance(plant, swarm);
});

it('leaves no process behind', async () => {
  const dirs = [plant.dir, ...Object.values(agents).map(({ dir }) => dir)];
  for (const agent of Object.values(agents)) await agent.stop();
  await swarm.stop();
  await plant.close();
  expect(await orphans(...dirs)).toEqual([]);
});

async function childrenOf(pid: number): Promise<number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    const stat = /^\d+$/.test(entry) ? await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '') : '';
    if (stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] === String(pid)) found.push(Number(entry));
  }
  return found;
}

/** To the last byte. */
async function fill(path: string): Promise<void> {
  const { bavail, bsize } = await statfs(diskDir);
  await writeFile(path, Buffer.alloc(bavail * bsize, 1)).catch(() => {});
}
