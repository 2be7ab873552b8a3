import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { generalAdvice, refusedFromVersion, replacements } from './op-rules.ts';
import { opTable } from './op-table.ts';

const page = 'docs/edgetpu-rules.md';

it(`${page} has the table the analyzer applies`, async () => {
  const text = await readFile(join(import.meta.dirname, '../../..', page), 'utf8');
  const rows = opTable().map(({ op, since, evidence, highestVersionSeen, limits }) => `| ${op} | ${since ?? 'any'} | ${highestVersionSeen} | ${evidence} | ${limits.join('; ') || '-'} |`);
  expect(text).toContain(rows.join('\n'));
  expect(text).toContain(Object.entries(replacements).toSorted(([one], [other]) => one.localeCompare(other)).map(([op, advice]) => `| ${op} | ${advice} |`).join('\n'));
  for (const [op, { version }] of Object.entries(refusedFromVersion)) expect(text).toContain(`${op} from version ${version}`);
  expect(generalAdvice).toContain(page);
});
