// What the pre-flight analysis of a model costs (readModel + analyze) against a bare walk over the same fields with generated FlatBuffers accessors,
// in turns in this process; and whether it costs more where only the weights are larger.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { analyze, readModel } from '../../libs/edgetpu/dist/index.js';
import { walk } from './flatbuffers-walk.mjs';
import { makeModels } from './models.mjs';
import { interval, median } from './statistics.mjs';

const limit = { walk: 4, weights: 1.5 };
const usage = `npm run bench -- analyzer [--model FILE]... [--max-rounds 400]
Limits: reading and judging all models takes at most ${limit.walk} times the processor time of a bare walk over the same fields with npm's flatbuffers, as
generated code does it (no check, nothing kept, nothing judged); and a model whose weights are 400 times as large, with the same layers, takes at most
${limit.weights} times as long: constants are views into the file, nobody copies or scans them. Judged by the median of the ratios between rounds, with its
whole 99 % interval on one side.
Without --model: the built-in models, and all under ../shared/fixtures (REEF_SHARED) where that is.
Exit code: 0 PASS; 1 FAIL, or UNDECIDED after --max-rounds because the machine is too busy.`;
const [leastRounds, roundMs] = [40, 60];

export default async function analyzer(args) {
  const { values } = parseArgs({ args, options: { model: { type: 'string', multiple: true }, 'max-rounds': { type: 'string', default: '400' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const dir = mkdtempSync(join(tmpdir(), 'reef-bench-'));
  try {
    const built = makeModels(dir);
    const load = (path) => ({ name: basename(path), bytes: new Uint8Array(readFileSync(path)) });
    const models = (values.model ?? [...built, ...publicModels()]).map(load);
    for (const model of models) sameFields(model);
    const maxRounds = Number(values['max-rounds']);
    const ours = (list) => () => { for (const { bytes } of list) analyze(readModel(bytes)); };
    const [narrow, wide] = ['narrow', 'wide'].map((width) => [load(join(dir, `separable-${width}.tflite`))]);
    const results = [
      { what: 'analyzer / bare walk', limit: limit.walk, ...inTurns(ours(models), () => { for (const { bytes } of models) walk(bytes); }, limit.walk, maxRounds) },
      { what: 'large weights / small', limit: limit.weights, ...inTurns(ours(wide), ours(narrow), limit.weights, maxRounds) },
    ];
    print(models, results, { narrow: narrow[0], wide: wide[0] });
    return results.every(({ verdict }) => verdict === 'PASS');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function publicModels() {
  const root = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../shared'), 'fixtures');
  if (!existsSync(root)) return [];
  return readdirSync(root, { recursive: true }).filter((path) => path.endsWith('.tflite')).map((path) => join(root, path));
}

/** Both must have seen the same model, or the comparison is of nothing. */
function sameFields({ name, bytes }) {
  const { subgraphs } = readModel(bytes);
  const tensors = subgraphs.flatMap((graph) => graph.tensors);
  const seen = {
    tensors: tensors.length, operators: subgraphs.reduce((sum, { operators }) => sum + operators.length, 0),
    scales: tensors.reduce((sum, { quantisation }) => sum + (quantisation?.scale.length ?? 0), 0), constants: tensors.reduce((sum, { data }) => sum + (data?.byteLength ?? 0), 0),
  };
  if (JSON.stringify(seen) !== JSON.stringify(walk(bytes))) throw new Error(`${name}: the reader found ${JSON.stringify(seen)}, the walk ${JSON.stringify(walk(bytes))}.`);
}

/** Processor time of `one` over that of `other`, round by round, until the interval of the median lies on one side of the limit. */
function inTurns(one, other, most, maxRounds) {
  const cpuMs = (work, times) => {
    const begin = process.cpuUsage();
    for (let left = times; left > 0; left -= 1) work();
    const { user, system } = process.cpuUsage(begin);
    return (user + system) / 1000 / times;
  };
  // Compiled code on both sides before anything counts.
  const timesOf = (work) => { cpuMs(work, 5); return Math.max(1, Math.ceil(roundMs / cpuMs(work, 5))); };
  const sides = [{ work: one, times: timesOf(one), ms: [] }, { work: other, times: timesOf(other), ms: [] }];
  const ratios = [];
  let verdict = 'UNDECIDED';
  for (let round = 0; round < maxRounds && verdict === 'UNDECIDED'; round += 1) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) side.ms.push(cpuMs(side.work, side.times));
    ratios.push(sides[0].ms.at(-1) / sides[1].ms.at(-1));
    if (ratios.length >= leastRounds) {
      const [low, high] = interval(ratios);
      verdict = low > most ? 'FAIL' : high <= most ? 'PASS' : 'UNDECIDED';
    }
  }
  return { verdict, ratio: median(ratios), interval: interval(ratios), rounds: ratios.length, ms: sides.map(({ ms }) => median(ms)) };
}

function print(models, results, { narrow, wide }) {
  const megabytes = models.reduce((sum, { bytes }) => sum + bytes.byteLength, 0) / 2 ** 20;
  const [{ ms: [oursMs, walkMs] }] = results;
  console.log(`${models.length} models, ${megabytes.toFixed(1)} MiB: ${(models.length / oursMs * 1000).toFixed(0)} models/s, ${(oursMs / megabytes).toFixed(3)} ms per MiB (bare walk ${(walkMs / megabytes).toFixed(3)}); processor time`);
  for (const { what, verdict, ratio, interval: [low, high], limit, rounds } of results) {
    console.log(`  ${what.padEnd(24)} ${ratio.toFixed(2)} (99 % ${low.toFixed(2)} to ${high.toFixed(2)}, limit ${limit}, ${rounds} rounds): ${verdict}`);
  }
  console.log(`  the small and the large one: ${[narrow, wide].map(({ bytes }) => `${(bytes.byteLength / 1024).toFixed(0)} KiB`).join(' and ')}, the same layers`);
}
