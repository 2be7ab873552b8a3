import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { colourLabels, coloursModel } from '../support/colours.ts';
import { colourFrames, eventually } from '../support/fleet.ts';
import { reef, RunningStack } from '../support/stack.ts';

// One fleet from first start to last stop, as its user sees it: through `reef` only, with real agents that really infer. The stories build on
// each other, in this order.
interface Device { id: string; online: boolean; reported: { workloads: Record<string, { running: string | null }> } | null }
interface Version { state: string; bundleDigest: string }
interface Rollout { id: string; state: string; stateReason: { code: string }; waves: { state: string; counts: Record<string, number>; verdicts: { gate: string; verdict: string; value: number | null }[] }[] }

const agents = 2;
/** Judged after seconds instead of minutes. */
const quick = ['--soak', '2', '--observe', '1', '--min-samples', '20', '--deadline', '120', '--wave', '1', '--wave', '100%'];
let made: string;
let stack: RunningStack;
let good: Version;

beforeAll(async () => {
  made = await mkdtemp(join(tmpdir(), 'reef-stack-'));
  await colourFrames(join(made, 'frames'));
  await writeFile(join(made, 'labels.txt'), colourLabels.join('\n'));
  await writeFile(join(made, 'good.tflite'), coloursModel({ mark: 'good' }));
  await writeFile(join(made, 'worse.tflite'), coloursModel({ mark: 'worse', wrong: true }));
  stack = await RunningStack.up({ agents, frames: join(made, 'frames') });
});
afterAll(async () => {
  await stack?.remove();
  await rm(made, { recursive: true, force: true });
});

const push = (file: string) => stack.json<Version>('model', 'push', join(made, file), '--name', 'colours', '--labels', join(made, 'labels.txt'), '--mean', '0', '--std', '255');
const devices = () => stack.json<Device[]>('device', 'ls');
const running = async (bundle: string) => (await devices()).filter((device) => device.online && device.reported?.workloads.w?.running === bundle).length;
/** Whole again: every device is there, answers commands, and the API does its work. */
const whole = async () => eventually(async () => {
  const said = await stack.reef('--json', 'device', 'ls', '--online');
  if (said.exitCode !== 0 || (said.json as Device[]).length !== agents) return false;
  return (await stack.reef('device', 'ping', stack.agent(1))).exitCode === 0;
}, 180_000, () => stack.output.slice(-20).join('\n'));

describe('a fleet from first start to last stop', () => {
  it('is up, with every device online and the credentials kept for their owner only', async () => {
    await whole();
    expect((await stat(join(stack.dir, 'credentials.json'))).mode & 0o777).toBe(0o600);
    expect(await stack.json('status')).toMatchObject({ devices: { all: agents, online: agents, degraded: 0 } });
    expect(stack.output.filter((line) => line.startsWith('  token')).length).toBe(1);
  });

  it('a second `reef up` on the same folder, or on the same ports, says so and harms nobody', async () => {
    const [port, gateway, mqtt] = stack.ports.map(String) as [string, string, string];
    const same = await reef(['--dir', stack.dir, 'up', '--port', port, '--gateway-port', gateway, '--mqtt-port', mqtt]);
    expect(same).toMatchObject({ exitCode: 5, stderr: expect.stringMatching(new RegExp(`Another \`reef up\` \\(process ${stack.pid}\\)[^]*code: up.running`)) as string });
    const other = await mkdtemp(join(tmpdir(), 'reef-second-'));
    const ports = await reef(['--dir', other, 'up', '--port', port]);
    expect(ports).toMatchObject({ exitCode: 5, stderr: expect.stringMatching(/is in use by process[^]*--port[^]*code: port.busy/) as string });
    await rm(other, { recursive: true });
    await whole();
  });

  it('a model becomes a version and reaches every device', async () => {
    good = await push('good.tflite');
    expect(good.state).toBe('READY');
    const rollout = await stack.reef('rollout', 'create', 'colours@1', '--workload', 'w', ...quick, '--watch');
    expect(rollout.stdout).toContain('SUCCEEDED');
    expect(rollout.exitCode).toBe(0);
    expect(await running(good.bundleDigest)).toBe(agents);
  });

  it('a worse version is brought back from the canary, and the watch exits with 1', async () => {
    expect((await push('worse.tflite')).state).toBe('READY');
    const rollout = await stack.reef('rollout', 'create', 'colours@2', '--workload', 'w', ...quick, '--watch');
    expect(rollout.stdout).toContain('ROLLED_BACK');
    expect(rollout.exitCode).toBe(1);
    const [last] = await stack.json<Rollout[]>('rollout', 'ls');
    expect(last).toMatchObject({ state: 'ROLLED_BACK', waves: [{ state: 'FAILED', counts: { SUCCEEDED: 1 } }, { state: 'SKIPPED' }] });
    expect(last!.waves[0]!.verdicts.find(({ gate }) => gate === 'accuracy')).toMatchObject({ verdict: 'FAILED', value: 0 });
    await eventually(async () => (await running(good.bundleDigest)) === agents, 60_000);
  });

  it.each<[string, string[], number, RegExp]>([
    ['a version that is not there', ['rollout', 'create', 'colours@9', '-w', 'w'], 4, /colours@9/],
    ['a selector that cannot be read', ['device', 'ls', '-l', 'site in (a'], 2, /code: /],
    ['a selector that chooses nobody', ['rollout', 'create', 'colours@1', '-w', 'w', '-l', 'site=nowhere'], 5, /code: rollout/],
    ['a workload name the protocol does not allow', ['rollout', 'preview', 'colours@1', '-w', 'Big Name'], 2, /workload name/],
    ['a device that is not there', ['device', 'show', 'nobody'], 4, /nobody/],
    ['a job that is not there', ['job', 'show', '00000000-0000-4000-8000-000000000000'], 4, /code: job/],
    ['a model name out of bounds', ['model', 'push', 'LABELS', '--name', 'Big Name'], 2, /code: request.invalid/],
    ['a file that is no model', ['model', 'push', 'LABELS', '--name', 'text'], 2, /was not built/],
    ['a token that nobody gave out', ['--token', 'reef_nobody', 'device', 'ls'], 3, /code: /],
  ])('%s is refused with a reason', async (_name, args, exit, says) => {
    const said = await stack.reef(...args.map((arg) => (arg === 'LABELS' ? join(made, 'labels.txt') : arg)));
    expect(said.stderr).toMatch(says);
    expect(said.exitCode).toBe(exit);
  });

  // What runs elsewhere is not ours to kill.
  const embedded = [...(process.env.DATABASE_URL ? [] : ['postgres']), ...(process.env.MQTT_URL ? [] : ['broker'])];
  it.each(['worker', 'controller', 'agent', ...embedded])('survives SIGKILL of: %s', async (which) => {
    const name = which === 'agent' ? stack.agent(1) : which;
    const before = await stack.kill(name);
    await eventually(async () => (await stack.pidOf(name).catch(() => before)) !== before, 60_000);
    await eventually(() => stack.output.some((line) => line.startsWith(`${name.padEnd(10)} ready`) && line.includes('restarted')), 180_000, () => stack.output.slice(-10).join('\n'));
    await whole();
    await eventually(async () => (await running(good.bundleDigest)) === agents, 120_000);
  });

  it('still converts and rolls out after all that', async () => {
    await writeFile(join(made, 'next.tflite'), coloursModel({ mark: 'next' }));
    const next = await push('next.tflite');
    expect((await stack.reef('rollout', 'create', 'colours', '--workload', 'w', ...quick, '--watch')).exitCode).toBe(0);
    expect(await running(next.bundleDigest)).toBe(agents);
    good = next;
  });

  it('its supervisor killed, nothing of it stays behind, and the next start goes on where it was', async () => {
    const names = ['controller', 'worker', stack.agent(1), stack.agent(2)];
    const pids = await Promise.all(names.map((name) => stack.pidOf(name)));
    await stack.signal('SIGKILL');
    await eventually(() => pids.every((pid) => !existsSync(`/proc/${pid}`)), 30_000, () => `still there: ${names.filter((_, index) => existsSync(`/proc/${pids[index]}`)).join(', ')}`);
    await stack.again();
    await whole();
    expect(await running(good.bundleDigest)).toBe(agents);
    expect(stack.output.filter((line) => line.startsWith('  token'))).toEqual([]);
  });

  it('stops in order, with exit code 0, and leaves no process', async () => {
    const pids = await Promise.all(['controller', 'worker', stack.agent(1), ...embedded].map((name) => stack.pidOf(name)));
    expect(await stack.stop()).toBe(0);
    await eventually(() => pids.every((pid) => !existsSync(`/proc/${pid}`)), 10_000);
    expect(await readdir(join(stack.dir, 'run'))).toEqual([]);
    const order = (name: string) => stack.output.findLastIndex((line) => line.startsWith(`${name.padEnd(10)} stopped`));
    expect(order(stack.agent(1))).toBeLessThan(order('postgres'));
    expect(order('controller')).toBeLessThan(order('postgres'));
  });
});
