import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { execa } from 'execa';
import { architectures, type Architecture } from '../../deploy/agent/packages.ts';
import { makeTrees } from '../../deploy/agent/tree.ts';
import { AgentProcess } from '../support/agent-process.ts';
import { eventually, Fleet } from '../support/fleet.ts';

const all = Object.keys(architectures) as Architecture[];
const own = all.find((architecture) => architectures[architecture] === process.arch);
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-tree-'));
  await makeTrees(join(dir, 'a'), all);
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** Name, kind, mode, time and content of everything below. */
async function inventory(folder: string): Promise<string[]> {
  const { stdout } = await execa('find', ['.', '-printf', '%P %y %m %T@\n'], { cwd: folder });
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  const contents = await Promise.all(entries.filter((entry) => !entry.isDirectory()).map(async (entry) => {
    const path = join(entry.parentPath, entry.name);
    const content = entry.isSymbolicLink() ? await readlink(path) : await readFile(path);
    return `${path.slice(folder.length)} ${createHash('sha256').update(content).digest('hex')}`;
  }));
  return [...stdout.split('\n'), ...contents].sort();
}

describe('the deployable agent', () => {
  it.each(all)('is the same byte for byte at every run (%s)', async (architecture) => {
    await makeTrees(join(dir, 'b'), [architecture]);
    expect(await inventory(join(dir, 'b', architecture))).toEqual(await inventory(join(dir, 'a', architecture)));
  });

  // Mendel Linux is Debian 10: glibc 2.28. The amd64 library that Google built wants one more; Debian 10 boards are arm64.
  it.each([['arm64', [2, 28]], ['amd64', [2, 29]]] as const)('loads with the C library of old boards (%s)', async (architecture, [major, minor]) => {
    for (const file of (await readdir(join(dir, 'a', architecture), { recursive: true })).filter((name) => /\.(so|node)$/.test(name))) {
      // Needs no objdump: the wanted versions stand in the dynamic string table.
      const wanted = [...(await readFile(join(dir, 'a', architecture, file))).toString('latin1').matchAll(/\0GLIBC_(\d+)\.(\d+)/g)].map((match) => [Number(match[1]), Number(match[2])] as const);
      expect(wanted.length, file).toBeGreaterThan(0);
      for (const [x, y] of wanted) expect(x < major || (x === major && y <= minor), `${file} wants GLIBC_${x}.${y}`).toBe(true);
    }
  });

  it('carries the licences of what is in it', async () => {
    const text = await readFile(join(dir, 'a/arm64/licenses.txt'), 'utf8');
    for (const name of ['koffi', 'mqtt', 'zod', 'tfjs-tflite-node']) expect(text).toMatch(new RegExp(`^${name} \\d`, 'm'));
  });

  it.skipIf(!own)('enrols, proves a model and serves it from nothing but its own folder', async () => {
    const fleet = await Fleet.open();
    // Image files need the decoder, which is a package of its own; the self-test does not.
    const agent = await AgentProcess.enrolled(fleet, 'reef-p', [process.execPath, join(dir, 'a', own!, 'lib/agent/main.js')]);
    try {
      const one = fleet.publish(1);
      await agent.start();
      await fleet.want('reef-p', 1, { w: { bundle: one.bundle, policy: { observeS: 0 } } });
      const report = await fleet.reportWhere(({ workloads }) => workloads.w?.execution?.state === 'SUCCEEDED');
      expect(report.workloads.w).toMatchObject({ running: one.bundle, variant: 'cpu-int8', backend: 'cpu' });
      await fleet.command('reef-p', { id: 'bench-1', kind: 'bench', args: { runs: 5 } });
      expect(await eventually(() => fleet.results.find(({ id }) => id === 'bench-1'))).toMatchObject({ ok: false, failure: { code: 'image.decoder_missing' } });
      expect(await agent.stop()).toBe(0);
    } finally {
      await agent.remove();
      await fleet.close();
    }
  });
});
