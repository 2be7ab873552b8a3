// Deltas as devices get them, for a model whose head was retrained and for one that was compiled again: how large, and what making and applying cost
// beside packing and unpacking the same file without the old one.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { parseArgs, promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { applyDelta, makeDelta } from '../../libs/bundle/dist/index.js';
import { readModel } from '../../libs/edgetpu/dist/index.js';
import { makeModels } from './models.mjs';
import { median } from './statistics.mjs';

const limit = { head: 1.05, again: 0.01, make: 5, apply: 12 };
const usage = `npm run bench -- delta [--rounds 7]
Pairs: the built-in model of 1.9 MB with weights that do not compress, its last layer retrained, and the whole compiled again (segments that moved by
their padding, each with a new header); the compiled pair under ../shared/fixtures (REEF_SHARED) where that is.
Limits: a retrained head takes at most ${limit.head} times its own new bytes, a recompilation ${100 * limit.again} % of the file. Making a delta takes at most ${limit.make} times as long as packing the
file alone at the same level, applying one ${limit.apply} times as long as unpacking it: medians of ratios between rounds, in turns in this process.`;

export default async function delta(args) {
  const { values } = parseArgs({ args, options: { rounds: { type: 'string', default: '7' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const dir = mkdtempSync(join(tmpdir(), 'reef-bench-'));
  try {
    const wide = readFileSync(makeModels(dir).find((path) => basename(path) === 'separable-wide.tflite'));
    let passed = true;
    for (const pair of [...pairsOf(wide), ...publicPairs()]) passed = (await measured(pair, Number(values.rounds))) && passed;
    console.log(passed ? 'PASS' : 'FAIL');
    return passed;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

async function measured({ name, old, next, mostBytes }, rounds) {
  const made = await makeDelta(old, next);
  if (!made) {
    console.log(`${name}: no delta was worth it`);
    return false;
  }
  if (!(await applied(old, made, next.length)).equals(next)) throw new Error(`${name}: the delta makes another file`);
  const [makeMs, packMs, applyMs, unpackMs] = [[], [], [], []];
  const alone = await pack(next);
  for (let round = 0; round < rounds; round += 1) {
    makeMs.push(await timed(() => makeDelta(old, next)));
    packMs.push(await timed(() => pack(next)));
    applyMs.push(await timed(() => applied(old, made, next.length)));
    unpackMs.push(await timed(() => unpack(alone)));
  }
  const ratio = (ours, theirs) => median(ours.map((ms, round) => ms / theirs[round]));
  const [make, apply] = [ratio(makeMs, packMs), ratio(applyMs, unpackMs)];
  const good = made.length <= mostBytes && make <= limit.make && apply <= limit.apply;
  console.log(`${good ? 'ok  ' : 'FAIL'} ${name}: ${made.length} of ${next.length} bytes, ${(100 * made.length / next.length).toFixed(2)} % (limit ${(100 * mostBytes / next.length).toFixed(2)} %); `
    + `made in ${median(makeMs).toFixed(0)} ms, ${make.toFixed(1)} times packing; applied in ${median(applyMs).toFixed(1)} ms, ${apply.toFixed(1)} times unpacking`);
  return good;
}

function pairsOf(model) {
  const random = noise(1);
  const [old, retrained] = [new Uint8Array(model), new Uint8Array(model)];
  const [graph, changed] = [old, retrained].map((bytes) => readModel(bytes).subgraphs[0]);
  for (const { data } of graph.tensors) if (data) data.set(random(data.length));
  retrained.set(old);
  const { inputs } = changed.operators.findLast(({ op }) => op === 'FULLY_CONNECTED');
  const head = inputs.slice(1).map((index) => changed.tensors[index].data);
  for (const data of head) data.set(random(data.length));
  const headBytes = head.reduce((sum, { length }) => sum + length, 0);
  return [
    { name: 'retrained head', old: Buffer.from(old), next: Buffer.from(retrained), mostBytes: Math.floor(limit.head * headBytes) },
    { name: 'compiled again', old: Buffer.from(old), next: compiledAgain(Buffer.from(old), random), mostBytes: Math.floor(limit.again * old.length) },
  ];
}

/** The same parameters in segments, each behind a header of its own and at another place. */
function compiledAgain(old, random) {
  const segments = [];
  for (let at = 0; at < old.length; at += 64 * 1024) segments.push(Buffer.from(random(16)), Buffer.alloc(random(1)[0] % 64), old.subarray(at, at + 64 * 1024));
  return Buffer.concat(segments);
}

function publicPairs() {
  const root = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../shared'), 'fixtures/coral');
  const [alone, together] = [join(root, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite'), join(root, 'cocompilation/mobilenet_v1_0.25_128_quant_cocompiled_with_mobilenet_v1_0.5_160_quant_edgetpu.tflite')];
  if (!existsSync(alone) || !existsSync(together)) return [];
  const next = readFileSync(together);
  return [{ name: 'MobileNet v1, compiled with another', old: readFileSync(alone), next, mostBytes: Math.floor(limit.again * next.length) }];
}

/** The same bytes at every run: xorshift32. */
function noise(seed) {
  let state = seed;
  return (length) => Uint8Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state & 255;
  });
}

async function applied(old, made, bytes) {
  const chunks = [];
  await applyDelta(old, Readable.from([made]), new Writable({ write(chunk, _encoding, done) { chunks.push(chunk); done(); } }), bytes);
  return Buffer.concat(chunks);
}

const pack = (content) => promisify(zstdCompress)(content, { params: { [constants.ZSTD_c_compressionLevel]: 12 } });
const unpack = promisify(zstdDecompress);

async function timed(work) {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}
