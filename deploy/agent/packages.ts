import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { x as extract } from 'tar';

export const root = join(import.meta.dirname, '../..');
const run = promisify(execFile);

/** Debian's word for it, and Node's. */
export const architectures = { amd64: 'x64', arm64: 'arm64' } as const;
export type Architecture = keyof typeof architectures;

interface Locked { version: string; integrity: string }

function locked(name: string): Locked {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, Locked> };
  const found = lock.packages[`node_modules/${name}`];
  if (!found) throw new Error(`package-lock.json has no ${name}`);
  return found;
}

export function lockedVersion(name: string): string {
  return locked(name).version;
}

/**
 * The folder of an npm package at its locked version. npm installs platform packages only for the machine it runs on; those of another one
 * are fetched by npm and held against the lockfile's integrity.
 */
export async function packageFolder(name: string): Promise<string> {
  const { version, integrity } = locked(name);
  const installed = join(root, 'node_modules', name);
  const here = await readFile(join(installed, 'package.json'), 'utf8').then((text) => (JSON.parse(text) as { version: string }).version, () => undefined);
  if (here === version) return installed;

  const cache = join(root, 'node_modules/.cache/reef-packages');
  const target = join(cache, `${name.replace('/', '+')}@${version}`);
  if (existsSync(target)) return target;
  await mkdir(cache, { recursive: true });
  const fresh = `${target}.${process.pid}`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh);
  try {
    const { stdout } = await run('npm', ['pack', '--silent', '--pack-destination', fresh, `${name}@${version}`], { cwd: root });
    const archive = join(fresh, stdout.trim().split('\n').at(-1)!);
    const bytes = await readFile(archive);
    const [algorithm, wanted] = [integrity.slice(0, integrity.indexOf('-')), integrity.slice(integrity.indexOf('-') + 1)];
    if (createHash(algorithm).update(bytes).digest('base64') !== wanted) throw new Error(`${name}@${version} is not what package-lock.json names: its ${algorithm} differs.`);
    await extract({ file: archive, cwd: fresh, strip: 1 });
    await rm(archive);
    // Another run may have been first; its files are the same.
    await rename(fresh, target).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error; });
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
  return target;
}

/** Seconds since 1970 that every file of a package bears (reproducible-builds.org/specs/source-date-epoch): the last commit's. */
export async function sourceDateEpoch(): Promise<number> {
  if (process.env.SOURCE_DATE_EPOCH) return Number(process.env.SOURCE_DATE_EPOCH);
  return Number((await run('git', ['log', '-1', '--format=%ct'], { cwd: root })).stdout.trim());
}

export function productVersion(): string {
  return (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version;
}
