import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { list } from 'tar';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packTable, trainingText } from './train.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-table-'));
  await mkdir(join(dir, 'photos'));
  await mkdir(join(dir, 'scratch'));
  for (const name of ['photos/a.jpg', 'photos/b c.PNG', 'photos/d, "e".jpg', 'other.jpg']) await writeFile(join(dir, name), name);
});
afterAll(async () => { await rm(dir, { recursive: true }); });

async function packed(table: string): Promise<string[]> {
  await writeFile(join(dir, 'import.csv'), table);
  const names: string[] = [];
  await list({ file: await packTable(join(dir, 'import.csv'), join(dir, 'scratch')), onReadEntry: (entry) => { names.push(entry.path); } });
  return names;
}

describe('a table of images', () => {
  it('takes along what it names and is there, and nothing else', async () => {
    expect(await packed('TRAIN,photos/a.jpg,cat\r\nTEST,"photos/b c.PNG",dog\nTRAIN,photos/gone.jpg,dog\n"photos/d, ""e"".jpg", cat')).toEqual(['import.csv', 'photos/a.jpg', 'photos/b c.PNG', 'photos/d, "e".jpg']);
  });

  it('of objects in a bucket goes alone', async () => {
    await writeFile(join(dir, 'gs.csv'), 'gs://bucket/a.jpg,cat\n');
    expect(await packTable(join(dir, 'gs.csv'), join(dir, 'scratch'))).toBe(join(dir, 'gs.csv'));
  });

  it.each([['/etc/passwd.png,cat', 'below its folder'], ['../a.jpg,cat', 'below its folder'], ['photos/a.jpg,cat\ngs://bucket/b.jpg,dog', 'one place']])('%j is refused', async (table, why) => {
    await expect(packed(table)).rejects.toMatchObject({ code: 'option.invalid', message: expect.stringContaining(why) as string });
  });

  it('that is not there is named', async () => {
    await expect(packTable(join(dir, 'none.csv'), dir)).rejects.toMatchObject({ code: 'file.missing' });
  });
});

it('the end of a training: accuracy, matrix, the worst confusions first, and what was wrong with the images', () => {
  const text = trainingText({
    labels: ['cat', 'dog', 'owl'], base: { name: 'efficientnet-lite0', features: 1280 }, classes: ['cat', 'dog', 'owl'].map((label) => ({ label, train: 8, validation: 1, heldOut: 4 })),
    epochs: [{ epoch: 1, validationLoss: 1 }, { epoch: 2, validationLoss: 0.5 }], best: 2, stopped: 'all epochs were used', stoppedOn: 'held-out',
    heldOut: { images: 12, accuracy: 0.75, loss: 0.5, confusion: [[4, 0, 0], [2, 2, 0], [0, 1, 3]] },
    issues: [{ code: 'unreadable', message: 'images cannot be read and are left out', count: 7, names: ['a', 'b', 'c', 'd', 'e', 'f', 'g'] }],
  });
  expect(text).toMatch(/27 learnt from, 12 held out, 3 classes/);
  expect(text).toMatch(/75.0 % \(9 of 12\)/);
  expect(text).toMatch(/flatter/);
  expect(text).toMatch(/dog +2 +2 +\./);
  expect(text).toMatch(/dog taken for cat: 2 of 4\n +owl taken for dog: 1 of 4/);
  expect(text).toContain('7 images cannot be read and are left out: a, b, c, d, e, and 2 more');
});
