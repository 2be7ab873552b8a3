import { mkdtemp, mkdir, copyFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
let tree: string;

beforeAll(async () => {
  tree = await mkdtemp(join(tmpdir(), 'reef-imports-'));
  await copyFile(join(root, '.oxlintrc.json'), join(tree, '.oxlintrc.json'));
});
afterAll(async () => rm(tree, { recursive: true, force: true }));

/** Lints one file in a tree that holds nothing else, with the project's own configuration. */
async function lint(file: string, source: string): Promise<{ ok: boolean; said: string }> {
  await mkdir(dirname(join(tree, file)), { recursive: true });
  await writeFile(join(tree, file), source);
  const { exitCode, stdout } = await execa(join(root, 'node_modules/.bin/oxlint'), ['--deny-warnings', file], { cwd: tree, reject: false });
  await rm(join(tree, file));
  return { ok: exitCode === 0, said: stdout };
}

describe('import directions (docs/ARCHITECTURE.md) are enforced by lint', () => {
  it.each([
    ['libs/telemetry/src/x.ts', '@reefkeeper/rollouts', 'a lower slice never asks an upper one'],
    ['libs/protocol/src/x.ts', '@reefkeeper/devices', 'the protocol stands alone'],
    ['libs/platform/src/x.ts', '@reefkeeper/registry', 'platform knows no domain word'],
    ['libs/bundle/src/x.ts', '@reefkeeper/platform', 'what runs on devices takes only the light door of platform'],
    ['libs/devices/src/x.ts', '@reefkeeper/controller', 'libraries never import apps'],
    ['libs/rollouts/src/x.ts', '../../../apps/controller/src/main.ts', 'not even by path'],
    ['apps/agent/src/x.ts', '@nestjs/common', 'the agent carries no Nest'],
    ['apps/agent/src/x.ts', '@reefkeeper/devices', 'the agent knows the protocol, not the server'],
    ['apps/cli/src/x.ts', '@reefkeeper/telemetry', 'the CLI asks the API'],
    ['apps/worker/src/x.ts', '@reefkeeper/controller', 'apps do not import each other'],
    ['apps/console/src/x.tsx', '@reefkeeper/protocol', 'the console speaks GraphQL and REST only'],
  ])('%s may not import %s: %s', async (file, target) => {
    const { ok, said } = await lint(file, `import { x } from '${target}';\nexport const y = x;\n`);
    expect(said).toContain('no-restricted-imports');
    expect(ok).toBe(false);
  });

  it.each([
    ['libs/rollouts/src/x.ts', '@reefkeeper/telemetry'],
    ['libs/bundle/src/x.ts', '@reefkeeper/platform/errors'],
    ['apps/agent/src/x.ts', '@reefkeeper/protocol'],
  ])('%s may import %s', async (file, target) => {
    expect(await lint(file, `import { x } from '${target}';\nexport const y = x;\n`)).toMatchObject({ ok: true });
  });
});
