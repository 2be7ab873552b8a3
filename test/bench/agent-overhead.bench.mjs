// What an inference costs in the agent's child process over the same inference in a C program. Both run in this session, in turns, on the same library,
// model and input, so that a busy machine slows both.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { openInferenceHost, tfliteLibraryPath } from '../../libs/inference/dist/index.js';
import { makeModels } from './models.mjs';
import { interval, least, median } from './statistics.mjs';

const usage = `npm run bench -- agent-overhead [--model FILE]... [--max-rounds 1000]
Limit: an inference takes the agent at most 3 % or 50 us longer than the C program, whichever is more. Judged by processor time, which is
the time on a free core, since neither side ever waits: the median of the differences between rounds, with its whole 99 % interval below the
limit. Rounds go on until that is decided. Time on the clock is shown beside it, and fails too where it is over the limit for sure.
Without --model: two built-in models, of a few microseconds and about 5 ms. A model must have one input.
Exit code: 0 PASS; 1 FAIL, or UNDECIDED after --max-rounds because the machine is too busy.`;
const [leastRounds, roundMs] = [60, 50];
const limit = { ratio: 0.03, us: 50 };

export default async function agentOverhead(args) {
  const { values } = parseArgs({ args, options: { model: { type: 'string', multiple: true }, 'max-rounds': { type: 'string', default: '1000' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const dir = mkdtempSync(join(tmpdir(), 'reef-bench-'));
  try {
    const program = compile(dir);
    const rows = [];
    for (const model of values.model ?? makeModels(dir).filter((path) => basename(path).startsWith('colours'))) rows.push(await compare(program, model, dir, Number(values['max-rounds'])));
    print(rows);
    return rows.every(({ pass }) => pass);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function compile(dir) {
  const library = tfliteLibraryPath();
  const headers = join(dirname(library), '../include');
  const program = join(dir, 'agent-overhead');
  execFileSync('gcc', ['-O2', '-I', headers, '-o', program, join(import.meta.dirname, 'agent-overhead.c'), library, `-Wl,-rpath,${dirname(library)}`], { stdio: 'inherit' });
  return program;
}

async function compare(program, path, dir, maxRounds) {
  if (!existsSync(path)) throw new Error(`There is no model at ${path}.`);
  const host = openInferenceHost();
  host.on('exit', (error) => console.error(error.message));
  const model = await host.load({ path, digest: createHash('sha256').update(readFileSync(path)).digest('hex') });
  if (model.inputs.length !== 1) throw new Error(`${path} has ${model.inputs.length} inputs; the C program feeds one.`);
  const input = randomFillSync(Buffer.alloc(model.inputs[0].bytes));
  // Random bits are no numbers where the input is of floating point.
  if (model.inputs[0].dtype.startsWith('float')) input.fill(0);
  writeFileSync(join(dir, 'input'), input);

  const c = spawn(program, [path, join(dir, 'input')], { stdio: ['pipe', 'pipe', 'inherit'] });
  // Cores differ (neighbours, hyper-threads): both sides on the same one, where the system can say so.
  for (const pid of [c.pid, host.pid]) spawnSync('taskset', ['-cp', String(availableParallelism() - 1), String(pid)]);
  const lines = createInterface({ input: c.stdout })[Symbol.asyncIterator]();
  const sides = {
    c: async (runs) => {
      c.stdin.write(`${runs}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error('The C program ended.');
      const [sum, cpuUs, ...us] = value.split(' ').map(Number);
      return { sum, us, cpuUs };
    },
    agent: async (runs) => {
      const { totalUs, cpuUs } = await model.bench([input], runs);
      return { us: Array.from(totalUs), cpuUs };
    },
  };

  const warm = await sides.c(20);
  await sides.agent(20);
  // The child's JavaScript is compiled only after some hundred calls; short of that the comparison would be of something no agent lives with.
  await sides.agent(Math.min(500, Math.ceil(2e6 / median(warm.us))));
  const { outputs } = await model.infer([input]);
  const sameAnswer = outputs[0].reduce((sum, byte) => (Math.imul(sum, 31) + byte) >>> 0, 0) === warm.sum;
  const runs = Math.max(10, Math.min(1_000, Math.round((roundMs * 1e3) / median(warm.us))));

  const wall = { c: [], agent: [] };
  const cpu = { c: [], agent: [] };
  const over = { wall: [], cpu: [] };
  const ways = [];
  let verdict = 'UNDECIDED';
  for (let round = 0; round < maxRounds && verdict === 'UNDECIDED'; round += 1) {
    const middle = {};
    for (const side of round % 2 === 0 ? ['c', 'agent'] : ['agent', 'c']) {
      // The other side has just had the caches; the loop is measured, not the way into it.
      await sides[side](2);
      const { us, cpuUs } = await sides[side](runs);
      wall[side].push(...us);
      cpu[side].push(cpuUs / runs);
      middle[side] = median(us);
    }
    over.wall.push(middle.agent - middle.c);
    over.cpu.push(cpu.agent.at(-1) - cpu.c.at(-1));
    ways.push((await model.infer([input])).totalUs - middle.agent);
    if (over.cpu.length >= leastRounds) verdict = judge(over, allowed(median(cpu.c)));
  }
  if (!sameAnswer) verdict = 'FAIL: the answers differ';
  c.stdin.end();
  const rssKb = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? NaN);
  const rssMb = existsSync('/proc/self/status') ? rssKb(host.pid) / 1024 : null;
  await host.close();

  return {
    model: basename(path), samples: wall.c.length, rssMb, verdict, pass: verdict === 'PASS', allowedUs: allowed(median(cpu.c)), wayUs: median(ways),
    rows: Object.entries({ 'processor time': cpu, 'time on the clock': wall }).map(([what, { c, agent }], index) => ({ what, c, agent, over: [over.cpu, over.wall][index] })),
  };
}

function allowed(base) {
  return Math.max(limit.us, limit.ratio * base);
}

/** No data is not good news: a machine too busy to tell gives neither PASS nor FAIL. */
function judge(over, allowedUs) {
  const [low, high] = interval(over.cpu);
  if (low > allowedUs || interval(over.wall)[0] > allowedUs) return 'FAIL';
  return high <= allowedUs ? 'PASS' : 'UNDECIDED';
}

function print(models) {
  const column = (text) => String(text).padStart(11);
  console.log(['microseconds'.padEnd(32), ...['C min', 'C p50', 'agent min', 'agent p50', 'over', '99 % from', 'to', 'ratio'].map(column)].join(''));
  for (const { model, rows, samples, allowedUs, verdict, wayUs, rssMb } of models) {
    console.log(`${model}: ${verdict} (${allowedUs.toFixed(1)} us allowed; ${samples} inferences a side, in turns)`);
    for (const { what, c, agent, over } of rows) {
      console.log([`  ${what}`.padEnd(32), ...[least(c), median(c), least(agent), median(agent), median(over), ...interval(over)].map((us) => column(us.toFixed(1))), column((1 + median(over) / median(c)).toFixed(3))].join(''));
    }
    console.log(`  not in it: the way to the child and back, ${wayUs.toFixed(0)} us on the clock.${rssMb === null ? '' : ` The child holds ${rssMb.toFixed(0)} MiB.`}`);
  }
}
