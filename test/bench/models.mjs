import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

/** Paths of the built-in models, written into `dir`. They come from TypeScript sources, hence the process of its own. */
export function makeModels(dir) {
  execFileSync(process.execPath, ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', join(import.meta.dirname, 'make-models.ts'), dir], { stdio: 'inherit' });
  return readdirSync(dir).filter((name) => name.endsWith('.tflite')).map((name) => join(dir, name));
}
