import { stripVTControlCharacters } from 'node:util';

const gap = 2;
const lengthOf = (text: string): number => Math.max(0, ...stripVTControlCharacters(text).split('\n').map((line) => line.length));
const longestWord = (text: string): number => lengthOf(text.replaceAll(/\s+/g, '\n'));

/**
 * Widths of columns that fit into a line: the widest give way first, and no word is cut, so that what is copied from a table is whole.
 * @returns undefined where even the longest words do not fit side by side
 */
export function widthsWithin(rows: readonly (readonly string[])[], line: number): number[] | undefined {
  const each = (measure: (text: string) => number) => (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => measure(row[column] ?? ''))) + gap);
  const wanted = each(lengthOf);
  const least = each(longestWord);
  const sum = (widths: readonly number[]) => widths.reduce((all, width) => all + width, 0);
  if (sum(wanted) <= line) return wanted;
  if (sum(least) > line) return undefined;
  const capped = (most: number) => wanted.map((width, column) => Math.max(least[column]!, Math.min(width, most)));
  let [low, high] = [0, Math.max(...wanted)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (sum(capped(middle)) <= line) low = middle;
    else high = middle - 1;
  }
  return capped(low);
}
