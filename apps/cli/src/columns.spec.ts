import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { widthsWithin } from './columns.ts';
import { table } from './output.ts';

/** As a person reads it: where CI is set, colours are on without a terminal. */
const told = (...how: Parameters<typeof table>) => stripVTControlCharacters(table(...how));

const word = fc.stringMatching(/^[a-z0-9-]{1,40}$/);
const sentence = fc.array(word, { minLength: 0, maxLength: 12 }).map((words) => words.join(' '));
const rows = fc.integer({ min: 1, max: 6 }).chain((columns) => fc.array(fc.array(sentence, { minLength: columns, maxLength: columns }), { minLength: 1, maxLength: 8 }));

it('a table fits its line, or says that it cannot, and never cuts a word', () => {
  fc.assert(fc.property(rows, fc.integer({ min: 10, max: 200 }), (cells, line) => {
    const widths = widthsWithin(cells, line);
    const longest = cells[0]!.map((_, column) => Math.max(...cells.map((row) => Math.max(...row[column]!.split(' ').map(({ length }) => length)))) + 2);
    if (!widths) expect(longest.reduce((all, one) => all + one, 0)).toBeGreaterThan(line);
    else {
      expect(widths.reduce((all, one) => all + one, 0)).toBeLessThanOrEqual(line);
      widths.forEach((width, column) => expect(width).toBeGreaterThanOrEqual(longest[column]!));
    }
  }));
});

const id = '6c170ed0-bcca-4b61-aad3-bb3a28b611f0';
const head = ['rollout', 'state', 'why'];
const cells = [[id, 'ROLLED_BACK', '0 % of labelled frames are right, 100 % before on the same devices; the limit is 95 %.']];

it('on a terminal sentences wrap, ids stay whole, and no line is longer than it', () => {
  const lines = told(head, cells, 80).split('\n');
  expect(Math.max(...lines.map((line) => line.trimEnd().length))).toBeLessThanOrEqual(80);
  expect(lines.length).toBeGreaterThan(3);
  expect(lines[1]).toContain(id);
});

it('where columns do not fit side by side, each row is told one below the other', () => {
  expect(told(head, cells, 40)).toBe(`rollout  ${id}\nstate    ROLLED_BACK\nwhy      ${cells[0]![2]}`);
});

it('columns in which nothing stands give way before that', () => {
  expect(told(['job', 'cached', 'error'], [[id, null, undefined], [id, null, null]], 40)).toBe(told(['job'], [[id], [id]], 40));
});

it('in a pipe a row is a line, however long', () => {
  expect(told(head, cells, Infinity).split('\n')).toHaveLength(2);
});
