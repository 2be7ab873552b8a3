import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { edgeTpuTemperature, hostTemperature } from './temperature.ts';

let sysfs: string;
const put = async (file: string, text: string) => {
  await mkdir(dirname(join(sysfs, file)), { recursive: true });
  await writeFile(join(sysfs, file), text);
};
beforeEach(async () => { sysfs = await mkdtemp(join(tmpdir(), 'reef-sysfs-')); });
afterEach(() => rm(sysfs, { recursive: true, force: true }));

describe('temperature', () => {
  it('each Edge TPU on PCIe has its own; on USB nobody measures', async () => {
    await put('class/apex/apex_0/temp', '51250\n');
    await put('class/apex/apex_1/temp', '64800\n');
    expect(await edgeTpuTemperature({ type: 'pci', path: '/dev/apex_0' }, sysfs)).toBe(51.25);
    expect(await edgeTpuTemperature({ type: 'pci', path: '/dev/apex_1' }, sysfs)).toBe(64.8);
    expect(await edgeTpuTemperature({ type: 'pci', path: '/dev/apex_2' }, sysfs)).toBeNull();
    expect(await edgeTpuTemperature({ type: 'usb', path: '/sys/bus/usb/devices/1-1' }, sysfs)).toBeNull();
  });

  it.each([['nothing', ''], ['zero', '0\n'], ['words', 'N/A\n'], ['nonsense', '999999999\n'], ['absolute zero', '-273150\n']])('a sensor that says %s says nothing', async (_, text) => {
    await put('class/apex/apex_0/temp', text);
    await put('class/thermal/thermal_zone0/temp', text);
    expect(await edgeTpuTemperature({ type: 'pci', path: '/dev/apex_0' }, sysfs)).toBeNull();
    expect(await hostTemperature(sysfs)).toBeNull();
  });

  it('the board\'s is the processor\'s, wherever that zone is', async () => {
    expect(await hostTemperature(sysfs)).toBeNull();
    await put('class/thermal/thermal_zone0/temp', '27800\n');
    await put('class/thermal/thermal_zone0/type', 'acpitz\n');
    expect(await hostTemperature(sysfs)).toBe(27.8);
    await put('class/thermal/thermal_zone10/temp', '61000\n');
    await put('class/thermal/thermal_zone10/type', 'cpu-thermal\n');
    await put('class/thermal/thermal_zone2/temp', '0\n');
    await put('class/thermal/thermal_zone2/type', 'soc\n');
    expect(await hostTemperature(sysfs)).toBe(61);
  });

  it('below freezing is a temperature', async () => {
    await put('class/apex/apex_0/temp', '-12500');
    expect(await edgeTpuTemperature({ type: 'pci', path: '/dev/apex_0' }, sysfs)).toBe(-12.5);
  });
});
