import { realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { ReefError } from '@reefkeeper/platform/errors';

/**
 * One agent per directory. A socket in Linux's abstract namespace is let go by the kernel however the process ends, so neither
 * SIGKILL nor a power cut leaves a lock behind. Other systems (development only) go without.
 * @throws ReefError `agent.already_running`
 */
export async function lockDirectory(dir: string): Promise<Server | undefined> {
  if (process.platform !== 'linux') return undefined;
  const name = `\0reef-agent:${await realpath(dir)}`;
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => reject(cause.code === 'EADDRINUSE'
      ? new ReefError('agent.already_running', 'conflict', `Another agent is running on ${dir}. Stop it first.`) : cause));
    server.listen(name, resolve);
  });
  server.unref();
  return server;
}
