import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { RotatingLog } from './log-file.ts';

const dir = mkdtempSync(join(tmpdir(), 'reef-log-'));
afterAll(() => rmSync(dir, { recursive: true }));

it('keeps the newest lines within twice its limit, over restarts', () => {
  const file = join(dir, 'sub', 'a.log');
  for (let start = 0; start < 3; start += 1) {
    const log = new RotatingLog(file, 100);
    for (let line = 0; line < 10; line += 1) log.write(`start ${start} line ${line}`);
    log.close();
  }
  expect(readdirSync(join(dir, 'sub')).sort()).toEqual(['a.log', 'a.log.1']);
  const kept = `${readFileSync(`${file}.1`, 'utf8')}${readFileSync(file, 'utf8')}`;
  expect(kept.length).toBeLessThanOrEqual(2 * 118);
  expect(kept.trimEnd().split('\n').at(-1)).toBe('start 2 line 9');
});

it('loses lines rather than its process where nothing can be written', () => {
  const log = new RotatingLog(join(dir, 'sub', 'a.log', 'below-a-file', 'b.log'));
  expect(() => log.write('lost')).not.toThrow();
  log.close();
});
