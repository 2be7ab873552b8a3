import { mkdtemp, rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLogger } from '@reefkeeper/platform/logger';
import { buildFakeEdgeTpu, canBuildFakeEdgeTpu } from '../../../libs/inference/src/fake-edgetpu.fixture.ts';
import { colourFrames, eventually, Fleet } from '../../../test/support/fleet.ts';
import { publishForTpu } from '../../../test/support/tpu-bundle.ts';
import { Agent } from './agent.ts';
import { agentSettings } from './config.ts';
import { enrol } from './identity.ts';

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
    await enrol(dir, { gateway: fleet.gatewayUrl, token: fleet.token, id: device, hostname: hostname() });
  });
  afterEach(async () => {
    await agent?.stop();
    agent = undefined;
    await fleet.close();
    await rm(dir, { recursive: true, force: true });
  });

  async function start(env: Record<string, string> = {}): Promise<Agent> {
    const quick = { firstDelayMs: 10, maxDelayMs: 50 };
    const settings = agentSettings({ REEF_AGENT_DIR: dir, FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '50', REEF_EDGETPU_LIBRARY: tpus.library, REEF_PROBE_MAX_S: '0.2', REEF_DISK_RESERVE: '0', ...env });
    agent = await Agent.start(settings, openLogger('agent', process.env.AGENT_LOG ?? 'silent'), { download: { tries: 3, ...quick }, link: quick, serving: quick });
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
    const waiting = await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('NO_ACCELERATOR') && workloads.classifier?.execution?.step === 'install', 10_000);
    expect(waiting).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: null, execution: { state: 'IN_PROGRESS', failure: null } } } });
    await new Promise((resolve) => { setTimeout(resolve, 2_500); });
    // It has looked again meanwhile, and neither given up nor died over it.
    expect(fleet.reports.at(-1)).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { execution: { state: 'IN_PROGRESS' } } } });

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
});
