// The process that holds native code. It may crash or hang; its host notices, and nobody else is harmed.
import { createHash } from 'node:crypto';
import { readFileSync, statSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { probeEdgeTpus } from './edgetpu.ts';
import { Interpreter } from './interpreter.ts';
import { loadNative } from './native.ts';
import { giveBackStartupCode } from './resident.ts';
import { stderrMark, type Answers, type Call, type Request } from './wire.ts';

const library = process.argv[2] || undefined;
const models = new Map<number, Interpreter>();
let lastModel = 0;
/** The Edge TPU holds 8 MB; what is far beyond any device's models only exhausts its memory. */
const maxModelBytes = 256 * 1024 * 1024;

const handlers: { [K in Request['kind']]: (request: Extract<Request, { kind: K }>) => Answers[K] } = {
  load({ path, digest, threads, expect, edgetpu }) {
    const { size } = statSync(path);
    if (size > maxModelBytes) throw new ReefError('inference.model_too_large', 'invalid', `${path} has ${size} bytes; models of more than ${maxModelBytes} are not loaded.`);
    const bytes = readFileSync(path);
    // TFLite runs damaged files without complaint and answers wrong, so nothing is loaded on trust.
    const found = createHash('sha256').update(bytes).digest('hex');
    if (found !== digest) throw new ReefError('artifact.checksum_mismatch', 'invalid', `${path} has digest ${found} instead of ${digest}; it is damaged or was changed.`);
    const model = Interpreter.load(bytes, { threads, ...(library ? { library } : {}), ...(expect ? { expect } : {}), ...(edgetpu ? { edgetpu } : {}) });
    lastModel += 1;
    models.set(lastModel, model);
    settle();
    return { model: lastModel, inputs: model.inputs, outputs: model.outputs, backend: model.backend, tfliteVersion: loadNative(library).version() };
  },
  infer({ model, inputs }) {
    return known(model).run(inputs);
  },
  bench({ model, inputs, runs }) {
    const interpreter = known(model);
    const totalUs = new Float64Array(runs);
    const before = process.cpuUsage();
    for (let run = 0; run < runs; run += 1) {
      const begin = process.hrtime.bigint();
      interpreter.run(inputs);
      totalUs[run] = Number(process.hrtime.bigint() - begin) / 1_000;
    }
    const { user, system } = process.cpuUsage(before);
    return { totalUs, cpuUs: user + system };
  },
  unload({ model }) {
    known(model).close();
    models.delete(model);
    return {};
  },
  probe(request) {
    return { ...probeEdgeTpus(request.library), tfliteVersion: loadNative(library).version() };
  },
};

function known(id: number): Interpreter {
  const model = models.get(id);
  if (!model) throw new ReefError('inference.closed', 'bug', `No model ${id} is loaded.`);
  return model;
}

process.on('message', (call: Call) => {
  try {
    process.send!({ id: call.id, ok: true, answer: handlers[call.kind](call as never) });
  } catch (thrown) {
    const { code, kind, message } = asReefError(thrown);
    // stderr and the channel are two ways: the mark tells the host that it has read all that TFLite said about this call.
    writeSync(2, stderrMark(call.id));
    process.send!({ id: call.id, ok: false, code, kind, message });
  }
});
/** Once what was needed to load a model has been used for the first time. */
let settling: NodeJS.Timeout | undefined;
function settle(): void {
  clearTimeout(settling);
  settling = setTimeout(giveBackStartupCode, 2_000);
  settling.unref();
}

process.on('disconnect', () => process.exit(0));
// Ctrl-C and a service manager's stop reach the whole process group; the host decides when its child ends.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
dieWithParent();

/** While native code hangs, 'disconnect' is never seen; the kernel then ends this process when its parent is gone (Linux). */
function dieWithParent(): void {
  if (process.platform !== 'linux') return;
  const [prSetPdeathsig, sigkill] = [1, 9];
  try {
    koffi.load('libc.so.6').func('int prctl(int option, unsigned long value)')(prSetPdeathsig, sigkill);
  } catch {
    // Another libc: then only 'disconnect' ends an orphan.
  }
}
