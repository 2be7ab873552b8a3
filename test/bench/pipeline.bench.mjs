// What a version costs: the whole pipeline through the command line on a stack of its own, step by step, with the worker's memory; and the same again,
// which must come out of the cache.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import getPort from 'get-port';
import { ensurePythonEnv } from '../../libs/conversion/dist/index.js';

const usage = `npm run bench -- pipeline [--source PATH --calibration PATH] [--runs 2]
Pushes a model (a small colour classifier where none is given), then the same one again, and prints each step's time, the largest resident memory of
the worker with its children, and the share of steps that came from the cache.
Limits: every repeated step that can be cached is; memory at most 3.5 GiB, of which 3 are what the worker allows a child.
Exit code: 0 PASS, 1 FAIL.`;
const root = join(import.meta.dirname, '../..');
const main = join(root, 'apps/cli/dist/main.js');
const envDir = process.env.PYTHON_ENV_DIR ?? join(root, '.reef/python');
const limitBytes = (3 * 1024 + 512) * 1024 ** 2;
/** `compile` and `inspect` are skipped without a compiler, `bundle` names its own version. */
const cacheable = ['import', 'convert', 'analyze', 'verify'];

export default async function pipelineBench(args) {
  const { values } = parseArgs({ args, options: { source: { type: 'string' }, calibration: { type: 'string' }, runs: { type: 'string', default: '2' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const dir = mkdtempSync(join(tmpdir(), 'reef-bench-'));
  // The embedded PostgreSQL does not run as root.
  await chmod(dir, 0o755);
  const { python } = await ensurePythonEnv({ root: envDir, python: process.env.PYTHON, onProgress: (message) => console.error(message) });
  const [source, calibration] = values.source ? [values.source, values.calibration].map((path) => path && resolve(path)) : await colours(python, dir);
  const stack = await up(dir);
  try {
    const rows = [];
    for (let run = 1; run <= Number(values.runs); run += 1) rows.push(await push(stack, source, calibration));
    return report(rows);
  } finally {
    stack.child.kill('SIGTERM');
    if (stack.child.exitCode === null) await once(stack.child, 'exit');
    rmSync(dir, { recursive: true, force: true });
  }
}

async function colours(python, dir) {
  await execa('mkdir', ['-p', join(dir, 'made')]);
  await execa(python, [join(root, 'test/support/colour-model.py'), join(dir, 'made')]);
  return [join(dir, 'made/model.tar.gz'), join(dir, 'made/pictures.tar.gz')];
}

async function up(dir) {
  const ports = [await getPort(), await getPort(), await getPort()];
  // A relative folder: a socket's path has a limit.
  const child = spawn(process.execPath, [main, '--dir', basename(dir), 'up', '--no-agents', '--port', `${ports[0]}`, '--gateway-port', `${ports[1]}`, '--mqtt-port', `${ports[2]}`], {
    cwd: dirname(dir), stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NO_COLOR: '1', PYTHON_ENV_DIR: envDir },
  });
  await new Promise((done, failed) => {
    createInterface({ input: child.stdout }).on('line', (line) => { if (line.includes('Reefkeeper is up')) done(); });
    child.once('exit', (code) => failed(new Error(`reef up ended with ${code}`)));
  });
  return { child, dir };
}

async function reef({ dir }, ...args) {
  const { stdout } = await execa(process.execPath, [main, '--dir', dir, '--json', ...args]);
  return stdout.trim().split('\n').map((line) => JSON.parse(line));
}

async function push(stack, source, calibration) {
  const worker = Number(JSON.parse(readFileSync(join(stack.dir, 'run/worker.pid'), 'utf8')).pid);
  const memory = watchMemory(worker);
  const begun = performance.now();
  const events = await reef(stack, 'model', 'push', source, '--name', 'bench', ...(calibration ? ['--calibration', calibration] : []), '--allow-worse');
  const totalMs = performance.now() - begun;
  const peak = await memory.end();
  const [job] = await reef(stack, 'job', 'show', events.find(({ event }) => event === 'queued').job);
  return { totalMs, peak, steps: job.steps.map(({ name, state, startedAt, endedAt }) => ({ name, state, ms: startedAt && endedAt ? new Date(endedAt) - new Date(startedAt) : 0 })) };
}

/** The largest sum of resident memory over a process and all below it, looked at ten times a second. */
function watchMemory(pid) {
  let [peak, on] = [0, true];
  const watching = (async () => {
    while (on) {
      peak = Math.max(peak, residentBelow(pid));
      await sleep(100);
    }
  })();
  return { async end() { on = false; await watching; return peak; } };
}

function residentBelow(top) {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && existsSync(`/proc/${name}/stat`)).flatMap((name) => {
    try {
      // After the name in brackets come state, parent and, as the 24th field, resident pages (proc(5)).
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return [{ pid: Number(name), parent: Number(fields[1]), bytes: Number(fields[21]) * 4_096 }];
    } catch {
      return [];
    }
  });
  const within = new Set([top]);
  for (let grown = true; grown;) {
    grown = false;
    for (const { pid, parent } of processes) if (within.has(parent) && !within.has(pid)) { within.add(pid); grown = true; }
  }
  return processes.filter(({ pid }) => within.has(pid)).reduce((sum, { bytes }) => sum + bytes, 0);
}

function report(rows) {
  let pass = true;
  for (const [index, { totalMs, peak, steps }] of rows.entries()) {
    const can = steps.filter(({ name }) => cacheable.includes(name));
    const cached = can.filter(({ state }) => state === 'CACHED').length;
    const right = peak <= limitBytes && (index === 0 || cached === can.length);
    pass &&= right;
    console.log(`push ${index + 1}: ${(totalMs / 1_000).toFixed(1)} s, peak ${(peak / 1024 ** 2).toFixed(0)} MiB, ${cached} of ${can.length} cacheable steps from the cache  ${right ? 'PASS' : 'FAIL'}`);
    console.log(`  ${steps.map(({ name, state, ms }) => `${name} ${state === 'SUCCEEDED' ? `${(ms / 1_000).toFixed(1)} s` : state.toLowerCase()}`).join(', ')}`);
  }
  return pass;
}
