export interface FileKind {
  kind: 'tflite' | 'empty' | 'keras-archive' | 'zip' | 'gzip' | 'tar' | 'hdf5' | 'saved-model' | 'frozen-graph' | 'numpy' | 'image' | 'html' | 'git-lfs' | 'json'
    | 'executable' | 'pytorch' | 'onnx' | 'unknown';
  /** With an article, to follow "is". */
  description: string;
  /** What the user can do with such a file here. */
  advice: string;
}

const convertIt = 'Give it to the pipeline as the source of a version: the convert step makes the .tflite file.';
const pickModel = 'Choose the .tflite file.';

const kinds: { kind: FileKind['kind']; test: (bytes: Uint8Array, head: string) => boolean; description: string; advice: string }[] = [
  { kind: 'empty', test: (bytes) => bytes.byteLength === 0, description: 'an empty file', advice: 'The export or the upload broke off; repeat it.' },
  { kind: 'keras-archive', test: (_, head) => head.startsWith('PK') && /config\.json|metadata\.json|model\.weights\.h5/.test(head), description: 'a Keras 3 archive (.keras)', advice: convertIt },
  { kind: 'pytorch', test: (_, head) => head.startsWith('PK') && /data\.pkl|\/version/.test(head), description: 'a PyTorch checkpoint', advice: 'Export it to TensorFlow first.' },
  { kind: 'zip', test: (_, head) => head.startsWith('PK\u0003\u0004') || head.startsWith('PK\u0005\u0006'), description: 'a ZIP archive', advice: `If it holds a SavedModel: ${convertIt}` },
  { kind: 'gzip', test: (_, head) => head.startsWith('\u001f\u008b'), description: 'a gzip file', advice: `If it holds a SavedModel: ${convertIt} Otherwise unpack it.` },
  { kind: 'hdf5', test: (_, head) => head.startsWith('\u0089HDF\r\n'), description: 'an HDF5 file (Keras .h5)', advice: convertIt },
  { kind: 'numpy', test: (_, head) => head.startsWith('\u0093NUMPY'), description: 'a NumPy array', advice: pickModel },
  { kind: 'image', test: (_, head) => head.startsWith('\u0089PNG') || head.startsWith('\u00ff\u00d8\u00ff') || head.startsWith('GIF8') || /^RIFF[^]{4}WEBP/.test(head) || /^BM[^]{4}\0{4}/.test(head), description: 'an image', advice: pickModel },
  { kind: 'html', test: (_, head) => /^\s*<(!doctype|html|\?xml)/i.test(head), description: 'a web page', advice: 'A download was answered with a page, often a login or an error: fetch the file itself.' },
  { kind: 'git-lfs', test: (_, head) => head.startsWith('version https://git-lfs'), description: 'a Git LFS pointer', advice: 'Run `git lfs pull` and use the file it fetches.' },
  { kind: 'executable', test: (_, head) => head.startsWith('\u007fELF') || head.startsWith('MZ'), description: 'a program', advice: pickModel },
  { kind: 'json', test: (_, head) => /^\s*[{[]\s*["{[\]}]/.test(head), description: 'a JSON file', advice: pickModel },
  { kind: 'tar', test: (_, head) => head.startsWith('ustar', 257), description: 'a tar archive', advice: `If it holds a SavedModel: ${convertIt}` },
  { kind: 'onnx', test: (_, head) => head.startsWith('\u0008') && /^[^]{2,64}(pytorch|onnx|tf2onnx)/.test(head), description: 'an ONNX model', advice: 'Convert it to TensorFlow first, for instance with onnx2tf.' },
  // SavedModel: field 1 = schema version 1, field 2 = a MetaGraphDef. GraphDef: field 1 = nodes, each starting with its name.
  { kind: 'saved-model', test: (_, head) => head.startsWith('\u0008\u0001\u0012'), description: 'a saved_model.pb', advice: 'Send the whole SavedModel directory as a .tar.gz or .zip: this file alone has no weights.' },
  { kind: 'frozen-graph', test: (bytes, head) => bytes.byteLength > 16 && /^\n[^]{1,5}\n[^][\w/.-]/.test(head), description: 'a TensorFlow graph (.pb)', advice: convertIt },
];

/** What a file is, by its first bytes. A TensorFlow Lite file says `TFL3` after its root offset. */
export function looksLike(bytes: Uint8Array): FileKind {
  if (/^TFL\d$/.test(String.fromCharCode(...bytes.subarray(4, 8)))) return { kind: 'tflite', description: 'a TensorFlow Lite model', advice: '' };
  const head = String.fromCharCode(...bytes.subarray(0, 512));
  const found = kinds.find(({ test }) => test(bytes, head));
  return found ?? { kind: 'unknown', description: 'of no kind known here', advice: pickModel };
}
