// `node test/conversion-table.mjs` (after `npm run build`): measures every kind of source with every converter that is installed, and writes the table
// in docs/conversion.md. Takes some ten minutes. With files of JSON lines as arguments (`tf2.21=FILE`) it writes what was measured already.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { ensurePythonEnv, environments, hasPythonEnv } from '@reefkeeper/conversion/python';

const root = join(import.meta.dirname, '..');
const document = join(root, 'docs/conversion.md');
const converters = ['tf2.21', 'tf2.15'];
const [begin, end] = ['<!-- measured by test/conversion-table.mjs -->', '<!-- end of measured -->'];

const given = Object.fromEntries(process.argv.slice(2).map((one) => one.split('=')));
const columns = [];
for (const converter of converters) {
  const lines = given[converter] ? await readFile(given[converter], 'utf8') : process.argv.length > 2 ? null : await measured(converter);
  if (lines) columns.push({ converter, rows: lines.trim().split('\n').map((line) => JSON.parse(line)) });
}
const keys = [...new Set(columns.flatMap(({ rows }) => rows.map(keyOf)))];
const table = [
  `| source | ${columns.map(({ converter, rows }) => `${converter} (TensorFlow ${rows.find(({ tensorflow }) => tensorflow)?.tensorflow})`).join(' | ')} |`,
  `|---|${columns.map(() => '---|').join('')}`,
  ...keys.map((key) => `| ${key} | ${columns.map(({ rows }) => cell(rows.find((row) => keyOf(row) === key))).join(' | ')} |`),
].join('\n');
const text = await readFile(document, 'utf8');
await writeFile(document, `${text.slice(0, text.indexOf(begin) + begin.length)}\n${table}\n${text.slice(text.indexOf(end))}`);
console.log(table);

async function measured(converter) {
  const root_ = { root: join(root, '.reef/python'), python: process.env.PYTHON };
  const pythonOf = async (name) => (await hasPythonEnv({ ...root_, requirements: environments[name] })) ? (await ensurePythonEnv({ ...root_, requirements: environments[name] })).python : null;
  const [own, keras3, onnx] = await Promise.all([converter, 'tf2.21', 'onnx'].map(pythonOf));
  if (!own || !keras3) return null;
  const { stdout } = await execa(own, [join(root, 'test/support/measure-conversion.py'), '--keras2', own, '--keras3', keras3, ...(onnx ? ['--onnx', onnx] : [])], { stderr: 'inherit' });
  return stdout;
}

function keyOf({ kind, writtenBy }) {
  return kind.startsWith('Keras') ? `${kind}, written by ${writtenBy}` : kind;
}

function cell(row) {
  if (!row) return 'not measured';
  return row.refused ? `refused, \`${row.refused}\`` : `${(100 * row.agreement).toFixed(1)} %, cosine ${row.cosine.toFixed(4)}, error ${row.maxError.toFixed(3)}`;
}
