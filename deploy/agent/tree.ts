// The agent as devices get it: `npm run package:agent`. One folder per architecture, byte for byte the same at every run.
import { chmod, cp, lutimes, mkdir, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { create } from 'tar';
import { rolldown, type OutputChunk } from 'rolldown';
import { architectures, packageFolder, productVersion, root, sourceDateEpoch, type Architecture } from './packages.ts';

/**
 * - `lib/agent/main.js` the supervisor, `lib/agent/child-main.js` the inference child, chunks beside them
 * - `lib/agent/libtensorflowlite_c.so` found there by libs/inference
 * - `build/koffi/...` where koffi looks for its binary, two folders above its code
 * - `lib/node_modules` leads to the image decoder, a package of its own: nine times the size of the rest, and devices with a camera need none
 * - `release.json` what this is; `licenses.txt` of everything inside
 */
export interface Tree { architecture: Architecture; folder: string; version: string }

export interface Release { schema: 1; version: string; architecture: Architecture; minNode: string }

const imagesFolder = '/usr/lib/reef-images/node_modules';
const sources = { main: 'apps/agent/src/main.ts', 'child-main': 'libs/inference/src/child-main.ts' };

/** @param version other than the product's for releases between */
export async function makeTrees(target: string, wanted: readonly Architecture[], version = productVersion()): Promise<Tree[]> {
  const { chunks, licenses } = await bundle(version);
  const epoch = await sourceDateEpoch();
  return Promise.all(wanted.map(async (architecture) => {
    const folder = join(target, architecture);
    await rm(folder, { recursive: true, force: true });
    const code = join(folder, 'lib/agent');
    await mkdir(code, { recursive: true });
    for (const { fileName, code: text } of chunks) await writeFile(join(code, fileName), text);
    const triplet = `linux_${architectures[architecture]}`;
    const koffi = join(await packageFolder(`@koromix/koffi-linux-${architectures[architecture]}`), triplet, 'koffi.node');
    await mkdir(join(folder, 'build/koffi', triplet), { recursive: true });
    await cp(koffi, join(folder, 'build/koffi', triplet, 'koffi.node'));
    await cp(join(await packageFolder('tfjs-tflite-node'), 'cc_deps', `linux_${architecture}`, 'libtensorflowlite_c.so'), join(code, 'libtensorflowlite_c.so'));
    await symlink(imagesFolder, join(folder, 'lib/node_modules'));
    await writeFile(join(folder, 'licenses.txt'), licenses);
    await writeFile(join(folder, 'package.json'), '{"type":"module"}\n');
    await writeFile(join(folder, 'release.json'), `${JSON.stringify({ schema: 1, version, architecture, minNode: '24.0.0' } satisfies Release)}\n`);
    await settle(folder, epoch);
    return { architecture, folder, version };
  }));
}

async function bundle(version: string): Promise<{ chunks: OutputChunk[]; licenses: string }> {
  const build = await rolldown({
    input: Object.fromEntries(Object.entries(sources).map(([name, file]) => [name, join(root, file)])),
    cwd: root, platform: 'node', external: ['sharp'], treeshake: true,
    // The plain door of koffi asks every platform's package for its binary; this one looks beside the code.
    resolve: { alias: { koffi: 'koffi/indirect' }, conditionNames: ['@reefkeeper/source', 'node', 'import', 'default'] },
    // CommonJS packages (write-file-atomic) ask for their own file name.
    transform: { define: { REEF_AGENT_VERSION: JSON.stringify(version), __filename: 'import.meta.filename', __dirname: 'import.meta.dirname' } },
    onLog: (level, log) => { if (level === 'warn' && log.code === 'UNRESOLVED_IMPORT') throw new Error(log.message); },
  });
  const { output } = await build.generate({ format: 'esm', dir: join(root, 'dist'), minify: true, keepNames: true, entryFileNames: '[name].js', chunkFileNames: '[name]-[hash].js' });
  await build.close();
  const chunks = output.filter((one) => one.type === 'chunk').sort((a, b) => (a.fileName < b.fileName ? -1 : 1));
  return { chunks, licenses: await licensesOf(chunks.flatMap(({ moduleIds }) => moduleIds)) };
}

/** The texts that the licences of bundled packages want to travel with them. */
async function licensesOf(modules: readonly string[]): Promise<string> {
  const folders = new Set(modules.map((id) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id.replace(/^\0/, ''))?.[1]).filter((folder) => folder !== undefined && !folder.includes('@reefkeeper')));
  folders.add(join(root, 'node_modules/tfjs-tflite-node'));
  const texts = await Promise.all([...folders].sort().map(async (folder) => {
    const { name, version, license } = JSON.parse(await readFile(join(folder!, 'package.json'), 'utf8')) as { name: string; version: string; license?: string };
    const file = (await readdir(folder!)).filter((one) => /^(licen[cs]e|copying|notice)/i.test(one)).sort();
    const text = await Promise.all(file.map((one) => readFile(join(folder!, one), 'utf8')));
    return `${name} ${version} (${license ?? 'see below'})\n\n${text.join('\n').trim() || 'Its package carries no text of its own.'}\n`;
  }));
  return texts.join(`\n${'-'.repeat(80)}\n`);
}

/**
 * The tree as one file: what a device downloads to update itself. Not compressed, because the difference to the release before travels, and most of a
 * release (the TFLite library) never changes.
 */
export async function archiveOf(folder: string): Promise<Buffer> {
  const names = (await readdir(folder, { recursive: true })).sort();
  const portable = { cwd: folder, portable: true, noDirRecurse: true, preservePaths: true, mtime: new Date(await sourceDateEpoch() * 1_000) };
  return create(portable, names).concat();
}

/** One time and two modes, whatever the umask and the clock of this machine. */
export async function settle(folder: string, epoch: number, executable: (path: string) => boolean = () => false): Promise<void> {
  for (const entry of (await readdir(folder, { withFileTypes: true, recursive: true }))) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isSymbolicLink()) await lutimes(path, epoch, epoch);
    else await chmod(path, entry.isDirectory() || executable(relative(folder, path).split(sep).join('/')) ? 0o755 : 0o644);
  }
  await chmod(folder, 0o755);
  // Folders last: writing into one changes its time.
  const all = (await readdir(folder, { withFileTypes: true, recursive: true })).filter((entry) => !entry.isSymbolicLink()).map((entry) => join(entry.parentPath, entry.name));
  for (const path of all.sort().reverse()) await utimes(path, epoch, epoch);
  await utimes(folder, epoch, epoch);
}

if (process.argv[1] === import.meta.filename) {
  const { values } = (await import('node:util')).parseArgs({ options: { out: { type: 'string', default: join(root, 'dist/agent') }, arch: { type: 'string', multiple: true, default: Object.keys(architectures) }, version: { type: 'string' } } });
  for (const { architecture, folder, version } of await makeTrees(values.out, values.arch as Architecture[], values.version)) {
    // `reef agent publish` takes these.
    const archive = join(values.out, `reef-agent_${version}_${architecture}.tar`);
    await writeFile(archive, await archiveOf(folder));
    process.stdout.write(`${relative(process.cwd(), folder)}\n${relative(process.cwd(), archive)}\n`);
  }
}
