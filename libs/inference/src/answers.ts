import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openInferenceHost } from './host.ts';

/**
 * What a model that is only in memory answers to some inputs, on the CPU, in a child of its own that is gone afterwards.
 * @param inputs per run the bytes of each input tensor
 * @returns per run the bytes of each output tensor
 */
export async function answersOnce(model: Uint8Array, inputs: readonly Uint8Array[][], { library, dir = tmpdir(), signal }: { library?: string | undefined; dir?: string; signal?: AbortSignal } = {}): Promise<Uint8Array[][]> {
  const folder = await mkdtemp(join(dir, 'reef-once-'));
  const host = openInferenceHost(library ? { library } : {});
  host.on('exit', () => {});
  const stop = () => void host.close();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const path = join(folder, 'model.tflite');
    await writeFile(path, model);
    const loaded = await host.load({ path, digest: createHash('sha256').update(model).digest('hex') });
    const answers: Uint8Array[][] = [];
    for (const input of inputs) {
      signal?.throwIfAborted();
      answers.push((await loaded.infer(input)).outputs);
    }
    return answers;
  } finally {
    signal?.removeEventListener('abort', stop);
    await host.close();
    await rm(folder, { recursive: true, force: true });
  }
}
