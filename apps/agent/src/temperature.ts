import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { EdgeTpuDevice } from '@reefkeeper/inference';

/**
 * Of an Edge TPU on PCIe, degrees Celsius (gasket driver: /sys/class/apex/apex_N/temp, in thousandths); null where nobody measures: the USB
 * accelerator has no sensor that can be read.
 */
export async function edgeTpuTemperature({ type, path }: EdgeTpuDevice, sysfs = '/sys'): Promise<number | null> {
  const name = basename(path);
  return type === 'pci' && /^apex_\d+$/.test(name) ? celsius(join(sysfs, 'class/apex', name, 'temp')) : null;
}

/** Names of thermal zones that are the processor's: NXP i.MX, MediaTek, Broadcom, Rockchip, x86. */
const ofProcessor = /cpu|soc|x86_pkg_temp|package/i;

/** Of the board's processor, else of whatever the board measures first; null where it measures nothing. */
export async function hostTemperature(sysfs = '/sys'): Promise<number | null> {
  const root = join(sysfs, 'class/thermal');
  const zones = (await readdir(root).catch(() => [])).filter((name) => /^thermal_zone\d+$/.test(name)).sort((a, b) => Number(a.slice(12)) - Number(b.slice(12)));
  let first: number | null = null;
  for (const zone of zones) {
    const value = await celsius(join(root, zone, 'temp'));
    if (value === null) continue;
    if (ofProcessor.test(await readFile(join(root, zone, 'type'), 'utf8').catch(() => ''))) return value;
    first ??= value;
  }
  return first;
}

async function celsius(file: string): Promise<number | null> {
  const text = (await readFile(file, 'utf8').catch(() => '')).trim();
  const value = /^-?\d+$/.test(text) ? Number(text) / 1_000 : 0;
  // A sensor that is off says 0, one that is broken says anything.
  return value === 0 || value < -60 || value > 200 ? null : value;
}
