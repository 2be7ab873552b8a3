import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { buildFakeEdgeTpu, canBuildFakeEdgeTpu } from '../../../libs/inference/src/fake-edgetpu.fixture.ts';
import { joined, startAgent } from '../../../test/support/device.ts';
import { colourFrames, eventually, Fleet } from '../../../test/support/fleet.ts';
import { publishForTpu } from '../../../test/support/tpu-bundle.ts';
import type { Agent } from './agent.ts';
import { TpuHealth } from './tpu-health.ts';

const device = 'reef-t';
const window = { telemetryWindowS: 1 };
const usb = { type: 'usb' as const, path: '/sys/bus/usb/devices/1-1' };

describe.skipIf(!canBuildFakeEdgeTpu)('an agent with Edge TPUs that come, go and misbehave (needs gcc)', () => {
  const tpus = canBuildFakeEdgeTpu ? buildFakeEdgeTpu() : { library: '', plug: () => {}, remove: () => {} };
  afterAll(() => tpus.remove());

  let fleet: Fleet;
  let dir: string;
  let agent: Agent | undefined;
  beforeEach(async () => {
    tpus.plug();
    fleet = await Fleet.open();
    dir = await mkdtemp(join(tmpdir(), 'reef-tpu-'));
    await colourFrames(join(dir, 'frames'));
    await joined(fleet, dir, device);
  });
  afterEach(async () => {
    await agent?.stop();
    agent = undefined;
    await fleet.close();
    await rm(dir, { recursive: true, force: true });
  });

  async function start(env: Record<string, string> = {}, health = new TpuHealth()): Promise<Agent> {
    agent = await startAgent(dir, { FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '50', REEF_EDGETPU_LIBRARY: tpus.library, REEF_PROBE_MAX_S: '0.2', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off', ...env }, { health, aftercare: { tickMs: 200 } });
    return agent;
  }
  const onTpu = (bundle: string, policy: object = {}) => ({ bundle, variant: 'edgetpu-14', policy: { observeS: 0, ...policy } });
  const settled = (revision: number, workload = 'classifier') => fleet.reportWhere(({ workloads }) => workloads[workload]?.execution?.revision === revision && workloads[workload].execution.state !== 'IN_PROGRESS');
  const since = (count: number) => fleet.reports.slice(count);

  // Case 9 of the field: no Edge TPU at start, one later.
  it('starts without one, says so, waits with the activation and gets well without a restart', async () => {
    const { bundle } = publishForTpu(fleet, 1);
    const { deviceId } = await start();
    await fleet.want(device, 1, { classifier: onTpu(bundle, { cpuFallback: false }) }, window);
    const waiting = await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('NO_ACCELERATOR') && workloads.classifier?.execution?.step === 'install' && workloads.classifier.execution.state === 'QUEUED', 10_000);
    expect(waiting).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: null, execution: { state: 'QUEUED', failure: { code: 'no_accelerator' } } } } });
    await new Promise((resolve) => { setTimeout(resolve, 2_500); });
    // It has looked again meanwhile, and neither given up nor died over it.
    expect(fleet.reports.at(-1)).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { execution: { state: 'QUEUED', failure: { code: 'no_accelerator' } } } } });

    const before = fleet.reports.length;
    tpus.plug(usb);
    const well = await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.execution?.state === 'SUCCEEDED');
    expect(well).toMatchObject({ conditions: [], bootId: waiting.bootId, workloads: { classifier: { running: bundle, variant: 'edgetpu-14', backend: 'edgetpu' } } });
    expect(since(before).find(({ capabilities }) => capabilities)?.capabilities).toMatchObject({ edgetpuRuntime: 14, edgetpus: [usb] });
    const served = await eventually(() => fleet.windows.find(({ inferences }) => inferences > 0));
    expect(served).toMatchObject({ bundle, backend: 'edgetpu', errors: {} });
    expect(agent!.deviceId).toBe(deviceId);
  });

  it('serves from the CPU until one comes, marks every sample as such, then changes over', async () => {
    const { bundle } = publishForTpu(fleet, 1, { cpu: true });
    await start();
    await fleet.want(device, 1, { classifier: onTpu(bundle) }, window);
    expect(await settled(1)).toMatchObject({ health: 'DEGRADED', conditions: ['NO_ACCELERATOR'], workloads: { classifier: { variant: 'cpu-int8', backend: 'cpu', execution: { state: 'SUCCEEDED' } } } });
    await eventually(() => fleet.windows.filter(({ inferences }) => inferences > 0).length >= 2);
    expect(fleet.windows.every(({ backend, variant }) => backend === 'cpu' && variant === 'cpu-int8')).toBe(true);
    tpus.plug(usb);
    const well = await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.backend === 'edgetpu');
    expect(well.workloads.classifier).toMatchObject({ running: bundle, variant: 'edgetpu-14', execution: { revision: 1, state: 'SUCCEEDED' } });
    expect(await eventually(() => fleet.windows.find(({ backend }) => backend === 'edgetpu'))).toMatchObject({ variant: 'edgetpu-14' });
  });

  it('spreads over two, one process each; what was on one that is pulled out goes on beside the others', async () => {
    const other = { type: 'usb' as const, path: '/sys/bus/usb/devices/2-1' };
    tpus.plug(usb, other);
    const bundles = [1, 2, 3].map((version) => publishForTpu(fleet, version).bundle);
    await start();
    await fleet.want(device, 1, { a: onTpu(bundles[0]!), b: onTpu(bundles[1]!), c: onTpu(bundles[2]!, { device: other.path }) }, window);
    await settled(1, 'c');
    const spread = await fleet.reportWhere(({ workloads }) => ['a', 'b', 'c'].every((name) => workloads[name]?.device));
    expect(spread.workloads.c!.device).toBe(other.path);
    expect(spread.workloads.a!.device).not.toBe(spread.workloads.b!.device);
    const { a, b, c } = agent!.children;
    expect(new Set([a, b, c]).size).toBe(2);
    expect([a, b]).toContain(c);
    for (const name of ['a', 'b', 'c']) expect(await eventually(() => fleet.windows.find(({ workload, inferences }) => workload === name && inferences > 0))).toMatchObject({ errors: {}, backend: 'edgetpu' });

    tpus.plug(other);
    const together = await fleet.reportWhere(({ conditions, workloads }) => conditions.length === 0 && ['a', 'b', 'c'].every((name) => workloads[name]?.device === other.path));
    expect(together.workloads).toMatchObject({ a: { running: bundles[0] }, b: { running: bundles[1] }, c: { running: bundles[2] } });
    expect(new Set(Object.values(agent!.children)).size).toBe(1);
  });

  it('a new version on a busy Edge TPU is loaded beside the old one, which serves on; a bad one changes nothing', async () => {
    tpus.plug(usb);
    const [one, two] = [publishForTpu(fleet, 1), publishForTpu(fleet, 2)];
    await start();
    await fleet.want(device, 1, { classifier: onTpu(one.bundle) }, window);
    await settled(1);
    const child = await eventually(() => agent!.children.classifier);
    await fleet.want(device, 2, { classifier: onTpu(two.bundle) }, window);
    expect(await settled(2)).toMatchObject({ workloads: { classifier: { running: two.bundle, execution: { state: 'SUCCEEDED' } } } });
    expect(agent!.children.classifier).toBe(child);
    expect(await eventually(() => fleet.windows.find(({ bundle, inferences }) => bundle === two.bundle && inferences > 5))).toMatchObject({ errors: {} });
    expect(fleet.windows.filter(({ bundle }) => bundle === one.bundle).every(({ errors }) => Object.keys(errors).length === 0)).toBe(true);
  });

  it('kills what hangs, takes a device that hangs again and again out of use, resets it by policy and comes back', async () => {
    const authorized = join(dir, 'sys/bus/usb/devices/1-1/authorized');
    await mkdir(join(dir, 'sys/bus/usb/devices/1-1'), { recursive: true });
    for (const [file, text] of [['idVendor', '18d1'], ['idProduct', '9302'], ['authorized', '-']]) await writeFile(join(dir, 'sys/bus/usb/devices/1-1', file!), `${text}\n`);
    tpus.plug(usb);
    const { bundle } = publishForTpu(fleet, 1, { cpu: true });
    await start({ REEF_TPU_RESET: 'usb', REEF_SYSFS: join(dir, 'sys'), REEF_HANG_FLOOR_MS: '200', REEF_HANG_CEILING_MS: '400' });
    await fleet.want(device, 1, { classifier: onTpu(bundle) }, window);
    await settled(1);
    tpus.plug({ ...usb, mood: 'hang' });
    const ill = await fleet.reportWhere(({ conditions }) => conditions.includes('ACCELERATOR_FAILING'));
    expect(ill).toMatchObject({ health: 'DEGRADED' });
    tpus.plug(usb);
    await eventually(async () => (await readFile(authorized, 'utf8'))[0] === '1');
    expect(JSON.parse(await readFile(join(dir, 'tpu-resets.json'), 'utf8'))).toMatchObject([{ path: usb.path }]);
    const well = await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.device === usb.path);
    expect(well.workloads.classifier).toMatchObject({ running: bundle, variant: 'edgetpu-14' });
    await eventually(() => fleet.windows.some(({ errors }) => (errors['inference.hung'] ?? 0) > 0));
  });

  it('without a reset it serves from the CPU, and tries the Edge TPU again when its time is over', async () => {
    tpus.plug(usb);
    const { bundle } = publishForTpu(fleet, 1, { cpu: true });
    await start({}, new TpuHealth({ failures: 2, withinMs: 600_000, firstOutMs: 3_000, maxOutMs: 3_000 }));
    await fleet.want(device, 1, { classifier: onTpu(bundle) }, window);
    await settled(1);
    tpus.plug({ ...usb, mood: 'lost' });
    const ill = await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('ACCELERATOR_FAILING') && workloads.classifier?.backend === 'cpu');
    expect(ill.workloads.classifier).toMatchObject({ running: bundle, execution: { state: 'SUCCEEDED' } });
    tpus.plug(usb);
    await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.backend === 'edgetpu');
  });

  it('finds a model that goes wrong in service by its golden self-test, and goes back; without anything to go back to it says so', async () => {
    tpus.plug(usb);
    const [one, two] = [publishForTpu(fleet, 1), publishForTpu(fleet, 2)];
    await start({ REEF_GOLDEN_EVERY_S: '0.3' });
    for (const [revision, { bundle }] of [[1, one], [2, two]] as const) {
      await fleet.want(device, revision, { classifier: onTpu(bundle, { probationS: 100 }) }, window);
      await settled(revision);
    }
    tpus.plug({ ...usb, mood: 'wrong' });
    const back = await fleet.reportWhere(({ conditions }) => conditions.includes('PROBATION_FAILED'));
    expect(back.workloads.classifier).toMatchObject({ fault: { bundle: two.bundle, failure: { code: 'probation.golden_failed' } } });
    await fleet.reportWhere(({ workloads, conditions }) => workloads.classifier?.running === one.bundle && conditions.includes('GOLDEN_FAILED'));
    tpus.plug(usb);
    await fleet.reportWhere(({ workloads, conditions }) => workloads.classifier?.running === one.bundle && !conditions.includes('GOLDEN_FAILED') && conditions.includes('PROBATION_FAILED'));
  });
});
