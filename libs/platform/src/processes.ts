import { readFile } from 'node:fs/promises';
import { execa } from 'execa';

/**
 * When a process began, in the system's own words; undefined when there is none (a zombie counts as none). With its id it names a process for
 * ever: ids are given out again, start times are not.
 */
export async function bornAt(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
    // Behind the name in parentheses, which may hold anything: field 3 is the state, 22 the start (proc(5)).
    const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields === undefined || fields[0] === 'Z' ? undefined : fields[19];
  }
  const { exitCode, stdout } = await execa('ps', ['-p', `${pid}`, '-o', 'lstart='], { reject: false });
  return exitCode === 0 && typeof stdout === 'string' ? stdout.trim() : undefined;
}
