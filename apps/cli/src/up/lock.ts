import { mkdir, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReefError } from '@reefkeeper/platform/errors';
import { bornAt } from '@reefkeeper/platform/processes';

/** A process that is still the one it was: ids are given out again, start times are not. */
interface Known { pid: number; born: string }

/**
 * One `reef up` per folder. On Linux a socket in the abstract namespace holds it, which the kernel lets go however we end; the file only
 * says who it is. Elsewhere the file is the lock, good as long as its process lives.
 * @throws ReefError `up.running`
 */
export async function holdLock(dir: string): Promise<{ release(): Promise<void> }> {
  const file = join(dir, 'up.pid');
  const holder = await knownIn(file);
  const running = () => new ReefError('up.running', 'conflict', `Another \`reef up\`${holder ? ` (process ${holder.pid})` : ''} uses ${dir}. Stop it, or take another folder with --dir.`, { detail: { pid: holder?.pid ?? null, dir } });
  let socket: Server | undefined;
  if (process.platform === 'linux') socket = await listenAbstract(`\0reef-up:${await realpath(dir)}`, running);
  else if (holder && (await lives(holder))) throw running();
  await remember(file, process.pid);
  return {
    release: async () => {
      await rm(file, { force: true });
      socket?.close();
    },
  };
}

function listenAbstract(name: string, taken: () => ReefError): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (cause: NodeJS.ErrnoException) => reject(cause.code === 'EADDRINUSE' ? taken() : cause));
    server.listen(name, () => resolve(server));
    server.unref();
  });
}

/** Where each process of ours is written down while it runs, so that the next start finds what a killed one left behind. */
export class RunFolder {
  private constructor(private readonly dir: string) {}

  static async open(dir: string): Promise<RunFolder> {
    await mkdir(dir, { recursive: true });
    return new RunFolder(dir);
  }

  async note(name: string, pid: number): Promise<void> {
    await remember(join(this.dir, `${name}.pid`), pid);
  }

  async forget(name: string): Promise<void> {
    await rm(join(this.dir, `${name}.pid`), { force: true });
  }

  /** Ends what still runs from a start before this one: they stop by themselves when their supervisor is gone, but take a moment. @returns their names */
  async clear(graceMs = 8_000): Promise<string[]> {
    const names = (await readdir(this.dir)).filter((name) => name.endsWith('.pid'));
    const cleared = await Promise.all(names.map(async (name) => {
      const known = await knownIn(join(this.dir, name));
      const alive = known !== undefined && (await lives(known));
      if (alive) {
        kill(known.pid, 'SIGTERM');
        for (const end = Date.now() + graceMs; Date.now() < end && (await lives(known));) await sleep(100);
        if (await lives(known)) kill(known.pid, 'SIGKILL');
        while (await lives(known)) await sleep(50);
      }
      await rm(join(this.dir, name), { force: true });
      return alive ? [name.slice(0, -'.pid'.length)] : [];
    }));
    return cleared.flat();
  }
}

async function remember(file: string, pid: number): Promise<void> {
  await writeFile(file, `${JSON.stringify({ pid, born: (await bornAt(pid)) ?? '' } satisfies Known)}\n`);
}

async function knownIn(file: string): Promise<Known | undefined> {
  return readFile(file, 'utf8').then((text) => JSON.parse(text) as Known).catch(() => undefined);
}

async function lives({ pid, born }: Known): Promise<boolean> {
  return (await bornAt(pid)) === born;
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone already.
  }
}
