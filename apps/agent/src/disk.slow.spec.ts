import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { joined, quick, startAgent } from '../../../test/support/device.ts';
import { colourFrames, eventually, Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';

const device = 'reef-d';
const soon = { policy: { observeS: 0, probationS: 0 } };
const window = { telemetryWindowS: 1 };

function mayMount(): boolean {
  const at = join(tmpdir(), `reef-mount-${process.pid}`);
  try {
    execFileSync('mkdir', [at]);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', at], { stdio: 'ignore' });
    execFileSync('umount', [at]);
    return true;
  } catch {
    return false;
  } finally {
    execFileSync('rm', ['-rf', at]);
  }
}
const mounts = process.platform === 'linux' && mayMount();

let fleet: Fleet;
let base: string;
/** The agent's directory: a file system of its own where that may be mounted. */
let dir: string;
let agent: Agent | undefined;
const mount = (...options: string[]) => execFileSync('mount', [...options, dir]);

beforeEach(async () => {
  fleet = await Fleet.open();
  base = await mkdtemp(join(tmpdir(), 'reef-disk-'));
  dir = join(base, 'agent');
  await mkdir(dir);
  if (mounts) mount('-t', 'tmpfs', '-o', 'size=2m', 'tmpfs');
  await colourFrames(join(base, 'frames'));
  await joined(fleet, dir, device);
});
afterEach(async () => {
  await agent?.stop();
  agent = undefined;
  await fleet.close();
  if (mounts) execFileSync('umount', [dir]);
  await rm(base, { recursive: true, force: true });
});

async function start(): Promise<Agent> {
  agent = await startAgent(dir, { FRAMES_DIR: join(base, 'frames'), FRAMES_FPS: '50', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off' }, { download: { tries: 2, ...quick }, disk: { firstMs: 200, maxMs: 200 } });
  return agent;
}
async function stop(): Promise<void> {
  await agent!.stop();
  agent = undefined;
}
const ended = (revision: number) => fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.revision === revision && !['IN_PROGRESS', 'QUEUED'].includes(workloads.classifier.execution.state));
async function running(versions: number) {
  const published = Array.from({ length: versions }, (_, at) => fleet.publish(at + 1));
  await start();
  for (const [at, { bundle }] of published.entries()) {
    await fleet.want(device, at + 1, { classifier: { bundle, ...soon } }, window);
    await ended(at + 1);
  }
  return published as [ReturnType<Fleet['publish']>, ReturnType<Fleet['publish']>];
}
async function serves(bundle: string): Promise<void> {
  const seen = fleet.windows.length;
  await eventually(() => fleet.windows.slice(seen).find((one) => one.bundle === bundle && one.inferences > 0 && Object.keys(one.errors).length === 0));
}

describe.skipIf(!mounts)('a disk that cannot be written (needs to mount a tmpfs)', () => {
  it('read-only: serves on, says so, sends its windows, goes back when told, starts anew; and all is well when it can be written again', async () => {
    const [one, two] = await running(2);
    mount('-o', 'remount,ro');
    const three = fleet.publish(3);
    await fleet.want(device, 3, { classifier: { bundle: three.bundle, ...soon } }, window);
    expect(await fleet.reportWhere(({ conditions }) => conditions.includes('DISK_READ_ONLY'))).toMatchObject({ health: 'DEGRADED' });
    await serves(two.bundle);
    const waiting = await fleet.reportWhere(({ observedRevision, workloads }) => observedRevision === 3 && workloads.classifier?.execution?.revision === 3);
    expect(waiting).toMatchObject({ workloads: { classifier: { running: two.bundle, execution: { state: 'QUEUED', failure: { code: 'disk_read_only' } } } } });
    await fleet.command(device, { id: 'p1', kind: 'ping' });
    await eventually(() => fleet.results.find(({ id, ok }) => id === 'p1' && ok));

    await fleet.want(device, 4, { classifier: { bundle: one.bundle, rollback: true, ...soon } }, window);
    expect(await ended(4)).toMatchObject({ workloads: { classifier: { running: one.bundle, execution: { state: 'SUCCEEDED' } } } });

    const before = Math.max(...fleet.reports.map(({ session }) => session));
    await stop();
    await start();
    // What it knew in memory is gone, but nothing that the disk held; and the fleet takes its word for newer than all before.
    const born = await fleet.reportWhere(({ session, workloads }) => session > before && workloads.classifier?.running === one.bundle);
    expect(born.conditions).toContain('DISK_READ_ONLY');
    await serves(one.bundle);

    mount('-o', 'remount,rw');
    await fleet.reportWhere(({ session, health }) => session > before && health === 'HEALTHY');
    // The disk first, then what waited for it.
    await expect.poll(async () => JSON.parse(await readFile(join(dir, 'state.json'), 'utf8'))).toMatchObject({ desired: { revision: 4 } });
    await fleet.want(device, 5, { classifier: { bundle: three.bundle, ...soon } }, window);
    expect(await ended(5)).toMatchObject({ workloads: { classifier: { running: three.bundle } } });
  });

  it('full: serves on, says so, loses neither bundle nor window, takes the new version when there is room', async () => {
    const [one] = await running(1);
    const filler = join(dir, 'filler');
    await writeFile(filler, Buffer.alloc(4 * 1024 * 1024)).catch(() => {});
    await fleet.stopBroker();
    await eventually(() => agent!.children.classifier);
    await new Promise((resolve) => { setTimeout(resolve, 2_500); });
    fleet.windows.length = 0;
    await fleet.startBroker();
    const two = fleet.publish(2);
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, ...soon } }, window);
    expect(await fleet.reportWhere(({ conditions }) => conditions.includes('DISK_FULL'))).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: one.bundle } } });
    await serves(one.bundle);
    // Those of the time without a broker, too.
    const seqs = () => fleet.windows.map(({ seq }) => seq).sort((a, b) => a - b);
    await eventually(() => seqs().length >= 4);
    expect(seqs()).toEqual(Array.from({ length: seqs().length }, (_, at) => seqs()[0]! + at));
    await rm(filler);
    expect(await ended(2)).toMatchObject({ workloads: { classifier: { running: two.bundle, execution: { state: 'SUCCEEDED' } } } });
    await fleet.reportWhere(({ health, observedRevision }) => health === 'HEALTHY' && observedRevision === 2);
    expect((await readdir(dir)).filter((name) => name.startsWith('state.json.'))).toEqual([]);
  });
});

describe('files that rot', () => {
  const damage = async (path: string) => {
    const bytes = await readFile(path);
    bytes[bytes.length - 100]! ^= 0xff;
    await writeFile(path, bytes);
  };

  it('a model file is fetched again by itself, without a word from the fleet', async () => {
    const [one] = await running(1);
    await stop();
    const blob = join(dir, 'store/blobs', one.manifest.variants[0]!.file.digest);
    await damage(blob);
    await start();
    await fleet.reportWhere(({ conditions }) => conditions.includes('BUNDLE_DAMAGED'));
    await serves(one.bundle);
    expect(await fleet.reportWhere(({ session, health }) => session > 1 && health === 'HEALTHY')).toMatchObject({ workloads: { classifier: { running: one.bundle, execution: { revision: 1, state: 'SUCCEEDED' } } } });
    expect((await stat(blob)).size).toBe(one.manifest.variants[0]!.file.bytes);
  });

  it('the state is taken from its copy, the journal is set aside, and what ran runs on without a network', async () => {
    const [one, two] = await running(2);
    await fleet.command(device, { id: 'p1', kind: 'ping' });
    await eventually(() => fleet.results.length > 0);
    await stop();
    await writeFile(join(dir, 'state.json'), '{"schema":1,"sess');
    await writeFile(join(dir, 'journal/commands.json'), '\0\0\0\0');
    await fleet.stopBroker();
    await start();
    await eventually(() => agent!.children.classifier);
    expect(JSON.parse(await readFile(join(dir, 'state.json'), 'utf8'))).toMatchObject({ workloads: { classifier: { running: { bundle: two.bundle }, previous: { bundle: one.bundle } } } });
    await fleet.startBroker();
    // Its sessions go on above those that the fleet has seen.
    expect((await fleet.reportWhere(({ session }) => session > 1_000_000_000)).conditions).toEqual([]);
    expect((await readdir(dir)).concat(await readdir(join(dir, 'journal')))).toEqual(expect.arrayContaining(['state.json.damaged', 'commands.json.damaged']));
  });
});
