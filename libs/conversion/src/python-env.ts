import { createHash, randomUUID } from 'node:crypto';
import { access, constants, link, mkdir, readFile, rename, rm, stat, statfs, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { ReefError } from '@reefkeeper/platform/errors';
import { bornAt } from '@reefkeeper/platform/processes';

/** Files with exact versions and hashes; the second kind is installed without what its packages ask for. */
export interface Requirements { full: string; withoutDependencies?: string | undefined }

export interface PythonEnvOptions {
  /** Folder that holds environments, one per set of requirements. */
  root: string;
  /** An interpreter to use; found on the search path where absent. */
  python?: string | undefined;
  requirements?: Requirements;
  onProgress?: ((message: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}

const packageDir = fileURLToPath(new URL('../python/', import.meta.url));
export const convertRequirements: Requirements = { full: join(packageDir, 'requirements.txt'), withoutDependencies: join(packageDir, 'requirements-nodeps.txt') };

/** TensorFlow 2.21 has packages for these. */
const supported = { from: [3, 10], to: [3, 13] } as const;
const candidates = ['python3', 'python3.12', 'python3.11', 'python3.13', 'python3.10', 'python'];
/** Unpacked, with pip's own needs. */
const neededBytes = 3 * 1024 ** 3;
const lockPollMs = 500;
const lockTouchMs = 5_000;
/** A lock nobody touched for this long has no holder, whatever its process id now belongs to (another container's, after a reboot). */
const lockStaleMs = 60_000;

/**
 * A virtual environment with exactly the pinned packages, made on first need. Never half-done: a marker file is written last, and
 * what lacks it is made again. Processes that want the same one wait for the first; if that was killed, the next takes over.
 * @throws ReefError `python.missing`, `python.unsupported`, `python.venv_missing`, `python.install_failed`, `disk.full`, `job.canceled`
 */
export async function ensurePythonEnv(options: PythonEnvOptions): Promise<{ python: string }> {
  const requirements = options.requirements ?? convertRequirements;
  const { executable, version } = await findPython(options.python);
  const key = await keyOf(requirements, version);
  const dir = join(options.root, key);
  const ready = { python: join(dir, 'bin', 'python') };
  const marker = join(dir, 'complete');
  if (await usable(ready.python, marker)) return ready;
  await mkdir(options.root, { recursive: true });
  return withLock(`${dir}.lock`, options, async () => {
    if (await usable(ready.python, marker)) return ready;
    await rm(dir, { recursive: true, force: true });
    await checkSpace(options.root);
    await make().catch(async (error: unknown) => {
      // Gigabytes that nobody will use.
      await rm(dir, { recursive: true, force: true });
      throw error;
    });
    return ready;
  });

  async function make(): Promise<void> {
    options.onProgress?.(`making the Python environment (once; about 1.6 GB) with Python ${version}`);
    const run = runner(options);
    const venv = await run(executable, ['-m', 'venv', dir]);
    if (venv.exitCode !== 0) throw new ReefError('python.venv_missing', 'invalid', `Python cannot make a virtual environment: ${lastLines(venv.said)}. On Debian and Ubuntu: apt-get install python3-venv.`);
    const pip = ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--require-hashes', '--only-binary=:all:', '--progress-bar=off'];
    await install(run, ready.python, [...pip, '-r', requirements.full]);
    if (requirements.withoutDependencies) await install(run, ready.python, [...pip, '--no-deps', '-r', requirements.withoutDependencies]);
    await writeFile(`${marker}.part`, `${new Date().toISOString()}\n`);
    await rename(`${marker}.part`, marker);
    options.onProgress?.('the Python environment is ready');
  }
}

/** @throws ReefError `python.missing`, `python.unsupported` */
export async function findPython(wanted?: string): Promise<{ executable: string; version: string }> {
  const found: string[] = [];
  for (const executable of wanted ? [wanted] : candidates) {
    const { exitCode, stdout } = await execa(executable, ['-c', 'import sys; print("%d.%d.%d" % sys.version_info[:3])'], { reject: false });
    if (exitCode !== 0 || typeof stdout !== 'string') continue;
    const version = stdout.trim();
    const [major = 0, minor = 0] = version.split('.').map(Number);
    if (major === 3 && minor >= supported.from[1] && minor <= supported.to[1]) return { executable, version };
    found.push(`${executable} is ${version}`);
  }
  if (found.length > 0) throw new ReefError('python.unsupported', 'invalid', `Conversion needs Python 3.10 to 3.13; here ${found.join(', ')}. Install one, or name it with PYTHON.`, { detail: { found } });
  throw new ReefError('python.missing', 'invalid', `Conversion needs Python 3.10 to 3.13 and found ${wanted ? `none at ${wanted}` : 'none'}. Install it (Debian and Ubuntu: apt-get install python3 python3-venv), or name one with PYTHON.`);
}

type Run = ReturnType<typeof runner>;

async function install(run: Run, python: string, args: string[]): Promise<void> {
  const { exitCode, said } = await run(python, args);
  if (exitCode === 0) return;
  if (/No space left on device/.test(said)) throw new ReefError('disk.full', 'unavailable', 'There is no space left for the Python environment (about 1.6 GB); free some and try again.');
  throw new ReefError('python.install_failed', 'unavailable', `The Python packages could not be installed:\n${lastLines(said)}`);
}

function runner({ signal, onProgress }: PythonEnvOptions) {
  return async (file: string, args: string[]): Promise<{ exitCode: number | undefined; said: string }> => {
    const child = execa(file, args, { reject: false, all: true, cancelSignal: signal ?? new AbortController().signal, forceKillAfterDelay: 500, env: { PIP_NO_COLOR: '1', PYTHONDONTWRITEBYTECODE: '' } });
    child.all.on('data', (chunk: Buffer) => {
      const package_ = /(?:Collecting|Downloading|Installing collected packages)[: ]+([^\s(]+).*?(\([\d.]+ [kMG]B\))?/.exec(chunk.toString('utf8'));
      if (package_) onProgress?.(package_[0].startsWith('Installing') ? 'unpacking the Python packages' : `fetching ${package_[1]!.split('==')[0]!.split('/').at(-1)}${package_[2] ? ` ${package_[2]}` : ''}`);
    });
    const { exitCode, all, isCanceled } = await child;
    if (isCanceled) throw new ReefError('job.canceled', 'conflict', 'Making the Python environment was cancelled; it is made again when next needed.');
    return { exitCode, said: all };
  };
}

/** One maker at a time, over processes. The lock names its holder; a lock whose holder is gone is taken over. */
async function withLock<T>(file: string, { signal, onProgress }: PythonEnvOptions, work: () => Promise<T>): Promise<T> {
  for (let waiting = false; !(await claim(file)); ) {
    if (signal?.aborted) throw new ReefError('job.canceled', 'conflict', 'Cancelled while waiting for the Python environment.');
    const holder = await readFile(file, 'utf8').catch(() => undefined);
    if (holder === undefined) continue;
    if (await abandoned(file, holder)) {
      await takeAway(file, holder);
      continue;
    }
    if (!waiting) onProgress?.('another process is making the Python environment; waiting for it');
    waiting = true;
    await sleep(lockPollMs);
  }
  const touch = setInterval(() => void utimes(file, new Date(), new Date()).catch(() => {}), lockTouchMs).unref();
  try {
    return await work();
  } finally {
    clearInterval(touch);
    await rm(file, { force: true });
  }
}

/** Linked, not written in place: the lock appears with its content, or not at all. */
async function claim(file: string): Promise<boolean> {
  const own = `${file}.${randomUUID()}`;
  await writeFile(own, JSON.stringify({ pid: process.pid, born: await bornAt(process.pid), host: hostname() }));
  try {
    await link(own, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(own, { force: true });
  }
}

async function abandoned(file: string, holder: string): Promise<boolean> {
  const touched = await stat(file).then(({ mtimeMs }) => mtimeMs, () => Date.now());
  if (Date.now() - touched > lockStaleMs) return true;
  try {
    const { pid, born: then, host } = JSON.parse(holder) as { pid: number; born: string; host: string };
    return host === hostname() && (await bornAt(pid)) !== then;
  } catch {
    return true;
  }
}

/** Moved away first: of several who saw the dead holder, one gets it, and who moved a new holder's lock by mistake puts it back. */
async function takeAway(file: string, holder: string): Promise<void> {
  const aside = `${file}.${randomUUID()}`;
  if (!(await rename(file, aside).then(() => true, () => false))) return;
  if ((await readFile(aside, 'utf8')) !== holder) await link(aside, file).catch(() => {});
  await rm(aside, { force: true });
}

/** Names the folder of an environment: other requirements, or another Python, make another one. */
export async function keyOf({ full, withoutDependencies }: Requirements, version: string): Promise<string> {
  const hash = createHash('sha256').update(version.split('.').slice(0, 2).join('.')).update(process.arch).update(await readFile(full));
  if (withoutDependencies) hash.update(await readFile(withoutDependencies));
  return hash.digest('hex').slice(0, 16);
}

async function checkSpace(dir: string): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  if (bavail * bsize < neededBytes) throw new ReefError('disk.full', 'unavailable', `The Python environment needs about 3 GB of free space under ${dir}; there are ${(bavail * bsize / 1e9).toFixed(1)} GB. Free some, or choose another folder.`);
}

function lastLines(text: string): string {
  return text.trim().split('\n').slice(-6).join('\n');
}

/** The interpreter is a link to the system's, which may have been removed since. */
async function usable(python: string, marker: string): Promise<boolean> {
  return Promise.all([access(marker), access(python, constants.X_OK)]).then(() => true, () => false);
}
