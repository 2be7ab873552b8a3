import { describe, expect, it } from 'vitest';
import { analyze } from './analyze.ts';
import { cachedTogether, inspectCompiled, inspectModel, residencyOf } from './compiled.ts';
import { latencyFeatures, predictLatency } from './latency.ts';
import { readModel } from './model.ts';
import { pairs, sharedJson, sharedModel, sharedPresent } from './shared.fixture.ts';
import { writeModel } from './write-model.ts';

const counted = (ops: { op: string; mapped: boolean }[], mapped: boolean): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const entry of ops) if (entry.mapped === mapped) counts[entry.op] = (counts[entry.op] ?? 0) + 1;
  return counts;
};

describe.skipIf(!sharedPresent)('public pairs of source and compiled model', () => {
  it.each(pairs)('$source: the forecast is what the compiler did ($compiled)', (pair) => {
    const analysis = analyze(readModel(sharedModel(pair.source)), { allowFloatIo: true });
    expect(counted(analysis.ops, true)).toEqual(pair.mapped);
    expect(counted(analysis.ops, false)).toEqual(pair.cpu);
    expect(analysis.forecast).toBe(pair.fullyMapped ? 'fully_mapped' : 'partly_mapped');
  });

  it('parameter bytes: mean error below 3 %, LSTM (not modelled) included', () => {
    const errors = pairs.map((pair) => {
      const { parameters } = analyze(readModel(sharedModel(pair.source)));
      const truth = pair.onChipParameterBytes + pair.offChipParameterBytes;
      return { complete: parameters.complete, error: Math.abs(parameters.bytes - truth) / truth };
    });
    const mean = (of: typeof errors): number => of.reduce((sum, { error }) => sum + error, 0) / of.length;
    expect(mean(errors)).toBeLessThan(0.03);
    expect(mean(errors.filter(({ complete }) => complete))).toBeLessThan(0.005);
    expect(errors.filter(({ complete }) => !complete)).toHaveLength(1);
  });

  it('what is streamed and what stays on the chip, where the model was compiled alone', () => {
    for (const pair of pairs.filter(({ compiled }) => !compiled.includes('cocompiled'))) {
      const { parameters } = analyze(readModel(sharedModel(pair.source)));
      expect(Math.abs(parameters.streamedBytes - pair.offChipParameterBytes), pair.source).toBeLessThan(4096);
      expect(parameters.fit).toBe('fits');
    }
  });

  it.each(pairs)('$compiled: memory, runtime, token and CPU operators are read back', (pair) => {
    const compiled = inspectCompiled(sharedModel(pair.compiled));
    expect(compiled).toMatchObject({
      onChipBytes: pair.onChipParameterBytes, streamedBytes: pair.offChipParameterBytes, scratchBytes: pair.scratchBytes, instructionBytes: pair.instructionBytes,
      tokens: pair.parameterCachingTokens, cpuOps: pair.cpu, minRuntime: Math.max(...pair.minRuntimeVersion), executableTypes: pair.executableTypes[0], chips: ['beagle'],
    });
    expect(analyze(readModel(sharedModel(pair.compiled))).verdict).toBe('already_compiled');
  });

  it('co-compiled models and pipeline segments are found by their token', () => {
    const open = (path: string): ReturnType<typeof inspectCompiled> => inspectCompiled(sharedModel(path));
    const together = ['0.25_128_quant_cocompiled_with_mobilenet_v1_0.5_160_quant', '0.5_160_quant_cocompiled_with_mobilenet_v1_0.25_128_quant']
      .map((name) => ({ name, compiled: open(`coral/cocompilation/mobilenet_v1_${name}_edgetpu.tflite`) }));
    const alone = { name: 'alone', compiled: open('coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite') };
    const segments = [0, 1].map((segment) => open(`coral/pipeline/ssd_mobilenet_v2_coco_quant_postprocess_segment_${segment}_of_2_edgetpu.tflite`));
    expect(cachedTogether(together[0]!.compiled, together[1]!.compiled)).toBe(true);
    expect(cachedTogether(segments[0]!, segments[1]!)).toBe(true);
    expect(cachedTogether(together[0]!.compiled, alone.compiled)).toBe(false);
    expect(residencyOf(together)).toMatchObject({ reloads: false, groups: [{ models: [together[0]!.name, together[1]!.name] }] });
    expect(residencyOf([...together, alone])).toMatchObject({ reloads: true });
  });

  it('every public model survives being written', () => {
    const canonical = (model: ReturnType<typeof readModel>): string => JSON.stringify([model.description, model.signatures, model.metadata, model.subgraphs], (key, value: unknown) =>
      key === 'buffer' ? undefined : value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value);
    for (const path of new Set(pairs.flatMap(({ source, compiled }) => [source, compiled]))) {
      const model = readModel(sharedModel(path));
      const written = writeModel(model);
      const again = readModel(written);
      expect(canonical(again) === canonical(model), path).toBe(true);
      expect(again.buffers.every((buffer) => buffer === null || (buffer.byteOffset - written.byteOffset) % 16 === 0), path).toBe(true);
    }
  });

  it('latency: within 25 % of the published times, on a host the terms were not fitted on', () => {
    const { rows } = sharedJson<{ rows: { key: string; host: string; ms: number }[] }>('edgetpu/latency_model.json');
    const checked = rows.filter(({ key }) => pairs.some(({ source }) => source === `coral/${key}.tflite`));
    expect(checked.length).toBeGreaterThanOrEqual(3);
    for (const { key, ms } of checked) {
      const model = readModel(sharedModel(`coral/${key}.tflite`));
      const compiled = inspectModel(readModel(sharedModel(`coral/${key}_edgetpu.tflite`)));
      const predicted = predictLatency(latencyFeatures(model, analyze(model), compiled), 'usb3').ms;
      expect(Math.abs(predicted - ms) / ms, key).toBeLessThanOrEqual(0.25);
    }
    const v2 = readModel(sharedModel('coral/mobilenet_v2_1.0_224_quant.tflite'));
    expect(predictLatency(latencyFeatures(v2, analyze(v2)), 'usb3').ms).toBeCloseTo(2.6, 0);
  });
});
