import { execa } from 'execa';
import { readFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
const { stdout } = await execa('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], { cwd: root });
const documents = stdout.split('\n').filter(Boolean);

/** What a document promises exists: `libs/x/y.ts`-like words in code spans, and the targets of relative links. */
export function pathsNamedIn(markdown: string): { fromRoot: string[]; relative: string[] } {
  const prose = markdown.replace(/^```[\s\S]*?^```/gm, '');
  const fromRoot = [...prose.matchAll(/`((?:apps|libs|deploy|test|docs|\.ci)\/[A-Za-z0-9_./-]+)`/g)].map((match) => match[1]!);
  const relative = [...prose.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map((match) => match[1]!);
  return { fromRoot, relative };
}

describe('documents', () => {
  it('the finder sees code spans and links, not fenced code', () => {
    expect(pathsNamedIn('see `libs/a.ts` and [b](../b.md#x)\n```\n`libs/no.ts`\n```\n')).toEqual({ fromRoot: ['libs/a.ts'], relative: ['../b.md'] });
  });

  it.each(documents)('every path named in %s exists', async (document) => {
    const { fromRoot, relative } = pathsNamedIn(await readFile(join(root, document), 'utf8'));
    const missing = [...fromRoot.filter((path) => !existsSync(join(root, path))), ...relative.filter((path) => !existsSync(join(root, dirname(document), path)))];
    expect(missing).toEqual([]);
  });
});
