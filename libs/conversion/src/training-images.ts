import { parse } from 'csv-parse/sync';
import { stringify } from 'csv-stringify/sync';
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

/**
 * RFC 4180 as spreadsheets and AutoML write it, empty rows left out, without a header in mind.
 * @param name for the message. @throws ReefError `train.table_unreadable`
 */
export function csvRows(text: string, name = 'The table of images'): string[][] {
  try {
    return parse(text, { bom: true, trim: true, record_delimiter: ['\r\n', '\n'], relax_column_count: true, relax_quotes: true, skip_empty_lines: true, skip_records_with_empty_values: true });
  } catch (cause) {
    throw new ReefError('train.table_unreadable', 'invalid', `${name} cannot be read: ${(cause as Error).message}. Save it as CSV again.`, { cause });
  }
}

export function csvOf(rows: readonly (readonly string[])[]): string {
  return stringify(rows as string[][]);
}
