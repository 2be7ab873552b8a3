import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { Client } from './client.ts';
import { Output } from './output.ts';

export interface GlobalOptions { url?: string; token?: string; dir: string; json?: boolean }

export interface Credentials { url: string; token: string; /** Where devices of this machine's `reef up` enrol. */ gatewayUrl?: string }

export function credentialsFile(dir: string): string {
  return join(dir, 'credentials.json');
}

/** What `reef up` left in its folder. */
export async function keptCredentials(dir: string): Promise<Credentials | undefined> {
  return readFile(credentialsFile(dir), 'utf8').then((text) => JSON.parse(text) as Credentials).catch(() => undefined);
}

/** Flag, then environment, then what `reef up` left in its folder. @throws ReefError `credentials.missing` */
export async function connect(options: GlobalOptions): Promise<Client> {
  const kept = await keptCredentials(options.dir);
  const url = options.url ?? process.env.REEF_URL ?? kept?.url;
  const token = options.token ?? process.env.REEF_TOKEN ?? kept?.token;
  if (!url || !token) throw new ReefError('credentials.missing', 'unauthenticated', `No controller is known: set REEF_URL and REEF_TOKEN, pass --url and --token, or run where \`reef up\` keeps its data (looked in ${options.dir}).`);
  return new Client(url.replace(/\/+$/, ''), token);
}

/** An action with its output, and a client that is connected when asked for. Errors end the process with their kind's exit code. */
export function action<A extends unknown[]>(run: (context: { output: Output; client: () => Promise<Client>; options: GlobalOptions }, ...args: A) => Promise<number | void>) {
  return async (...args: [...A, Command]): Promise<void> => {
    const command = args.at(-1) as Command;
    const options = command.optsWithGlobals<GlobalOptions>();
    const output = new Output(options.json ?? false);
    try {
      process.exitCode = (await run({ output, client: () => connect(options), options }, ...(args.slice(0, -1) as unknown as A))) ?? 0;
    } catch (thrown) {
      output.failed(failureOf(thrown));
    }
  };
}

/** What the system refuses is not a bug of ours. */
function failureOf(thrown: unknown): ReefError {
  const { code, path, message } = thrown as NodeJS.ErrnoException;
  if (!(thrown instanceof ReefError)) {
    if (code === 'ENOSPC' || code === 'EDQUOT') return new ReefError('disk.full', 'unavailable', `There is no space left${path ? ` for ${path}` : ''}; free some and try again.`, { cause: thrown });
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return new ReefError('file.refused', 'forbidden', `${path ?? message} cannot be read or written: ${code === 'EROFS' ? 'the disk is read-only' : 'permission denied'}.`, { cause: thrown });
    if (code === 'ENOTDIR' || code === 'EEXIST') return new ReefError('file.in_the_way', 'invalid', `There is a file where a folder should be: ${path ?? message}.`, { cause: thrown });
  }
  return asReefError(thrown);
}
