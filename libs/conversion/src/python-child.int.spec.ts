import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runPython, type PythonRun } from './python-child.ts';
import { findPython } from './python-env.ts';
import type { PythonEvent } from './python-tools.ts';

// Real interpreters with tiny modules: how a child ends is the operating system's doing, TensorFlow or not.
const packageDir = fileURLToPath(new URL('../python/', import.meta.url));
const prelude = `
import json, os, sys, time
request = json.load(open(sys.argv[sys.argv.index("--request") + 1]))
def say(event, **fields): print(json.dumps({"event": event, **fields}), flush=True)
`;

let dir: string;
let python: string;
let runs = 0;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-child-'));
  python = (await findPython()).executable;
});
afterAll(async () => rm(dir, { recursive: true }));

async function run(script: string, more: Partial<PythonRun> = {}): Promise<Record<string, unknown>> {
  runs += 1;
  const module = `script${runs}`;
  const workDir = join(dir, `work${runs}`);
  await mkdir(workDir);
  await writeFile(join(dir, `${module}.py`), prelude + script);
  return runPython({ python, module, path: `${dir}:${packageDir}`, command: 'convert', request: {}, workDir, signal: new AbortController().signal, timeoutMs: 60_000, maxRssBytes: 1024 ** 3, onEvent: () => {}, ...more });
}

/** A script that says its process id, and what comes of it once it has. */
function whenSpoken(script: string, then: (pid: number) => void, more: Partial<PythonRun> = {}) {
  return run(`say("progress", phase="begun", message=str(os.getpid()))\n${script}`, { ...more, onEvent: (event) => { if (event.phase === 'begun') then(Number(event.message)); } });
}

function lives(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function gone(pid: number): Promise<void> {
  await expect.poll(() => lives(pid), { timeout: 10_000 }).toBe(false);
}

it('answers with the result, and passes on events and whatever else is printed', async () => {
  const events: PythonEvent[] = [];
  const result = await run('say("progress", phase="calibrate", percent=40)\nprint("not JSON")\nprint("null")\nsay("result", doubled=2 * request["number"])', { request: { number: 21 }, onEvent: (event) => events.push(event) });
  expect(result).toEqual({ doubled: 42 });
  expect(events).toEqual([{ event: 'progress', phase: 'calibrate', percent: 40 }, { event: 'log', level: 'info', message: 'not JSON' }, { event: 'log', level: 'info', message: 'null' }]);
});

it('gives the child a home of its own and none of our secrets', async () => {
  process.env.REEF_TEST_SECRET = 'hush';
  const { home, secret } = await run('say("result", home=os.path.expanduser("~"), secret=os.environ.get("REEF_TEST_SECRET"))');
  delete process.env.REEF_TEST_SECRET;
  expect(home).toMatch(/work\d+\/home$/);
  expect(secret).toBeNull();
});

it('throws the error the child names, with the end of what it printed', async () => {
  await expect(run('sys.stderr.write("x" * 100_000 + "the end")\nsay("error", code="source.no_signature", kind="invalid", message="Export it with a signature.", detail={"a": 1})\nsys.exit(1)'))
    .rejects.toMatchObject({ code: 'source.no_signature', kind: 'invalid', message: 'Export it with a signature.', detail: { a: 1, stderr: expect.stringMatching(/^x{65529}the end$/) as string } });
});

it.each([
  ['a crash', 'sys.stderr.write("error: tensors do not match\\nmore\\n")\nos.abort()', { code: 'convert.crashed', detail: { signal: 'SIGABRT' }, message: expect.stringContaining('error: tensors do not match') as string }],
  ['an end without an answer', 'raise SystemExit(3)', { code: 'python.failed', detail: { code: 3 } }],
  ['an exception', 'raise ValueError("of this value")', { code: 'python.failed', message: expect.stringContaining('ValueError: of this value') as string }],
  ['status 0 without a result', 'pass', { code: 'python.failed', kind: 'bug' }],
])('has a code for %s', async (_what, script, error) => {
  await expect(run(script)).rejects.toMatchObject(error);
});

it('has a code for an interpreter that is not there', async () => {
  await expect(run('pass', { python: join(dir, 'none') })).rejects.toMatchObject({ code: 'python.failed', kind: 'unavailable' });
});

it('ends a child that is deaf to signals, with its own children, when cancelled', async () => {
  const cancel = new AbortController();
  const pids: number[] = [];
  const running = run(`
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
say("progress", phase="begun", message=f"{os.getpid()} {child.pid}")
time.sleep(600)`, { signal: cancel.signal, onEvent: (event) => { pids.push(...event.message!.split(' ').map(Number)); cancel.abort(); } });
  await expect(running).rejects.toMatchObject({ code: 'job.canceled' });
  expect(pids).toHaveLength(2);
  for (const pid of pids) await gone(pid);
});

it('does not begin, or stops at once, when cancelled before', async () => {
  const cancel = new AbortController();
  cancel.abort();
  await expect(run('time.sleep(600)', { signal: cancel.signal })).rejects.toMatchObject({ code: 'job.canceled' });
});

it('ends a child that hangs', async () => {
  let hanging = 0;
  await expect(whenSpoken('time.sleep(600)', (pid) => { hanging = pid; }, { timeoutMs: 1_500 })).rejects.toMatchObject({ code: 'job.timed_out' });
  if (hanging) await gone(hanging);
});

it('ends a child whose children take too much memory together', async () => {
  await expect(run(`
import subprocess
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", "import time; kept = bytearray(90 << 20); time.sleep(600)"])
time.sleep(600)`, { maxRssBytes: 150 * 1024 ** 2 })).rejects.toMatchObject({ code: 'convert.out_of_memory', detail: { limit: 150 * 1024 ** 2 } });
});

it('leaves nothing behind that a finished child had started', async () => {
  const { left } = await run('import subprocess\nsay("result", left=subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)');
  await gone(left as number);
});

it('dies with its parent', async () => {
  await writeFile(join(dir, 'orphan.py'), 'import os, time\nfrom reef_convert.__main__ import contain\ncontain()\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n');
  const parent = spawn(process.execPath, ['-e', `require('node:child_process').spawn(${JSON.stringify(python)}, ['-m', 'orphan'], { stdio: 'inherit', detached: true, env: { ...process.env, PYTHONPATH: ${JSON.stringify(`${dir}:${packageDir}`)}, REEF_PARENT: String(process.pid) } }); setTimeout(() => {}, 600_000)`], { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface({ input: parent.stdout })[Symbol.asyncIterator]();
  let line = (await lines.next()).value as string;
  // Where the network cannot be shut off, it says so first.
  while (line.startsWith('{')) line = (await lines.next()).value as string;
  const child = Number(line);
  expect(lives(child)).toBe(true);
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  await gone(child);
});

it('keeps the request where the child reads it', async () => {
  await run('say("result")', { request: { source: '/a' } });
  const file = join(dir, `work${runs}`, 'convert.json');
  expect(existsSync(file) && JSON.parse(await readFile(file, 'utf8'))).toEqual({ source: '/a' });
});
