import { readdir, readFile, readlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { ReefError } from '@reefkeeper/platform/errors';

/** Fails before anything starts, naming the holder where the system tells, and the flag that changes it. @throws ReefError `port.busy`, `port.refused` */
export async function checkPort(port: number, what: string, flag: string): Promise<void> {
  const problem = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    const probe = createServer().once('error', resolve).listen(port, '127.0.0.1', () => probe.close(() => resolve(undefined)));
  });
  if (problem?.code === 'EADDRINUSE') {
    const holder = await holderOf(port);
    throw new ReefError('port.busy', 'conflict', `Port ${port} for the ${what} is in use${holder ? ` by ${holder}` : ''}. Stop that, or choose another with ${flag}.`, { detail: { port, flag } });
  }
  if (problem) throw new ReefError('port.refused', 'invalid', `Port ${port} for the ${what} cannot be opened (${problem.code}). Choose one above 1023 with ${flag}.`, { detail: { port, flag } });
}

/** Linux only: the listening socket's inode from /proc/net/tcp, then whoever has it open. */
async function holderOf(port: number): Promise<string | undefined> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const lines = (await Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map((file) => readFile(file, 'utf8').catch(() => '')))).join('\n').split('\n').map((line) => line.trim().split(/\s+/));
  // Field 1 is the local address, 3 the state (0A = LISTEN), 9 the inode.
  const inode = lines.find((fields) => fields[1]?.endsWith(`:${hex}`) && fields[3] === '0A')?.[9];
  if (!inode) return undefined;
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const open = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const fd of open) {
      if ((await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')) !== `socket:[${inode}]`) continue;
      const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ').trim();
      return `process ${pid} (${command.slice(0, 80)})`;
    }
  }
  return undefined;
}
