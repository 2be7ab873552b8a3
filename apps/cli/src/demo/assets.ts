import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { ensurePythonEnv } from '@reefkeeper/conversion/python';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Output } from '../output.ts';

export interface DemoAssets {
  good: string;
  worse: string;
  labels: string;
  calibration: string;
  evaluation: string;
  frames: string;
  /** What the models expect: as `reef model push` takes it. */
  preprocessing: { resize: string; mean: string; std: string };
}

const packageDir = fileURLToPath(new URL('../../../../libs/conversion/python/', import.meta.url));

/** The pretrained classifier, its spoiled twin and the photographs, made once under `<dir>/demo` by `reef_demo`. */
export async function prepareDemo(output: Output, dir: string, signal?: AbortSignal): Promise<DemoAssets> {
  const home = resolve(dir, 'demo');
  const assets = { good: join(home, 'models/v1'), worse: join(home, 'models/v2'), labels: join(home, 'models/labels.txt'), calibration: join(home, 'photos/calibration'), evaluation: join(home, 'photos/evaluation'), frames: join(home, 'photos/frames') };
  const marker = join(home, 'complete');
  if (!existsSync(marker)) {
    const { python } = await ensurePythonEnv({ root: process.env.PYTHON_ENV_DIR ?? resolve(dir, 'python'), python: process.env.PYTHON, signal, onProgress: (message) => output.note(message) });
    for (const [what, sub] of [['models', 'models'], ['photos', 'photos']] as const) {
      output.note(`making the demonstration's ${what}`);
      const run = execa(python, ['-m', 'reef_demo', what, '--out', join(home, sub), '--cache', join(home, 'cache')], { env: { PYTHONPATH: packageDir, TF_CPP_MIN_LOG_LEVEL: '3', CUDA_VISIBLE_DEVICES: '-1' }, reject: false, all: true, ...(signal ? { cancelSignal: signal } : {}) });
      createInterface({ input: run.stdout }).on('line', (line) => { if (!line.startsWith('{')) output.note(`  ${line}`); });
      const { exitCode, all, isCanceled } = await run;
      if (isCanceled) throw new ReefError('up.interrupted', 'conflict', `Interrupted while the demonstration's ${what} were made; they are made again when next needed.`);
      if (exitCode !== 0) throw new ReefError('demo.assets_failed', 'unavailable', `The demonstration's ${what} could not be made:\n${all.split('\n').slice(-8).join('\n')}`);
    }
    await writeFile(marker, '');
  }
  const facts = JSON.parse(await readFile(join(dirname(assets.good), 'model.json'), 'utf8')) as { resize: string; mean: number[]; std: number[] };
  return { ...assets, preprocessing: { resize: facts.resize, mean: facts.mean.join(','), std: facts.std.join(',') } };
}
