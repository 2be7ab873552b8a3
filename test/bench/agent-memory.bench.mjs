// What an agent holds in memory: supervisor and inference child, idle with MobileNet v2 224 int8. The agent is the one that devices get (`npm run package:agent`).
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { median } from './statistics.mjs';

const usage = `npm run bench -- agent-memory [--settle 10] [--max-mib 130] [--main FILE]
Limit: supervisor and one inference child together hold at most 130 MiB resident (RSS, shared pages counted in both), idle and connected, with a
model of MobileNet v2's layers loaded and proved. Median of ten looks. PSS counts a page that both use half in each.
--main measures another entry file than the packaged one. Needs Linux.`;
const sourceFlags = ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning'];
const root = join(import.meta.dirname, '../..');

export default async function agentMemory(args) {
  const { values } = parseArgs({ args, options: { settle: { type: 'string', default: '10' }, 'max-mib': { type: 'string', default: '130' }, main: { type: 'string' }, flag: { type: 'string', multiple: true, default: [] }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  if (!existsSync('/proc/self/smaps_rollup')) throw new Error('This system does not say what a process holds (/proc/PID/smaps_rollup).');
  const dir = mkdtempSync(join(tmpdir(), 'reef-bench-'));
  try {
    const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
    if (!values.main) execFileSync(process.execPath, [...sourceFlags, join(root, 'deploy/agent/tree.ts'), '--out', dir, '--arch', architecture], { stdio: ['ignore', 'ignore', 'inherit'], cwd: root });
    const main = values.main ?? join(dir, architecture, 'lib/agent/main.js');
    const { modelBytes, samples } = JSON.parse(execFileSync(process.execPath, ['--import', join(import.meta.dirname, 'built.mjs'), ...sourceFlags.slice(1), join(import.meta.dirname, 'agent-memory.ts'), main, JSON.stringify(values.flag), values.settle], { stdio: ['ignore', 'pipe', 'inherit'], cwd: root, maxBuffer: 1e8 }).toString());
    const column = (text) => String(text).padStart(12);
    const mib = (value) => column(value.toFixed(1));
    const processes = samples[0].map(({ what }, at) => ({ what, ...Object.fromEntries(['rss', 'pss', 'anonymous'].map((kind) => [kind, median(samples.map((sample) => sample[at]?.[kind] ?? 0))])) }));
    const together = Object.fromEntries(['rss', 'pss', 'anonymous'].map((kind) => [kind, median(samples.map((sample) => sample.reduce((sum, one) => sum + one[kind], 0)))]));
    console.log([`MiB, model of ${(modelBytes / 2 ** 20).toFixed(1)} MiB`.padEnd(28), ...['RSS', 'PSS', 'anonymous'].map(column)].join(''));
    for (const { what, rss, pss, anonymous } of [...processes, { what: 'together', ...together }]) console.log([what.padEnd(28), mib(rss), mib(pss), mib(anonymous)].join(''));
    const pass = processes.length === 2 && together.rss <= Number(values['max-mib']);
    console.log(`${pass ? 'PASS' : 'FAIL'}: ${together.rss.toFixed(1)} MiB of ${values['max-mib']} (${processes.length} processes)`);
    return pass;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
