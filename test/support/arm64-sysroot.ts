import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

const cache = join(import.meta.dirname, '../../node_modules/.cache/reef-arm64-sysroot');

/**
 * Debian's C and C++ libraries for arm64, unpacked into a folder, for qemu's `-L`. apt fetches and verifies them with lists and state of its own, so that
 * nothing of this machine's packages changes.
 */
export async function arm64Sysroot(): Promise<string> {
  const ready = await access(join(cache, 'lib/ld-linux-aarch64.so.1')).then(() => true, () => false);
  if (ready) return cache;
  await mkdir(join(cache, '..'), { recursive: true });
  const work = await mkdtemp(`${cache}-`);
  try {
    for (const folder of ['lists/partial', 'archives/partial', 'root', 'debs']) await mkdir(join(work, folder), { recursive: true });
    const options = ['APT::Architecture=arm64', 'APT::Architectures=arm64', `Dir::State::Lists=${work}/lists`, `Dir::Cache=${work}`, 'Dir::State::status=/dev/null', 'APT::Sandbox::User=root'].flatMap((option) => ['-o', option]);
    await execa('apt-get', [...options, 'update', '-qq']);
    await execa('apt-get', [...options, 'download', '-qq', 'libc6', 'libstdc++6', 'libgcc-s1'], { cwd: join(work, 'debs') });
    for (const deb of await readdir(join(work, 'debs'))) await execa('dpkg-deb', ['-x', join(work, 'debs', deb), join(work, 'root')]);
    await rm(cache, { recursive: true, force: true });
    await rename(join(work, 'root'), cache);
    return cache;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
