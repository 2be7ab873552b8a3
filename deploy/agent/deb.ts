// Debian packages for devices: `npm run package:deb`. Byte for byte the same at every run from the same commit.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { architectures, lockedVersion, packageFolder, productVersion, root, sourceDateEpoch, type Architecture } from './packages.ts';
import { makeTrees, settle } from './tree.ts';

const run = promisify(execFile);
const debian = join(import.meta.dirname, 'debian');

interface Deb {
  name: string;
  version: string;
  /** Lines of the control file besides name, version, architecture and size. */
  control: Record<string, string>;
  executable: (path: string) => boolean;
  conffiles?: string[];
  /** Puts the files in place, below `folder`. */
  stage: (folder: string, architecture: Architecture, version: string) => Promise<void>;
}

const common = { Section: 'misc', Priority: 'optional', Maintainer: 'Reefkeeper <packages@reefkeeper.dev>', Homepage: 'https://reefkeeper.dev' };
const cLibraries = (glibc: string) => `libc6 (>= ${glibc}), libgcc-s1 | libgcc1, libstdc++6 (>= 8)`;

/** In the order in which they need each other. */
async function debs(architecture: Architecture, version: string): Promise<Deb[]> {
  const node = await packageFolder(`node-linux-${architectures[architecture]}`);
  const runtime: Deb = {
    name: 'reef-runtime', version: lockedVersion(`node-linux-${architectures[architecture]}`),
    control: {
      ...common, Section: 'javascript', Depends: cLibraries('2.28'),
      Description: 'Node.js for the Reefkeeper agent\n The runtime of reef-agent, out of the way of any other Node.js on the device:\n nothing of it is on the PATH.',
    },
    executable: (path) => path.endsWith('bin/node'),
    stage: async (folder) => {
      await copy(join(node, 'bin/node'), join(folder, 'usr/lib/reef-runtime/bin/node'));
      await mkdir(join(folder, 'usr/share/doc/reef-runtime'), { recursive: true });
      await writeFile(join(folder, 'usr/share/doc/reef-runtime/LICENSE.node.gz'), gzipSync(await readFile(join(node, 'LICENSE')), { level: 9 }));
    },
  };
  const sharp = ['sharp', `@img/sharp-linux-${architectures[architecture]}`, `@img/sharp-libvips-linux-${architectures[architecture]}`, '@img/colour', 'detect-libc', 'semver'];
  const folders = await Promise.all(sharp.map(async (name) => ({ name, folder: await packageFolder(name) })));
  const images: Deb = {
    name: 'reef-images', version: lockedVersion('sharp'),
    control: {
      ...common, Section: 'graphics', Depends: cLibraries('2.28'),
      Description: 'image decoder for the Reefkeeper agent\n Lets reef-agent read JPEG, PNG, WebP, GIF and TIFF files (sharp and libvips).\n Devices that take raw frames from a camera need none of it.',
    },
    executable: () => false,
    stage: async (target) => {
      for (const { name, folder } of folders) {
        await copy(folder, join(target, 'usr/lib/reef-images/node_modules', name), (path) => !/\/(src|install|bin|[^/]*\.d\.ts|[^/]*\.map)$/.test(path));
      }
    },
  };
  const agent: Deb = {
    name: 'reef-agent', version,
    control: {
      ...common, Depends: `reef-runtime (>= 24), adduser, ${cLibraries(architecture === 'amd64' ? '2.29' : '2.27')}`, Recommends: 'reef-images', Suggests: 'libedgetpu1-std',
      Description: 'agent of the Reefkeeper fleet orchestrator for Coral devices\n Keeps on this device what its fleet wants to run: downloads signed models,\n proves each on golden inputs before it serves, runs them on the Edge TPU or\n the CPU, reports, and goes back by itself when a new one is worse.',
    },
    executable: (path) => path === 'usr/bin/reef-agent' || path === 'usr/lib/reef-agent/launcher',
    conffiles: ['/etc/reef/agent.env'],
    stage: async (folder) => {
      const own = join(debian, 'reef-agent');
      const trees = await mkdtemp(join(tmpdir(), 'reef-tree-'));
      try {
        const [tree] = await makeTrees(trees, [architecture], version);
        await copy(tree!.folder, join(folder, 'usr/lib/reef-agent/release'));
      } finally {
        await rm(trees, { recursive: true, force: true });
      }
      await copy(join(import.meta.dirname, 'launcher'), join(folder, 'usr/lib/reef-agent/launcher'));
      await copy(join(own, 'reef-agent'), join(folder, 'usr/bin/reef-agent'));
      await copy(join(own, 'agent.env'), join(folder, 'etc/reef/agent.env'));
      // Debian 10 has both /lib and /usr/lib; where units and rules lie in /lib, both distributions find them.
      await copy(join(own, 'reef-agent.service'), join(folder, 'lib/systemd/system/reef-agent.service'));
      await copy(join(own, '60-reef-agent.rules'), join(folder, 'lib/udev/rules.d/60-reef-agent.rules'));
      await copy(join(root, 'apps/agent/README.md'), join(folder, 'usr/share/doc/reef-agent/README.md'));
    },
  };
  return [runtime, images, agent];
}

/** @param options.level of xz: 0 is ten times as fast and a quarter larger. @returns paths of the packages made */
export async function makeDebs(target: string, wanted: readonly Architecture[], { version = productVersion(), only, level = 6 }: { version?: string; only?: readonly string[]; level?: number } = {}): Promise<string[]> {
  await run('dpkg-deb', ['--version']).catch((cause: Error) => { throw new Error('dpkg-deb is needed to make packages: run this on Debian or Ubuntu, or apt-get install dpkg.', { cause }); });
  await mkdir(target, { recursive: true });
  const epoch = await sourceDateEpoch();
  const made: string[] = [];
  for (const architecture of wanted) {
    for (const deb of await debs(architecture, version)) if (!only || only.includes(deb.name)) made.push(await make(deb, architecture, target, epoch, level));
  }
  return made;
}

async function make(deb: Deb, architecture: Architecture, target: string, epoch: number, level: number): Promise<string> {
  const work = await mkdtemp(join(tmpdir(), 'reef-deb-'));
  try {
    await deb.stage(work, architecture, deb.version);
    const doc = join(work, 'usr/share/doc', deb.name);
    await mkdir(doc, { recursive: true });
    await copy(join(debian, deb.name, 'copyright'), join(doc, 'copyright'));
    const date = new Date(epoch * 1_000).toUTCString().replace('GMT', '+0000');
    await writeFile(join(doc, 'changelog.gz'), gzipSync(`${deb.name} (${deb.version}) stable; urgency=medium\n\n  * CHANGELOG.md of the project says what is new.\n\n -- ${common.Maintainer}  ${date}\n`, { level: 9 }));
    const own = join(debian, deb.name);
    const files = await readdir(own);
    if (files.includes('lintian-overrides')) await copy(join(own, 'lintian-overrides'), join(work, 'usr/share/lintian/overrides', deb.name));

    const control = join(work, 'DEBIAN');
    const sums: string[] = [];
    let bytes = 0;
    for (const entry of (await readdir(work, { withFileTypes: true, recursive: true })).filter((one) => one.isFile())) {
      const path = join(entry.parentPath, entry.name);
      const content = await readFile(path);
      bytes += content.length;
      sums.push(`${createHash('md5').update(content).digest('hex')}  ${relative(work, path)}`);
    }
    await mkdir(control);
    await writeFile(join(control, 'md5sums'), `${sums.sort((a, b) => (a.slice(34) < b.slice(34) ? -1 : 1)).join('\n')}\n`);
    if (deb.conffiles) await writeFile(join(control, 'conffiles'), `${deb.conffiles.join('\n')}\n`);
    const fields = { Package: deb.name, Version: deb.version, Architecture: architecture, 'Installed-Size': `${Math.ceil(bytes / 1_024)}`, ...deb.control };
    await writeFile(join(control, 'control'), `${Object.entries(fields).map(([name, value]) => `${name}: ${value}`).join('\n')}\n`);
    const scripts = ['preinst', 'postinst', 'prerm', 'postrm'];
    for (const script of scripts.filter((name) => files.includes(name))) await writeFile(join(control, script), (await readFile(join(own, script), 'utf8')).replaceAll('@VERSION@', deb.version));

    await settle(work, epoch, (path) => deb.executable(path) || scripts.some((script) => path === `DEBIAN/${script}`));
    const file = join(target, `${deb.name}_${deb.version}_${architecture}.deb`);
    // One thread: with more, the compressor cuts its blocks otherwise. xz, since Debian 10 knows no Zstandard here.
    await run('dpkg-deb', ['--root-owner-group', '-Zxz', `-z${level}`, '--build', work, file], { env: { ...process.env, SOURCE_DATE_EPOCH: `${epoch}`, DPKG_DEB_THREADS_MAX: '1' } });
    return file;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function copy(from: string, to: string, filter: (path: string) => boolean = () => true): Promise<void> {
  await mkdir(join(to, '..'), { recursive: true });
  await cp(from, to, { recursive: true, verbatimSymlinks: true, filter });
}

if (process.argv[1] === import.meta.filename) {
  const { values } = (await import('node:util')).parseArgs({ options: { out: { type: 'string', default: join(root, 'dist/packages') }, arch: { type: 'string', multiple: true, default: Object.keys(architectures) }, version: { type: 'string' }, only: { type: 'string', multiple: true } } });
  const options = { ...(values.version ? { version: values.version } : {}), ...(values.only ? { only: values.only } : {}) };
  for (const file of await makeDebs(values.out, values.arch as Architecture[], options)) process.stdout.write(`${relative(process.cwd(), file)}\n`);
}
