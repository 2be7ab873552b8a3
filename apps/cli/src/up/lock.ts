import { readFile, rm, writeFile } from 'node:fs/promises';
import { ReefError } from '@reefkeeper/platform/errors';

/** One `reef up` per folder. The lock names its holder; what a killed one left behind is taken over. @throws ReefError `up.running` */
export async function holdLock(file: string): Promise<{ release(): Promise<void> }> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      await writeFile(file, `${process.pid}`, { flag: 'wx' });
      return { release: () => rm(file, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = Number(await readFile(file, 'utf8').catch(() => ''));
    if (attempt > 0 || (holder && isReef(await commandOf(holder)))) {
      throw new ReefError('up.running', 'conflict', `Another \`reef up\` (process ${holder}) uses this folder. Stop it, or take another folder with --dir.`, { detail: { pid: holder } });
    }
    await rm(file, { force: true });
  }
}

/** The command line of a live process; undefined when there is none. A process id alone may have been given to someone else. */
export async function commandOf(pid: number): Promise<string | undefined> {
  try {
    process.kill(pid, 0);
  } catch {
    return undefined;
  }
  return readFile(`/proc/${pid}/cmdline`, 'utf8').then((text) => text.replaceAll('\0', ' '), () => 'reef');
}

function isReef(command: string | undefined): boolean {
  return command !== undefined && /reef|apps\/(cli|controller|worker|agent)\//.test(command);
}
