import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { InvokeDeadline } from './deadline.ts';
import { mayReset, TpuHealth } from './tpu-health.ts';
import { resetUsb } from './usb-reset.ts';

const minute = 60_000;
const limits = { failures: 3, withinMs: 10 * minute, firstOutMs: minute, maxOutMs: 60 * minute };

describe('health of an Edge TPU', () => {
  it('three failures in ten minutes take it out, each offence for longer', () => {
    const health = new TpuHealth(limits);
    expect([0, 1, 2].map((at) => health.failed('a', at))).toEqual([false, false, true]);
    expect([health.out('a', 3), health.out('b', 3), health.out('a', minute + 3)]).toEqual([true, false, false]);
    // One more try, not three.
    expect(health.failed('a', minute + 10)).toBe(true);
    expect([health.out('a', 2 * minute), health.out('a', 3 * minute + 11)]).toEqual([true, false]);
    expect(health.nextTryMs(2 * minute)).toBe(3 * minute + 10);
    // Doubted until it has held for long.
    expect([health.doubted('a', 4 * minute), health.doubted('b', 4 * minute), health.doubted('a', 200 * minute)]).toEqual([true, false, false]);
  });

  it('failures far apart are forgiven', () => {
    const health = new TpuHealth(limits);
    for (let at = 0; at < 50; at += 1) expect(health.failed('a', at * 6 * minute)).toBe(false);
  });

  it('is never out for ever', () => {
    fc.assert(fc.property(fc.array(fc.nat(20 * minute), { minLength: 1, maxLength: 60 }), (gaps) => {
      const health = new TpuHealth(limits);
      let now = 0;
      for (const gap of gaps) health.failed('a', (now += gap));
      expect(health.out('a', now + limits.maxOutMs)).toBe(false);
    }));
  });
});

describe('reset', () => {
  it('is given so often an hour, whichever way the clock runs', () => {
    expect(mayReset([], 0, 2)).toBe(true);
    expect(mayReset([0, minute], 2 * minute, 2)).toBe(false);
    expect(mayReset([0, minute], 62 * minute, 2)).toBe(true);
    // Noted in 2026, now it is 1970.
    expect(mayReset([1.8e12, 1.8e12], 5, 2)).toBe(false);
    expect(mayReset([], 0, 0)).toBe(false);
  });

  describe('over sysfs', () => {
    let sysfs: string;
    const plugIn = async (name: string, vendor: string, product: string) => {
      const folder = join(sysfs, 'devices/pci0000:00/usb2', name);
      await mkdir(folder, { recursive: true });
      await mkdir(join(sysfs, 'bus/usb/devices'), { recursive: true });
      await Promise.all([['idVendor', vendor], ['idProduct', product], ['authorized', '1']].map(([file, text]) => writeFile(join(folder, file!), `${text}\n`)));
      // As the kernel has it: the bus folder holds links.
      await symlink(folder, join(sysfs, 'bus/usb/devices', name));
      return join(folder, 'authorized');
    };
    beforeEach(async () => { sysfs = await mkdtemp(join(tmpdir(), 'reef-sysfs-')); });
    afterEach(() => rm(sysfs, { recursive: true, force: true }));

    it.each([['before its firmware', '1a6e', '089a'], ['after it', '18d1', '9302']])('takes a Coral accelerator off the bus and on again, %s', async (_, vendor, product) => {
      const authorized = await plugIn('2-1.4', vendor, product);
      const done = resetUsb('/sys/bus/usb/devices/2-1.4', { sysfs, pauseMs: 60 });
      await new Promise((resolve) => { setTimeout(resolve, 30); });
      expect((await readFile(authorized, 'utf8'))[0]).toBe('0');
      await done;
      expect((await readFile(authorized, 'utf8'))[0]).toBe('1');
    });

    it('leaves everything else alone', async () => {
      const keyboard = await plugIn('2-2', '046d', 'c31c');
      for (const path of ['/sys/bus/usb/devices/2-2', '/sys/bus/usb/devices/2-9', '/sys/bus/usb/devices/usb2', '/sys/bus/usb/devices/../../../etc', '/dev/apex_0', '/sys/bus/usb/devices/2-2:1.0']) {
        await expect(resetUsb(path, { sysfs, pauseMs: 1 })).rejects.toMatchObject({ code: 'tpu.not_resettable' });
      }
      expect(await readFile(keyboard, 'utf8')).toBe('1\n');
    });

    it('makes no file where the kernel has none', async () => {
      const authorized = await plugIn('2-1', '18d1', '9302');
      await rm(authorized);
      await expect(resetUsb('/sys/bus/usb/devices/2-1', { sysfs, pauseMs: 1 })).rejects.toMatchObject({ code: 'tpu.reset_failed' });
    });
  });
});

describe('deadline of an invoke', () => {
  it('is the ceiling until enough is known, then its own p99 times twenty, within floor and ceiling', () => {
    const deadline = new InvokeDeadline({ floorMs: 100, ceilingMs: 10_000 });
    for (let at = 0; at < 199; at += 1) deadline.note(20_000);
    expect(deadline.ms).toBe(10_000);
    deadline.note(20_000);
    expect(deadline.ms).toBeGreaterThan(380);
    expect(deadline.ms).toBeLessThan(420);
    const fast = new InvokeDeadline({ floorMs: 100, ceilingMs: 10_000 });
    for (let at = 0; at < 300; at += 1) fast.note(50);
    expect(fast.ms).toBe(100);
  });

  it('follows a machine that has become slower', () => {
    const deadline = new InvokeDeadline({ floorMs: 10, ceilingMs: 10_000 });
    for (let at = 0; at < 2_000; at += 1) deadline.note(1_000);
    const before = deadline.ms;
    for (let at = 0; at < 300; at += 1) deadline.note(50_000);
    expect(deadline.ms).toBeGreaterThan(10 * before);
  });
});
