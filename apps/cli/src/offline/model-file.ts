import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { looksLike, readModel, type TfliteModel } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';

export interface ModelFile {
  path: string;
  bytes: Uint8Array;
  model: TfliteModel;
}

/** A FlatBuffer's offsets are 32 bits wide, and half of that is the largest that TensorFlow Lite takes. */
const mostBytes = 2 ** 31;

/**
 * Reads a `.tflite` file from disk; each error names the file and says what it is instead.
 * @throws ReefError `file.missing`, `model.not_tflite`, `model.unreadable`, `model.too_large`
 */
export async function openModelFile(path: string): Promise<ModelFile> {
  const found = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ENOENT' && cause.code !== 'ENOTDIR') throw cause;
    throw new ReefError('file.missing', 'not_found', `There is no file ${path}.`, { cause });
  });
  if (!found.isFile()) {
    throw new ReefError('model.not_tflite', 'invalid', found.isDirectory()
      ? `${path} is a folder, not a .tflite file. If it is a SavedModel, convert it with \`reef model push ${path}\`.` : `${path} is no regular file.`, { detail: { path } });
  }
  const handle = await open(path);
  try {
    // What is no model need not be read to its end to say so.
    const head = Buffer.alloc(Math.min(512, found.size));
    await handle.read(head, 0, head.length, 0);
    const kind = looksLike(head);
    if (kind.kind !== 'tflite') {
      throw new ReefError('model.not_tflite', 'invalid', `${path} is not a TensorFlow Lite model but ${kind.description}. ${kind.advice}`, { detail: { path, looksLike: kind.kind } });
    }
    if (found.size > mostBytes) throw new ReefError('model.too_large', 'invalid', `${path} has ${(found.size / 2 ** 30).toFixed(1)} GiB; a TensorFlow Lite model holds at most 2.`, { detail: { path, bytes: found.size } });
    const bytes = await handle.readFile();
    return { path, bytes, model: namingFile(path, () => readModel(bytes)) };
  } finally {
    await handle.close();
  }
}

/** The same error with the file's name in front: of several files it must be clear which. */
export function namingFile<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (thrown) {
    if (!(thrown instanceof ReefError)) throw thrown;
    throw new ReefError(thrown.code, thrown.kind, `${path}: ${thrown.message}`, { detail: { path, ...thrown.detail }, cause: thrown });
  }
}

/**
 * Whether a file's name says that it is compiled: the compiler appends `_edgetpu`, AutoML exports `edgetpu_model.tflite`. The word
 * elsewhere is the name of an architecture (`efficientnet-edgetpu-S_quant.tflite`).
 */
export function namedAsCompiled(path: string): boolean {
  return /_edgetpu\.tflite$|^edgetpu_model\.tflite$/i.test(basename(path));
}
