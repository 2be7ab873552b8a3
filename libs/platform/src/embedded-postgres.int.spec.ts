import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startEmbeddedPostgres } from './embedded-postgres.ts';

it('lives in a folder named from where we stand, and is adopted by a start that names it in full', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'reef-embedded-'));
  await chmod(dir, 0o755);
  const before = process.cwd();
  process.chdir(dir);
  const first = await startEmbeddedPostgres('.reef', { throwaway: true }).finally(() => process.chdir(before));
  try {
    const second = await startEmbeddedPostgres(join(dir, '.reef'));
    expect(second).toMatchObject({ adopted: true, url: first.url });
    expect(await second.pid()).toBe(await first.pid());
  } finally {
    await first.stop();
    expect(await first.pid()).toBeUndefined();
    await rm(dir, { recursive: true });
  }
});
