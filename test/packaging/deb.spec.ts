import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import getPort from 'get-port';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adminToken, openHarness } from '../../apps/controller/src/harness.fixture.ts';
import { makeDebs } from '../../deploy/agent/deb.ts';
import { archiveOf, makeTrees } from '../../deploy/agent/tree.ts';
import { eventually, Fleet } from '../support/fleet.ts';
import { hasTool } from '../support/host.ts';

const canPackage = hasTool('dpkg-deb');
const canInstall = canPackage && hasTool('debootstrap') && process.getuid?.() === 0 && process.arch === 'x64';
let dir: string;
let packages: string[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-debs-'));
  if (!canPackage) return;
  // The arm64 runtime has the shape of the other one, and packing 120 MB takes its time: made by `npm run package:deb` only.
  packages = [...await makeDebs(join(dir, 'a'), ['amd64'], { level: 0 }), ...await makeDebs(join(dir, 'a'), ['arm64'], { level: 0, only: ['reef-agent', 'reef-images'] })];
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const deb = (name: string, architecture = 'amd64') => packages.find((path) => basename(path).startsWith(`${name}_`) && path.endsWith(`_${architecture}.deb`))!;
const sha256 = async (path: string) => createHash('sha256').update(await readFile(path)).digest('hex');

describe.skipIf(!canPackage)('Debian packages (need dpkg-deb)', () => {
  it('are the same byte for byte at every run', async () => {
    for (const file of await makeDebs(join(dir, 'b'), ['arm64'], { level: 0, only: ['reef-agent', 'reef-images'] })) expect(await sha256(file)).toBe(await sha256(join(dir, 'a', basename(file))));
  });

  it.each(['amd64', 'arm64'])('declare the C library that their binaries want (%s)', async (architecture) => {
    for (const name of ['reef-agent', 'reef-images', 'reef-runtime'].filter((one) => deb(one, architecture))) {
      const root = join(dir, 'x', architecture, name);
      await execa('dpkg-deb', ['-x', deb(name, architecture), await mkdir(root, { recursive: true }).then(() => root)]);
      const declared = /libc6 \(>= 2\.(\d+)\)/.exec((await execa('dpkg-deb', ['-f', deb(name, architecture), 'Depends'])).stdout)![1];
      const binaries = (await readdir(root, { withFileTypes: true, recursive: true })).filter((entry) => entry.isFile() && /(\.so[.\d]*|\.node|\/bin\/node|^node)$/.test(entry.name));
      expect(binaries.length).toBeGreaterThan(0);
      for (const entry of binaries) {
        for (const [, minor] of (await readFile(join(entry.parentPath, entry.name))).toString('latin1').matchAll(/\0GLIBC_2\.(\d+)/g)) expect(Number(minor), `${entry.name} of ${name} wants GLIBC_2.${minor}`).toBeLessThanOrEqual(Number(declared));
      }
    }
  }, 120_000);

  it.skipIf(!hasTool('lintian'))('have no errors for lintian (needs lintian)', async () => {
    // The runtime is 120 MB that nobody here has built; its package has the same shape.
    const { stdout, exitCode } = await execa('lintian', ['--allow-root', '--fail-on', 'error', '--tag-display-limit', '0', deb('reef-agent'), deb('reef-agent', 'arm64'), deb('reef-images')], { reject: false });
    expect(stdout.split('\n').filter((line) => line.startsWith('E:'))).toEqual([]);
    expect(exitCode).toBe(0);
  }, 600_000);

  it.skipIf(!hasTool('systemd-analyze'))('bring a unit that systemd accepts and finds well shut (needs systemd-analyze)', async () => {
    const root = join(dir, 'unit');
    await mkdir(root);
    await execa('dpkg-deb', ['-x', deb('reef-agent'), root]);
    const { all } = await execa('systemd-analyze', [`--root=${root}`, 'verify', 'reef-agent.service'], { all: true, reject: false });
    // The folder holds nothing but our package: not the targets of the system, and not its shell.
    expect(all.split('\n').filter((line) => /reef-agent/.test(line) && !/Unit .*\.(target|slice|socket)|not found/.test(line))).toEqual([]);
    const security = await execa('systemd-analyze', ['security', '--offline=true', '--threshold=25', join(root, 'lib/systemd/system/reef-agent.service')], { reject: false });
    expect(security.exitCode, security.stdout.split('\n').at(-1)).toBe(0);
  });
});

describe.skipIf(!canInstall)('a device that gets the packages (needs debootstrap, root, x86-64)', () => {
  let chroot: string;
  let fleet: Fleet;

  beforeAll(async () => {
    chroot = join(dir, 'chroot');
    await execa('debootstrap', ['--variant=minbase', '--include=adduser,curl', 'bookworm', chroot]);
    await appendFile(join(chroot, 'etc/hosts'), '127.0.0.1 localhost\n');
    for (const name of ['reef-runtime', 'reef-agent', 'reef-images']) await cp(deb(name), join(chroot, 'root', basename(deb(name))));
    fleet = await Fleet.open();
  }, 900_000);
  afterAll(() => fleet?.close());

  const inside = (...command: string[]) => execa('chroot', [chroot, ...command], { all: true, env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }, extendEnv: false });
  const packagesIn = async () => (await readdir(join(chroot, 'root'))).filter((name) => name.endsWith('.deb')).map((name) => `/root/${name}`);
  /** Every path, but what dpkg itself writes about having done something, and /run, which no boot survives. */
  const files = async () => (await inside('find', '/', '-xdev', '-not', '-path', '/var/lib/dpkg/*', '-not', '-path', '/var/log/*', '-not', '-path', '/var/cache/*', '-not', '-path', '/run/*', '-not', '-name', '*-', '-printf', '%p %y %U\n')).stdout.split('\n').sort();
  const accounts = async () => Promise.all(['passwd', 'group', 'shadow', 'gshadow'].map((name) => readFile(join(chroot, 'etc', name), 'utf8')));

  it('runs the agent, and has nothing of it left after a purge', async () => {
    const [before, known] = [await files(), await accounts()];
    await inside('dpkg', '-i', ...await packagesIn());
    expect((await inside('reef-agent', '--version')).stdout).toMatch(/^\d+\.\d+\.\d+$/);
    expect((await inside('id', '-nG', 'reef')).stdout.split(' ')).toEqual(expect.arrayContaining(['reef', 'plugdev', 'video']));
    await expect(inside('reef-agent', 'run')).rejects.toThrow(/identity\.missing: .*reef-agent enrol/);

    // As root, as an installer would; what is written belongs to the service.
    await inside('reef-agent', 'enrol', '--gateway', fleet.gatewayUrl, '--token', fleet.token, '--id', 'reef-d');
    expect((await inside('stat', '-c', '%U %a', '/var/lib/reef/identity/identity.json')).stdout).toBe('reef 600');

    const notified = join(chroot, 'var/lib/reef/notify');
    const listener = spawn('python3', ['-c', `import socket,sys,os\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nos.chmod(sys.argv[1],0o777)\nprint("open",flush=True)\nwhile True: print(s.recv(4096).decode(),flush=True)`, notified], { stdio: ['ignore', 'pipe', 'inherit'] });
    const heard: string[] = [];
    listener.stdout.on('data', (chunk: Buffer) => heard.push(...chunk.toString().split('\n').filter(Boolean)));
    await once(listener.stdout, 'data');
    const one = fleet.publish(1);
    await fleet.want('reef-d', 1, { w: { bundle: one.bundle, policy: { observeS: 0 } } });
    const service = spawn('chroot', [chroot, 'runuser', '-u', 'reef', '--', '/usr/lib/reef-agent/launcher', 'run'], { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', NOTIFY_SOCKET: '/var/lib/reef/notify', WATCHDOG_USEC: '3000000', LOG_LEVEL: 'warn', REEF_DISK_RESERVE: '0' }, stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await fleet.reportWhere(({ workloads }) => workloads.w?.execution?.state === 'SUCCEEDED', 120_000);
      // Through libsystemd, as systemd would hear it.
      await eventually(() => heard.includes('READY=1') && heard.filter((word) => word === 'WATCHDOG=1').length > 1);

      // An agent that does not turn is not fed.
      const agent = Number((await execa('pgrep', ['-f', '^/usr/lib/reef-runtime/bin/node .*main.js run'])).stdout.split('\n')[0]);
      process.kill(agent, 'SIGSTOP');
      await new Promise((resolve) => { setTimeout(resolve, 1_500); });
      const fed = heard.length;
      await new Promise((resolve) => { setTimeout(resolve, 4_000); });
      expect(heard.length).toBe(fed);
      process.kill(agent, 'SIGCONT');
    } finally {
      service.kill('SIGTERM');
      await once(service, 'exit');
      listener.kill('SIGKILL');
    }
    expect(heard).toContain('STOPPING=1');

    await inside('dpkg', '--purge', 'reef-agent', 'reef-images', 'reef-runtime');
    expect(await files()).toEqual(before);
    expect(await accounts()).toEqual(known);
  }, 600_000);

  it('lets a newer package win over what updates have brought, and keeps edited settings', async () => {
    await inside('dpkg', '-i', ...await packagesIn());
    await writeFile(join(chroot, 'etc/reef/agent.env'), 'LOG_LEVEL=debug\n');
    const releases = join(chroot, 'var/lib/reef/agent/releases/some/lib/agent');
    await mkdir(releases, { recursive: true });
    await writeFile(join(releases, 'main.js'), 'console.log("an update")\n');
    await inside('ln', '-s', 'releases/some', '/var/lib/reef/agent/current');
    expect((await inside('reef-agent', '--version')).stdout).toBe('an update');

    const [newer] = await makeDebs(join(dir, 'newer'), ['amd64'], { level: 0, only: ['reef-agent'], version: '99.0.0' });
    await cp(newer!, join(chroot, 'root/newer'));
    await inside('dpkg', '--force-confold', '-i', '/root/newer');
    expect((await inside('reef-agent', '--version')).stdout).toBe('99.0.0');
    expect(await readFile(join(chroot, 'etc/reef/agent.env'), 'utf8')).toBe('LOG_LEVEL=debug\n');
    await inside('dpkg', '--remove', 'reef-agent');
    expect(existsSync(join(chroot, 'var/lib/reef'))).toBe(true);
    await inside('dpkg', '--purge', 'reef-agent', 'reef-images', 'reef-runtime');
    expect(existsSync(join(chroot, 'var/lib/reef')) || existsSync(join(chroot, 'etc/reef'))).toBe(false);
  }, 300_000);

  it('comes in by one line from the controller, and gets a new release of its agent by a rollout', async () => {
    const gatewayPort = await getPort({ host: '127.0.0.1' });
    const world = await openHarness({ GATEWAY_PORT: `${gatewayPort}`, PUBLIC_GATEWAY_URL: `https://localhost:${gatewayPort}`, AGENT_PACKAGES_DIR: join(dir, 'a') });
    let service: ReturnType<typeof spawn> | undefined;
    try {
      const { body: { install } } = await world.call('POST', '/api/v1/enrolment-tokens', { deviceId: 'reef-line' });
      expect(install).toMatch(new RegExp(`^curl -fsSLk --pinnedpubkey 'sha256//[A-Za-z0-9+/]{43}=' https://localhost:${gatewayPort}/install.sh \\| sudo sh -s -- reef1\\.`));
      const line = install.replace('sudo ', '');
      // Another key at that address, and a token of another authority: neither gets anywhere.
      expect((await inside('sh', '-c', line.replace(/sha256\/\/.{8}/, 'sha256//AAAAAAAA'))).all).toContain('curl: (90)');
      await expect(inside('sh', '-c', line.replace(/[0-9a-f]{32}( --id|$)/, `${'0'.repeat(32)}$1`))).rejects.toThrow(/does not belong to the authority/);
      expect(existsSync(join(chroot, 'usr/bin/reef-agent'))).toBe(false);

      // No apt in the chroot's own lists is needed: the packages need nothing that is not there.
      expect((await inside('sh', '-c', line)).stdout).toContain('"enrolled":"now"');
      // A second run changes nothing.
      expect((await inside('sh', '-c', line)).stdout).toContain('"enrolled":"before"');
      service = spawn('chroot', [chroot, 'runuser', '-u', 'reef', '--', 'sh', '-c', 'while :; do /usr/lib/reef-agent/launcher run; sleep 1; done'], { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LOG_LEVEL: 'warn', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off' }, stdio: ['ignore', 'ignore', 'inherit'], detached: true });
      const device = async () => (await world.call('GET', '/api/v1/devices/reef-line')).body;
      await eventually(async () => (await device()).online && (await device()).capabilities?.release === 'factory', 60_000);

      await makeTrees(join(dir, 'next'), ['amd64'], '99.1.0');
      const upload = await fetch(`${world.url}/api/v1/uploads`, { method: 'POST', headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/octet-stream' }, body: new Uint8Array(await archiveOf(join(dir, 'next/amd64'))) });
      const { digest } = (await upload.json()) as { digest: string };
      const release = await world.call('POST', '/api/v1/agent-releases', { builds: [digest] });
      expect(release).toMatchObject({ status: 201, body: { ref: 'reef-agent@1', task: 'agent', state: 'READY' } });
      expect(await world.call('POST', '/api/v1/rollouts', { version: 'reef-agent@1', workload: 'classifier' })).toMatchObject({ status: 400, body: { code: 'rollout.workload_reserved' } });
      const rollout = await world.call('POST', '/api/v1/rollouts', { version: 'reef-agent@1', workload: 'reef-agent', soakS: 1, policy: { observeS: 1 } });
      expect(rollout.status, JSON.stringify(rollout.body)).toBe(201);
      const state = async () => (await world.call('GET', `/api/v1/rollouts/${rollout.body.id}`)).body;
      await eventually(async () => (await state()).state !== 'RUNNING', 180_000, () => 'the rollout does not end');
      expect(await state()).toMatchObject({ state: 'SUCCEEDED' });
      expect((await device()).capabilities).toMatchObject({ agentVersion: '99.1.0', release: release.body.bundleDigest });

      // Taken back by a person: the device runs what its package brought.
      await world.call('POST', `/api/v1/rollouts/${rollout.body.id}/rollback`);
      await eventually(async () => (await device()).capabilities.release === 'factory' && (await state()).state === 'ROLLED_BACK', 120_000, () => 'the rollback does not end');
    } finally {
      if (service?.pid) {
        const gone = once(service, 'exit');
        process.kill(-service.pid, 'SIGKILL');
        await gone;
      }
      await world.close();
      await inside('dpkg', '--purge', 'reef-agent', 'reef-images', 'reef-runtime').catch(() => {});
    }
  }, 600_000);
});
