import { ReefError } from '@reefkeeper/platform/errors';

export interface BucketRow {
  bucket: string;
  name: string;
  /** As written behind the name: `gs://bucket/image.jpg#1700000000000000`. */
  generation: string | null;
}

/** Every object of a bucket that a table of images names, once. */
export function bucketRows(table: string): BucketRow[] {
  const found = new Map<string, BucketRow>();
  for (const row of csvRows(table)) {
    const cell = row.find((one) => one.startsWith('gs://'));
    const [, bucket, name, generation] = /^gs:\/\/([^/]+)\/(.+?)(?:#(\d+))?$/.exec(cell ?? '') ?? [];
    if (bucket && name) found.set(`${bucket}/${name}`, { bucket, name, generation: generation ?? null });
  }
  return [...found.values()];
}

/** RFC 4180, without a header in mind. @throws ReefError `train.table_unreadable` for a quote that never ends */
export function csvRows(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = '';
  let quoted = false;
  const endRow = () => {
    row.push(cell.trim());
    if (row.some(Boolean)) rows.push(row);
    [row, cell] = [[], ''];
  };
  for (let at = text.startsWith('\uFEFF') ? 1 : 0; at < text.length; at += 1) {
    const char = text[at]!;
    if (quoted) {
      if (char !== '"') cell += char;
      else if (text[at + 1] === '"') cell += text[(at += 1)]!;
      else quoted = false;
    } else if (char === '"' && cell.trim() === '') [quoted, cell] = [true, ''];
    else if (char === ',') { row.push(cell.trim()); cell = ''; }
    else if (char === '\n') endRow();
    else if (char !== '\r') cell += char;
  }
  if (quoted) throw new ReefError('train.table_unreadable', 'invalid', 'The table of images breaks off inside quotation marks. Save it as CSV again.');
  endRow();
  return rows;
}

export function csvLine(cells: readonly string[]): string {
  return cells.map((cell) => (/[",\n\r]|^\s|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(',');
}
