import { appendFile, cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeDebs } from '../../deploy/agent/deb.ts';
import { Booted, canContain } from '../support/booted.ts';
import { eventually, Fleet } from '../support/fleet.ts';
import { hasTool } from '../support/host.ts';

const canBoot = ['dpkg-deb', 'debootstrap', 'systemd-nspawn', 'nsenter', 'script'].every(hasTool) && process.getuid?.() === 0 && process.arch === 'x64' && (await canContain());
const unit = 'reef-agent.service';

let dir: string;
let packages: string[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-service-'));
  if (canBoot) packages = await makeDebs(join(dir, 'debs'), ['amd64'], { level: 0 });
});
afterAll(() => rm(dir, { recursive: true, force: true }));

// The one before is the oldest that the registries still have; Mendel's is one older.
describe.skipIf(!canBoot).each([
  { suite: 'bookworm', more: ['ffmpeg'] }, { suite: 'bullseye', more: [] },
])('the service on a system that systemd runs: Debian $suite (needs debootstrap, systemd-nspawn, root, x86-64)', ({ suite, more }) => {
  const hasCamera = more.includes('ffmpeg');
  let fleet: Fleet;
  let device: Booted;

  beforeAll(async () => {
    const root = join(dir, suite);
    await execa('debootstrap', ['--variant=minbase', `--include=${['adduser', 'systemd', 'systemd-sysv', 'dbus', 'procps', ...more].join()}`, suite, root]);
    await appendFile(join(root, 'etc/hosts'), '127.0.0.1 localhost\n');
    for (const path of packages) await cp(path, join(root, 'root', basename(path)));
    // As shipped but for time: nobody waits a minute for a starved watchdog here, and a test's disk may be nearly full.
    await mkdir(join(root, 'etc/systemd/system', `${unit}.d`), { recursive: true });
    const camera = hasCamera ? ' "REEF_CAMERA=ffmpeg:lavfi:testsrc=size=320x240:rate=10" FRAMES_FPS=10' : '';
    await writeFile(join(root, 'etc/systemd/system', `${unit}.d`, 'test.conf'), `[Service]\nWatchdogSec=6\nEnvironment=REEF_DISK_RESERVE=0${camera}\n`);
    fleet = await Fleet.open();
    device = await Booted.start(root);
  }, 900_000);
  afterAll(async () => {
    await device?.stop();
    await fleet?.close();
  });

  const state = () => device.unit(unit, 'ActiveState', 'SubState', 'MainPID', 'NRestarts', 'Result');
  const active = async () => (await eventually(async () => { const now = await state(); return now.ActiveState === 'active' && now.SubState === 'running' ? now : undefined; }, 60_000, () => 'the service does not run'));
  /** Of the agent itself, below its launcher. */
  const agentPid = async () => Number(`${(await device.run(['pgrep', '--full', '^/usr/lib/reef-runtime/bin/node .*main.js run'])).stdout}`.split('\n')[0]);
  const facts = async (pid: number) => Object.fromEntries([...`${(await device.run(['cat', `/proc/${pid}/status`])).stdout}`.matchAll(/^(\w+):\s+(.*)$/gm)].map(([, name, value]) => [name!, value!]));
  /** Sees the disk as the service does, and is root. */
  const besideService = async (script: string) => device.run(['nsenter', '--target', `${await agentPid()}`, '--mount', '--', 'sh', '-c', script], false);

  it('waits for an identity, and starts with it', async () => {
    await device.run(['sh', '-c', 'dpkg -i /root/*.deb']);
    expect(await device.unit(unit, 'ActiveState', 'ConditionResult', 'UnitFileState', 'FragmentPath')).toEqual({ ActiveState: 'inactive', ConditionResult: 'no', UnitFileState: 'enabled', FragmentPath: `/lib/systemd/system/${unit}` });
    await device.run(['reef-agent', 'enrol', '--gateway', fleet.gatewayUrl, '--token', fleet.token, '--id', 'reef-s']);
    await active();
  });

  it('runs a model with all its doors shut', async () => {
    const one = fleet.publish(1);
    await fleet.want('reef-s', 1, { w: { bundle: one.bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await fleet.reportWhere(({ workloads }) => workloads.w?.execution?.state === 'SUCCEEDED', 120_000);
    const [agent, first] = [await facts(await agentPid()), await facts(1)];
    expect(agent).toMatchObject({ NoNewPrivs: '1', CapEff: '0'.repeat(16), CapBnd: '0'.repeat(16), CapAmb: '0'.repeat(16) });
    // The container has filters of its own, which the first process is under as well.
    expect(Number(agent.Seccomp_filters)).toBeGreaterThan(Number(first.Seccomp_filters));
    for (const path of ['/etc/reef/x', '/usr/lib/reef-agent/x', '/var/log/x']) expect((await besideService(`touch ${path}`)).all, path).toMatch(/Read-only file system/);
    expect((await besideService('ls -A /root /home')).stdout).toBe('/home:\n\n/root:');
    expect((await besideService('touch /var/lib/reef/x && rm /var/lib/reef/x')).exitCode).toBe(0);
    expect(await device.journal(unit)).not.toMatch(/EPERM|EACCES|EROFS|not permitted/);
  });

  it.runIf(hasCamera)('sees through a camera, whose program is behind the same doors', async () => {
    expect(await eventually(() => fleet.windows.find(({ inferences }) => inferences > 3), 60_000)).toMatchObject({ workload: 'w', errors: {} });
    const seen = `${(await device.run(['ps', '-o', 'user=,comm=', '-e'])).stdout}`;
    expect(seen).toMatch(/^reef\s+ffmpeg$/m);
  });

  it('comes back when it is killed, and when it hangs', async () => {
    const reportsOf = () => new Set(fleet.reports.map(({ bootId }) => bootId)).size;
    const before = reportsOf();
    await device.run(['kill', '-9', (await active()).MainPID!]);
    await eventually(() => reportsOf() > before, 60_000, () => 'nothing is heard after a kill');
    expect(Number((await active()).NRestarts)).toBe(1);

    // It does not end by itself: the watchdog starves.
    await device.run(['kill', '-STOP', `${await agentPid()}`]);
    await eventually(async () => Number((await state()).NRestarts) === 2, 60_000, () => 'the watchdog lets it hang');
    await eventually(() => reportsOf() > before + 1, 60_000, () => 'nothing is heard after a hang');
    expect(await device.journal(unit)).toMatch(/[Ww]atchdog timeout/);
    expect(await fleet.reportWhere(({ workloads }) => workloads.w?.running !== null)).toMatchObject({ workloads: { w: { running: expect.any(String) } } });
  }, 180_000);

  it('stops in order, and leaves nothing after a purge while it runs', async () => {
    await device.run(['systemctl', 'restart', unit]);
    await active();
    expect((await state()).Result).toBe('success');
    await device.run(['dpkg', '--purge', 'reef-agent', 'reef-images', 'reef-runtime']);
    expect(await device.unit(unit, 'LoadState', 'ActiveState')).toEqual({ LoadState: 'not-found', ActiveState: 'inactive' });
    expect((await device.run(['pgrep', '--uid', 'reef'], false)).exitCode).not.toBe(0);
    expect((await device.run(['sh', '-c', 'ls -d /var/lib/reef /etc/reef /usr/lib/reef-agent /usr/lib/reef-runtime /etc/systemd/system/multi-user.target.wants/reef-agent.service'], false)).stdout).toBe('');
    expect((await device.run(['id', 'reef'], false)).exitCode).not.toBe(0);
  });
});
