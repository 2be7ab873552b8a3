import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, beforeAll, expect, it } from 'vitest';
import { ensurePythonEnv, environments, findPython, hasPythonEnv, keyOf } from './python-env.ts';

// Real environments without packages: what is made, by whom, and what a death in between leaves.
let dir: string;
let root: string;
let requirements: { full: string };
let tests = 0;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-env-'));
  requirements = { full: join(dir, 'requirements.txt') };
  await writeFile(requirements.full, '# none\n');
});
beforeEach(async () => {
  root = join(dir, `root${(tests += 1)}`);
  await mkdir(root);
});
afterAll(async () => rm(dir, { recursive: true }));

async function fakePython(says: string): Promise<string> {
  const file = join(root, 'python');
  await writeFile(file, `#!/bin/sh\necho ${says}\n`);
  await chmod(file, 0o755);
  return file;
}

it('makes one for all who ask at once, in place of what dead makers left, and only once', async () => {
  const name = await keyOf(requirements, (await findPython()).version);
  await mkdir(join(root, name, 'bin'), { recursive: true });
  await writeFile(join(root, name, 'bin/half'), 'made');
  const dead = execFileSync(process.execPath, ['-p', 'process.pid']).toString().trim();
  await writeFile(join(root, `${name}.lock`), JSON.stringify({ pid: Number(dead), born: '1', host: hostname() }));

  const said: string[] = [];
  const onProgress = (message: string) => said.push(message);
  const [one, two] = await Promise.all([ensurePythonEnv({ root, requirements, onProgress }), ensurePythonEnv({ root, requirements, onProgress })]);
  expect(two).toEqual(one);
  expect(said.filter((line) => line.startsWith('making'))).toHaveLength(1);
  expect(execFileSync(one.python, ['-c', 'import sys; print(sys.prefix != sys.base_prefix)']).toString().trim()).toBe('True');
  expect(existsSync(join(root, name, 'bin/half'))).toBe(false);
  expect(await readdir(root)).toEqual([name]);

  said.length = 0;
  expect(await ensurePythonEnv({ root, requirements, onProgress })).toEqual(one);
  expect(said).toEqual([]);

  // An interpreter that was removed from the system; and a maker that is stopped at once leaves nothing.
  await rm(one.python);
  await expect(ensurePythonEnv({ root, requirements, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'job.canceled' });
  expect(await readdir(root)).toEqual([]);
}, 300_000);

it('takes a lock that nobody has touched for long; says in pip\'s words why packages cannot be installed, and leaves nothing', async () => {
  const wrong = { full: join(dir, 'wrong.txt') };
  await writeFile(wrong.full, 'this is no requirement\n');
  const lock = join(root, `${await keyOf(wrong, (await findPython()).version)}.lock`);
  await writeFile(lock, JSON.stringify({ pid: process.pid, born: '1', host: 'elsewhere' }));
  await utimes(lock, new Date(0), new Date(0));
  await expect(ensurePythonEnv({ root, requirements: wrong })).rejects.toMatchObject({ code: 'python.install_failed', kind: 'unavailable', message: expect.stringContaining('Invalid requirement') as string });
  expect(await readdir(root)).toEqual([]);
}, 300_000);

it.each([
  ['a live process', () => ({ pid: process.ppid, born: null, host: 'elsewhere' })],
  ['a process on another machine', () => ({ pid: 999_999_999, born: '1', host: 'elsewhere' })],
])('waits for %s that holds the lock, until cancelled', async (_what, holder) => {
  const name = await keyOf(requirements, (await findPython()).version);
  await writeFile(join(root, `${name}.lock`), JSON.stringify(holder()));
  const cancel = new AbortController();
  const said: string[] = [];
  const waiting = ensurePythonEnv({ root, requirements, signal: cancel.signal, onProgress: (message) => { said.push(message); cancel.abort(); } });
  await expect(waiting).rejects.toMatchObject({ code: 'job.canceled' });
  expect(said).toEqual(['another process is making the Python environment; waiting for it']);
  expect(await readdir(root)).toEqual([`${name}.lock`]);
});

it('takes another Python for an extra than the one that is named for conversion', async () => {
  const other = join(root, 'bin');
  await mkdir(other);
  await writeFile(join(other, 'python3.12'), '#!/bin/sh\necho 3.12.7\n');
  await chmod(join(other, 'python3.12'), 0o755);
  const path = process.env.PATH;
  process.env.PATH = `${other}:${path}`;
  try {
    await expect(findPython(await fakePython('3.11.2'), environments.onnx)).resolves.toMatchObject({ version: '3.12.7' });
    await expect(findPython(await fakePython('3.11.2'))).resolves.toMatchObject({ version: '3.11.2' });
  } finally {
    process.env.PATH = path;
  }
  process.env.PATH = root;
  await expect(findPython(undefined, environments.onnx)).rejects.toMatchObject({ message: expect.stringContaining('Reading ONNX models needs Python 3.12 to 3.13') as string });
  expect(await hasPythonEnv({ root, requirements: environments.onnx })).toBe(false);
  process.env.PATH = path;
});

it('names the fix where Python is missing or of another version', async () => {
  await expect(findPython(join(root, 'none'))).rejects.toMatchObject({ code: 'python.missing', message: expect.stringContaining('PYTHON') as string });
  await expect(findPython(await fakePython('3.9.2'))).rejects.toMatchObject({ code: 'python.unsupported', message: expect.stringContaining('is 3.9.2') as string });
  await expect(findPython(await fakePython('3.14.0'))).rejects.toMatchObject({ code: 'python.unsupported' });
  await expect(findPython()).resolves.toMatchObject({ version: expect.stringMatching(/^3\.1[0-3]\./) as string });
});
