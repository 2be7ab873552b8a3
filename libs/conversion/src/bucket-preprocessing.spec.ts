import { describe, expect, it } from 'vitest';
import { exportPreprocessing } from './bucket-preprocessing.ts';

const input = (dtype: 'uint8' | 'int8' | 'float32', scale: number | null = null, zeroPoint: number | null = null) => ({ name: 'image', shape: [1, 224, 192, 3], dtype, scale, zeroPoint });
const claim = (mean: number, std: number) => ({ name: null, description: null, normalisation: { mean: [mean], std: [std] }, labels: null });
/** What the device's preprocessing gives the tensor for a pixel. */
const quantised = (pixel: number, { mean, std }: { mean?: unknown; std?: unknown }, scale: number, zeroPoint: number) => (pixel - Number(mean)) / Number(std) / scale + zeroPoint;

describe('pre-processing of an export', () => {
  it.each([['uint8', 1 / 128, 128, 0], ['uint8', 1, 0, 0], ['int8', 1 / 255, -128, -128], ['int8', 0.0186, -14, -128]] as const)('%s with scale %d and zero point %d takes pixels as they are', (dtype, scale, zeroPoint, lowest) => {
    const { preprocessing, warnings } = exportPreprocessing(input(dtype, scale, zeroPoint), null, null);
    for (const pixel of [0, 100, 255]) expect(quantised(pixel, preprocessing, scale, zeroPoint)).toBeCloseTo(pixel + lowest);
    expect([preprocessing.resize, warnings]).toEqual(['stretch', []]);
  });

  it('believes metadata that fits the quantisation', () => {
    expect(exportPreprocessing(input('uint8', 1 / 128, 128), null, claim(127.5, 127.5))).toEqual({ preprocessing: { resize: 'stretch', mean: [127.5], std: [127.5] }, warnings: [] });
    expect(exportPreprocessing(input('int8', 0.0186, -14), null, claim(123.7, 58.4))).toMatchObject({ preprocessing: { mean: [123.7] }, warnings: [] });
  });

  it('does not believe metadata that would put every pixel at the end of the range', () => {
    const { preprocessing, warnings } = exportPreprocessing(input('uint8', 1 / 128, 128), null, claim(0, 1));
    expect(quantised(200, preprocessing, 1 / 128, 128)).toBeCloseTo(200);
    expect(warnings).toEqual([expect.stringMatching(/mean 0 and deviation 1.*128 to 32768.*as they are/)]);
  });

  it('a float model needs the metadata', () => {
    expect(exportPreprocessing(input('float32'), null, claim(0, 255))).toMatchObject({ preprocessing: { mean: [0], std: [255] }, warnings: [] });
    expect(exportPreprocessing(input('float32'), null, null).warnings).toEqual([expect.stringContaining('--mean')]);
  });

  it('parts of two exports are found out', () => {
    expect(() => exportPreprocessing(input('uint8', 1, 0), '{"imageHeight": 192, "imageWidth": 224, "imageChannels": 3}', null)).toThrow(expect.objectContaining({ code: 'export.mixed' }));
    expect(exportPreprocessing(input('uint8', 1, 0), '{"imageHeight": 224, "imageWidth": 192, "imageChannels": 3, "inferenceType": "QUANTIZED_UINT8"}', null).warnings).toEqual([]);
    expect(() => exportPreprocessing(input('uint8', 1, 0), '{"imageHei', null)).toThrow(expect.objectContaining({ code: 'export.metadata_unreadable' }));
  });
});
