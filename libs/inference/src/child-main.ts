// The process that holds native code. It may crash or hang; its host notices, and nobody else is harmed.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { probeEdgeTpus } from './edgetpu.ts';
import { Interpreter } from './interpreter.ts';
import { loadNative } from './native.ts';
import type { Answers, Call, Request } from './wire.ts';

const library = process.argv[2] || undefined;
const models = new Map<number, Interpreter>();
let lastModel = 0;

const handlers: { [K in Request['kind']]: (request: Extract<Request, { kind: K }>) => Answers[K] } = {
  load({ path, digest, threads, edgetpu }) {
    const bytes = readFileSync(path);
    // TFLite runs damaged files without complaint and answers wrong, so nothing is loaded on trust.
    const found = createHash('sha256').update(bytes).digest('hex');
    if (found !== digest) throw new ReefError('artifact.checksum_mismatch', 'invalid', `${path} has digest ${found} instead of ${digest}; it is damaged or was changed.`);
    const model = Interpreter.load(bytes, { threads, ...(library ? { library } : {}), ...(edgetpu ? { edgetpu } : {}) });
    lastModel += 1;
    models.set(lastModel, model);
    return { model: lastModel, inputs: model.inputs, outputs: model.outputs, backend: model.backend, tfliteVersion: loadNative(library).version() };
  },
  infer({ model, inputs }) {
    return known(model).run(inputs);
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
    process.send!({ id: call.id, ok: false, code, kind, message });
  }
});
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole process group; the host decides when its child ends.
process.on('SIGINT', () => {});
