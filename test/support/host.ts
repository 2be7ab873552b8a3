import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Whether a program is installed, those for administrators included, which are not on everybody's path. */
export function hasTool(name: string): boolean {
  return (process.env.PATH ?? '').split(':').concat('/usr/sbin', '/sbin').some((folder) => existsSync(join(folder, name)));
}

/**
 * Measures how much of the processors other machines on the same host had meanwhile: a virtual machine sees it as steal time (proc_stat(5)) and as nothing else, its load average stays low.
 * @returns asks for the share since then, 0 to 1
 */
export async function watchSteal(): Promise<() => Promise<number>> {
  const before = await ticks();
  return async () => {
    const after = await ticks();
    return (after.stolen - before.stolen) / Math.max(1, after.all - before.all);
  };
}

async function ticks(): Promise<{ stolen: number; all: number }> {
  // user nice system idle iowait irq softirq steal; guest times are in the first two.
  const fields = (await readFile('/proc/stat', 'utf8')).split('\n')[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
  return { stolen: fields[7] ?? 0, all: fields.reduce((sum, n) => sum + n, 0) };
}
