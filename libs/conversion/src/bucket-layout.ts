import { ReefError, type BucketObject } from '@reefkeeper/platform';

/** As Cloud AutoML Vision and Vertex AI write edge exports: one folder each. */
export type ExportLayout = 'edgetpu' | 'tflite' | 'saved_model';

export interface BucketExport {
  layout: ExportLayout;
  /** Ends with '/', but for the bucket's own root, which is ''. */
  folder: string;
  /** The model's one file; `saved_model.pb` of a SavedModel. */
  model: BucketObject;
  /** Class names, one a line. */
  labels: BucketObject | null;
  /** tflite_metadata.json */
  metadata: BucketObject | null;
  /** All that belongs to it, by name: also what makes two states of the folder different. */
  files: BucketObject[];
  /** What is certainly still to come. */
  missing: string[];
  /** What usually is there and may still come. */
  awaited: string[];
}

const modelFile = /^(?:edgetpu_model|model)(?:-[^/]*)?\.tflite$|_edgetpu\.tflite$/;
const edgetpuFile = /^edgetpu_model|_edgetpu\.tflite$/;
const labelsFile = /^dict(?:-[^/]*)?\.txt$/;
const metadataFile = /^tflite_metadata(?:-[^/]*)?\.json$/;
const savedModelFile = /^(?:saved_model\.pb|fingerprint\.pb|keras_metadata\.pb)$/;
const savedModelFolder = /^(?:variables|assets|assets\.extra)$/;

/** Which export's folder an object belongs to by its name; null for anything else. */
export function exportFolderOf(name: string): string | null {
  const parts = name.split('/');
  const base = parts.pop()!;
  if (savedModelFolder.test(parts.at(-1) ?? '')) return folder(parts.slice(0, -1));
  return [modelFile, labelsFile, metadataFile, savedModelFile].some((known) => known.test(base)) ? folder(parts) : null;
}

/** Every export among the objects, by folder. Folders without a model (yet) are none. */
export function exportsIn(objects: readonly BucketObject[]): BucketExport[] {
  const folders = new Map<string, BucketObject[]>();
  for (const object of objects) {
    const at = exportFolderOf(object.name);
    if (at !== null) folders.set(at, [...(folders.get(at) ?? []), object]);
  }
  return [...folders].flatMap(([at, files]) => exportOf(at, files.sort((a, b) => (a.name < b.name ? -1 : 1))) ?? []);
}

function exportOf(at: string, files: BucketObject[]): BucketExport | undefined {
  const own = (pattern: RegExp) => files.find(({ name }) => !name.slice(at.length).includes('/') && pattern.test(name.slice(at.length)));
  const labels = own(labelsFile) ?? null;
  const metadata = own(metadataFile) ?? null;
  // Compiled ones first: they were made for these devices.
  const model = own(edgetpuFile) ?? own(modelFile) ?? own(/^saved_model\.pb$/);
  if (!model) return undefined;
  const layout = edgetpuFile.test(model.name.slice(at.length)) ? 'edgetpu' : modelFile.test(model.name.slice(at.length)) ? 'tflite' : 'saved_model';
  const empty = files.filter(({ bytes, name }) => bytes === 0 && !/\/assets(\.extra)?\//.test(`/${name}`)).map(({ name }) => `${name.slice(at.length)} is empty`);
  if (layout !== 'saved_model') {
    const awaited = [...(labels ? [] : ['dict.txt']), ...(metadata ? [] : ['tflite_metadata.json'])];
    return { layout, folder: at, model, labels, metadata, files: [model, labels, metadata].filter((one) => one !== null), missing: empty, awaited };
  }
  const variables = files.map(({ name }) => name.slice(at.length)).filter((name) => name.startsWith('variables/'));
  return {
    layout, folder: at, model, labels, metadata, files: files.filter(({ name }) => !name.endsWith('.tflite')), missing: [...empty, ...missingVariables(variables)],
    // One whose values are constants has none; so has one whose variables are still on their way.
    awaited: variables.length === 0 ? ['variables/'] : [],
  };
}

/** Checkpoint files come in N parts that name N, with an index. */
function missingVariables(names: string[]): string[] {
  if (names.length === 0) return [];
  const missing = names.includes('variables/variables.index') ? [] : ['variables/variables.index'];
  const parts = names.flatMap((name) => /^variables\/variables\.data-(\d{5})-of-(\d{5})$/.exec(name)?.slice(1, 3) ?? []);
  const count = Number(parts[1] ?? 1);
  for (let part = 0; part < count; part += 1) {
    const name = `variables/variables.data-${`${part}`.padStart(5, '0')}-of-${`${count}`.padStart(5, '0')}`;
    if (!names.includes(name)) missing.push(name);
  }
  return missing;
}

/** How many quiet times an export waits for files that may still come. */
const patience = 4;

/** Null when it may be taken; else what it waits for. `idleMs` is the time since its last news. */
export function waitsFor({ missing, awaited }: Pick<BucketExport, 'missing' | 'awaited'>, idleMs: number, quietMs: number): string | null {
  if (missing.length > 0) return missing.join(', ');
  if (awaited.length > 0 && idleMs < patience * quietMs) return awaited.join(', ');
  return idleMs < quietMs ? 'a quiet moment' : null;
}

/**
 * The one export that an address means: a folder that is or holds it, or one of its files.
 * @throws ReefError `export.missing`, `export.ambiguous`
 */
export function exportAt(address: string, path: string, objects: readonly BucketObject[]): BucketExport {
  const wanted = exportFolderOf(path) ?? (path === '' || path.endsWith('/') ? path : `${path}/`);
  const found = exportsIn(objects.filter(({ name }) => name.startsWith(wanted)));
  // The folder itself before what lies below it.
  const [chosen, ...others] = found.filter((one) => one.folder === wanted).length > 0 ? found.filter((one) => one.folder === wanted) : found;
  if (!chosen) {
    throw new ReefError('export.missing', 'not_found', `No exported model lies under ${address}: neither edgetpu_model.tflite nor model.tflite nor saved_model.pb. ${objects.length === 0 ? 'Nothing at all lies there; check the address.' : `There are ${objects.length} objects, such as ${objects[0]!.name}.`}`, { detail: { address } });
  }
  if (others.length > 0) {
    const folders = found.map((one) => one.folder);
    throw new ReefError('export.ambiguous', 'invalid', `${found.length} exported models lie under ${address}: ${folders.slice(0, 5).join(', ')}${found.length > 5 ? ', ...' : ''}. Name the folder of one.`, { detail: { address, folders } });
  }
  return chosen;
}

/**
 * A model's name by its export's folder. AutoML Vision: `.../tflite-flowers_v2-2026-01-31T10:00:00.000Z/`; Vertex AI:
 * `.../model-1234/tflite/2026-01-31T.../`; else the last folder.
 */
export function modelNameOf(bucket: string, at: string): string {
  const parts = at.split('/').filter(Boolean);
  const dated = (part: string | undefined) => /\d{4}-?\d{2}-?\d{2}/.test(part ?? '');
  const vertex = parts.findLast((part) => /^model-\d+$/.test(part));
  const last = parts.findLast((part) => part.replace(/\d{4}-?\d{2}-?\d{2}.*$/, '').replaceAll(/[^A-Za-z]/g, '') !== '' && !/^(?:saved_model|tflite|edgetpu-tflite|edgetpu_tflite|tf-saved-model|export|exports)$/.test(part)) ?? bucket;
  const plain = vertex ?? (dated(last) ? last.replace(/[-_]?\d{4}-?\d{2}-?\d{2}.*$/, '').replace(/^(?:edgetpu_tflite|edgetpu-tflite|tflite|tf-saved-model|tf_saved_model)-/, '') : last);
  return plain.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 63) || 'imported';
}

function folder(parts: string[]): string {
  return parts.length === 0 ? '' : `${parts.join('/')}/`;
}
