import { mkdir, readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { bornAt } from '@reefkeeper/platform/processes';

/** A folder of this process alone under `root`. What killed workers of this machine left there is removed; other machines' is not. */
export async function openWorkDir(root: string): Promise<string> {
  const prefix = `${hostname()}-`;
  await mkdir(root, { recursive: true, mode: 0o700 });
  for (const name of await readdir(root)) {
    const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN;
    if (Number.isInteger(pid) && pid !== process.pid && (await bornAt(pid)) === undefined) await rm(join(root, name), { recursive: true, force: true });
  }
  const own = join(root, `${prefix}${process.pid}`);
  await rm(own, { recursive: true, force: true });
  await mkdir(own, { mode: 0o700 });
  return own;
}
