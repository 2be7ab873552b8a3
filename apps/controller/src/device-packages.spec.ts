import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DevicePackages, installLine, installScript } from './device-packages.ts';

let dir: string;
beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-packages-')); });
afterEach(() => rm(dir, { recursive: true, force: true }));

describe('packages for devices', () => {
  it('are the newest of their name and machine, by number and not by letter', async () => {
    for (const version of ['0.9.0', '0.10.0', '0.10.0~rc1', '0.2.11']) await writeFile(join(dir, `reef-agent_${version}_arm64.deb`), version);
    for (const stray of ['reef-agent_9.0.0_armhf.deb', 'reef-agent_9.0.0_arm64.deb.part', 'other_9.0.0_arm64.deb']) await writeFile(join(dir, stray), 'stray');
    const { file, bytes, content } = await new DevicePackages(dir).open('reef-agent', 'arm64');
    expect([file, bytes, await text(content)]).toEqual(['reef-agent_0.10.0_arm64.deb', 6, '0.10.0']);
    for (const [name, architecture] of [['reef-agent', 'amd64'], ['other', 'arm64'], ['../secret', 'arm64'], ['reef-agent', '../arm64']]) await expect(new DevicePackages(dir).open(name!, architecture!)).rejects.toMatchObject({ code: 'package.missing' });
  });

  it('are there when the agent and its runtime are, for one machine at least', async () => {
    const packages = new DevicePackages(dir);
    expect(await packages.any()).toBe(false);
    await writeFile(join(dir, 'reef-agent_1.0.0_arm64.deb'), '');
    await writeFile(join(dir, 'reef-runtime_24.0.0_amd64.deb'), '');
    expect(await packages.any()).toBe(false);
    await writeFile(join(dir, 'reef-runtime_24.0.0_arm64.deb'), '');
    expect(await packages.any()).toBe(true);
    expect(await new DevicePackages(join(dir, 'absent')).any()).toBe(false);
    expect(await new DevicePackages(undefined).any()).toBe(false);
  });

  it.skipIf(process.platform === 'win32')('come with a script that does nothing without a token, or when it was cut off on its way', async () => {
    const script = installScript('https://reef.example:8443/');
    const run = (input: string, ...args: string[]) => execa('sh', ['-s', '--', ...args], { input, reject: false, all: true });
    expect(await run(script)).toMatchObject({ exitCode: 1, all: expect.stringContaining('give the enrolment token') });
    expect(await run(script, 'reef1.a.b', '--what')).toMatchObject({ exitCode: 1, all: expect.stringContaining('unknown option --what') });
    for (const share of [0.3, 0.6, 0.9, 0.98]) {
      const { all } = await run(script.slice(0, Math.floor(script.length * share)), `reef1.${'s'.repeat(32)}.${'0'.repeat(32)}`);
      expect(all).not.toMatch(/fetching|gateway|token/);
    }
    expect(installScript("https://x'; rm -rf /; '")).not.toContain("x'");
    expect(installLine('https://reef.example:8443/', 'sha256//PIN=', 'reef1.s.f', 'cam-1')).toBe("curl -fsSLk --pinnedpubkey 'sha256//PIN=' https://reef.example:8443/install.sh | sudo sh -s -- reef1.s.f --id cam-1");
  });
});
