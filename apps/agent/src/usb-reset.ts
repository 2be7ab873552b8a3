import { readFile, realpath, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ReefError } from '@reefkeeper/platform/errors';

/** A Coral USB Accelerator before and after libedgetpu has loaded its firmware: Global Unichip 1a6e:089a, Google 18d1:9302. */
const edgeTpuIds = new Set(['1a6e:089a', '18d1:9302']);

/**
 * Takes the USB device off the bus and lets it on again, as pulling it out would (Documentation/usb/authorization.rst: writing 0 to
 * `authorized` unconfigures the device, 1 has the kernel configure it anew). Touches nothing but a Coral accelerator.
 * @param path as libedgetpu lists it, `/sys/bus/usb/devices/2-1`
 * @throws ReefError `tpu.not_resettable`, `tpu.reset_refused` (permissions), `tpu.reset_failed`
 */
export async function resetUsb(path: string, { sysfs = '/sys', pauseMs = 1_000 }: { sysfs?: string; pauseMs?: number } = {}): Promise<void> {
  const name = basename(path);
  // A port chain (`2-1.4`), never a root hub (`usb2`) nor an interface (`2-1:1.0`).
  if (!/^\/sys\/bus\/usb\/devices\/[^/]+$/.test(path) || !/^\d+-\d+(\.\d+)*$/.test(name)) throw new ReefError('tpu.not_resettable', 'invalid', `${path} is not a device on the USB bus.`);
  const folder = await realpath(join(sysfs, 'bus/usb/devices', name)).catch((cause: unknown) => { throw new ReefError('tpu.not_resettable', 'not_found', `${path} is not on the USB bus any more.`, { cause }); });
  const ids = await Promise.all(['idVendor', 'idProduct'].map(async (file) => (await readFile(join(folder, file), 'utf8').catch(() => '')).trim()));
  if (!edgeTpuIds.has(ids.join(':'))) throw new ReefError('tpu.not_resettable', 'invalid', `${path} is ${ids.join(':')}, not a Coral accelerator; it is left alone.`);
  const file = join(folder, 'authorized');
  try {
    // Without O_CREAT: what is not there already is not the kernel's.
    await writeFile(file, '0', { flag: 'r+' });
    try {
      await delay(pauseMs);
    } finally {
      await writeFile(file, '1', { flag: 'r+' });
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') throw new ReefError('tpu.reset_refused', 'forbidden', `${file} may not be written by the agent. Let its group write it by a udev rule (docs/agent.md), or set REEF_TPU_RESET=off.`, { cause });
    throw new ReefError('tpu.reset_failed', 'unavailable', `The USB device at ${path} could not be reset: ${(cause as Error).message}`, { cause });
  }
}
