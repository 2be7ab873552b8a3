import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { authorityOfAllTimes, leaf } from '../../../test/support/certificates.ts';
import { joined, startAgent } from '../../../test/support/device.ts';
import { Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';
import { DeviceClock } from './clock.ts';
import { Disk } from './disk.ts';
import { distrust } from './trust.ts';

const day = 86_400_000;

describe('the clock of a device', () => {
  let dir: string;
  beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-clock-')); });
  afterEach(() => rm(dir, { recursive: true, force: true }));
  const at = (iso: string) => Date.parse(iso);

  it('in 1970 is wrong from the start; what the fleet told is where it goes on', async () => {
    let [wall, mono] = [0, 0];
    const clock = await DeviceClock.open(dir, new Disk(dir), { wallMs: () => wall, monotonicMs: () => mono });
    expect([clock.wrong, clock.told]).toEqual([true, false]);
    clock.seen(at('2027-03-01T00:00:00Z'));
    mono += 5 * day;
    expect(clock.now().toISOString()).toBe('2027-03-06T00:00:00.000Z');
    // NTP has come.
    wall = at('2027-03-06T01:00:00Z');
    expect([clock.wrong, clock.now().getTime()]).toEqual([false, wall]);
    // It jumps by years, either way.
    for (const jump of ['2041-01-01T00:00:00Z', '2000-01-01T00:00:00Z']) {
      wall = at(jump);
      expect([clock.wrong, clock.now().toISOString()]).toEqual([true, '2027-03-06T00:00:00.000Z']);
    }
  });

  it('remembers over restarts that it cannot be earlier, and does not let an old answer take it back', async () => {
    const first = await DeviceClock.open(dir, new Disk(dir));
    const later = Date.now() + 400 * day;
    first.seen(later);
    first.seen(at('2026-02-01T00:00:00Z'));
    expect(first.now().getTime()).toBeGreaterThanOrEqual(later);
    await expect.poll(() => readFile(join(dir, 'clock.json'), 'utf8').catch(() => '')).toContain(String(later));
    expect((await DeviceClock.open(dir, new Disk(dir))).wrong).toBe(true);
    await writeFile(join(dir, 'clock.json'), '\0');
    expect((await DeviceClock.open(dir, new Disk(dir))).wrong).toBe(false);
  });
});

describe('trust at a time that is told', () => {
  let dir: string;
  let ca: string;
  const valid = { hosts: ['localhost', '127.0.0.1'], notBefore: new Date('2030-01-01'), notAfter: new Date('2031-01-01') };
  const within = Date.parse('2030-06-01');
  const certificate = async (options: Partial<Parameters<typeof leaf>[1]> = {}, from = dir) => new X509Certificate((await leaf(from, { ...valid, ...options })).certificate);
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-trust-'));
    ca = (await authorityOfAllTimes(dir)).certificatePem;
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it('takes what is right, by name and by address', async () => {
    expect(distrust(await certificate(), ca, 'localhost', within)).toBeUndefined();
    expect(distrust(await certificate(), ca, '127.0.0.1', within)).toBeUndefined();
  });

  it('refuses another host, another time, another purpose, another authority', async () => {
    expect(distrust(await certificate(), ca, 'elsewhere.example', within)).toMatch(/not for elsewhere/);
    for (const when of ['2029-12-31', '2031-01-02']) expect(distrust(await certificate(), ca, 'localhost', Date.parse(when))).toMatch(/not valid at/);
    expect(distrust(await certificate({ usage: '1.3.6.1.5.5.7.3.2' }), ca, 'localhost', within)).toMatch(/not a server/);
    const other = await mkdtemp(join(tmpdir(), 'reef-trust-'));
    await authorityOfAllTimes(other);
    expect(distrust(await certificate({}, other), ca, 'localhost', within)).toMatch(/authority/);
    expect(distrust(new X509Certificate(ca), ca, 'localhost', within)).toMatch(/not a server/);
    await rm(other, { recursive: true });
  });
});

describe('an agent whose clock is years off', () => {
  it.each([['behind', new Date(Date.now() + 3 * 365 * day)], ['ahead', new Date('2026-02-15')]])('(%s) enrols, connects, takes a version and says so', async (_, at) => {
    const fleet = await Fleet.open({ at });
    const dir = await mkdtemp(join(tmpdir(), 'reef-clock-'));
    let agent: Agent | undefined;
    try {
      await joined(fleet, dir, 'reef-c');
      agent = await startAgent(dir, { REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off' });
      const { bundle } = fleet.publish(1);
      await fleet.want('reef-c', 1, { classifier: { bundle, policy: { observeS: 0 } } });
      const done = await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.state === 'SUCCEEDED');
      expect(done).toMatchObject({ health: 'DEGRADED', conditions: ['CLOCK_WRONG'], workloads: { classifier: { running: bundle } } });
    } finally {
      await agent?.stop();
      await fleet.close();
      await rm(dir, { recursive: true, force: true });
    }
  });
});
