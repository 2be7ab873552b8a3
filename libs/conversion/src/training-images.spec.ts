import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bucketRows, csvOf, csvRows } from './training-images.ts';

describe('a table of images', () => {
  it('is read as spreadsheets and AutoML write it', () => {
    expect(csvRows('\uFEFFTRAIN,gs://b/a.jpg,rose\r\n\r\n"gs://b/a, b.jpg" , "a ""red"" rose"\nx,')).toEqual([['TRAIN', 'gs://b/a.jpg', 'rose'], ['gs://b/a, b.jpg', 'a "red" rose'], ['x', '']]);
    expect(() => csvRows('a,"b')).toThrow(expect.objectContaining({ code: 'train.table_unreadable' }));
  });

  it('comes back as it was written', () => {
    fc.assert(fc.property(fc.array(fc.array(fc.string().map((text) => text.trim()), { minLength: 1, maxLength: 4 }).filter((row) => row.some(Boolean)), { minLength: 1 }), (rows) => {
      const clean = rows.map((row) => row.map((cell) => cell.replaceAll(/[\r\uFEFF]/g, '').trim())).filter((row) => row.some(Boolean));
      expect(csvRows(csvOf(clean))).toEqual(clean);
    }));
  });

  it('names each object of a bucket once, with its generation where it has one', () => {
    expect(bucketRows('TEST,gs://b/x/a.jpg#17,rose\ngs://b/x/a.jpg#17,rose\ngs://c/a #1 rose.jpg,rose\nlocal.jpg,rose\ngs://nothing,rose')).toEqual([
      { bucket: 'b', name: 'x/a.jpg', generation: '17' }, { bucket: 'c', name: 'a #1 rose.jpg', generation: null },
    ]);
  });
});
