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
export interface Requirements {
  full: string;
  withoutDependencies?: string | undefined;
  /** Who needs it and how large it gets, for messages. */
  purpose?: string;
  size?: string;
  /** First and last minor version of Python 3 that all packages exist for; TensorFlow 2.21's where absent. */
  python?: readonly [first: number, last: number];
}

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
/** One environment each: what these pin cannot be installed together. */
export const environments = {
  'tf2.21': { full: join(packageDir, 'requirements.txt'), withoutDependencies: join(packageDir, 'requirements-nodeps.txt'), purpose: 'Conversion', size: '1.6 GB', python: [10, 13] },
  'tf2.15': { full: join(packageDir, 'requirements-tf2.15.txt'), purpose: 'Conversion with TensorFlow 2.15', size: '1.3 GB', python: [9, 11] },
  onnx: { full: join(packageDir, 'requirements-onnx.txt'), purpose: 'Reading ONNX models', size: '0.7 GB', python: [12, 13] },
} as const satisfies Record<string, Requirements>;

const candidates = ['python3', 'python3.12', 'python3.11', 'python3.13', 'python3.10', 'python3.9', 'python'];
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
  const { requirements, executable, version, dir, ready, marker } = await placeOf(options);
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
    options.onProgress?.(`making the Python environment (once${requirements.size ? `; about ${requirements.size}` : ''}) with Python ${version}${requirements.purpose ? ` for: ${requirements.purpose}` : ''}`);
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

async function placeOf({ requirements = environments['tf2.21'], root, python }: PythonEnvOptions) {
  const { executable, version } = await findPython(python, requirements);
  const dir = join(root, await keyOf(requirements, version));
  return { requirements, executable, version, dir, ready: { python: join(dir, 'bin', 'python') }, marker: join(dir, 'complete') };
}

/** Whether the environment is there and complete, so that using it takes no download. */
export async function hasPythonEnv(options: PythonEnvOptions): Promise<boolean> {
  try {
    const { ready, marker } = await placeOf(options);
    return await usable(ready.python, marker);
  } catch (error) {
    if (error instanceof ReefError) return false;
    throw error;
  }
}

/**
 * The one that is wanted, as far as the packages exist for it, else one on the search path.
 * @throws ReefError `python.missing`, `python.unsupported`
 */
export async function findPython(wanted?: string, { purpose = 'Conversion', python: [first, last] = [10, 13] }: Partial<Requirements> = {}): Promise<{ executable: string; version: string }> {
  const found: string[] = [];
  // What is wanted is meant for the conversion; an extra with other needs may take another one.
  const extra = purpose !== environments['tf2.21'].purpose;
  for (const executable of wanted ? [wanted, ...(extra ? candidates : [])] : candidates) {
    const { exitCode, stdout } = await execa(executable, ['-c', 'import sys; print("%d.%d.%d" % sys.version_info[:3])'], { reject: false });
    if (exitCode !== 0 || typeof stdout !== 'string') continue;
    const version = stdout.trim();
    const [major = 0, minor = 0] = version.split('.').map(Number);
    if (major === 3 && minor >= first && minor <= last) return { executable, version };
    found.push(`${executable} is ${version}`);
  }
  if (found.length > 0) throw new ReefError('python.unsupported', 'invalid', `${purpose} needs Python 3.${first} to 3.${last}; here ${found.join(', ')}. Install one${extra ? ' and put it on the search path' : ', or name it with PYTHON'}.`, { detail: { found } });
  throw new ReefError('python.missing', 'invalid', `${purpose} needs Python 3.${first} to 3.${last} and found ${wanted ? `none at ${wanted}` : 'none'}. Install it (Debian and Ubuntu: apt-get install python3 python3-venv), or name one with PYTHON.`);
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
