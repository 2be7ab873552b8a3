import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { analyze } from './analyze.ts';
import { busOf, calibrateHost, hostTerms, latencyFeatures, predictLatency, type LatencyFeatures, type MeasuredRun } from './latency.ts';
import { readModel } from './model.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

const base: LatencyFeatures = { convMcycles: 0, depthwiseMmac: 0, inputMb: 0, outputMb: 0, instructionMb: 0, streamedMb: 0, from: 'compiled', cpuOps: 0 };
const runs: LatencyFeatures[] = [
  base, { ...base, inputMb: 0.15, outputMb: 0.001, instructionMb: 0.2, convMcycles: 0.1 }, { ...base, inputMb: 0.8, outputMb: 0.28, instructionMb: 0.16, depthwiseMmac: 60 },
  { ...base, inputMb: 0.05, outputMb: 0.001, instructionMb: 0.02 }, { ...base, inputMb: 0.1, outputMb: 0.3, instructionMb: 0.4, streamedMb: 1 },
];

describe('predictLatency', () => {
  it('each term counts with its weight', () => {
    const ms = (part: Partial<LatencyFeatures>): number => predictLatency({ ...base, ...part }, 'usb3').ms - 0.281;
    expect([ms({ convMcycles: 1 }), ms({ depthwiseMmac: 10 }), ms({ streamedMb: 1 }), ms({ inputMb: 1 }), ms({ outputMb: 1 }), ms({ instructionMb: 1 })].map((value) => Number(value.toFixed(4)))).toEqual([2.018, 0.576, 3, 3.02, 32, 2.16]);
  });

  it('a quarter up and down before any run, and operators on the CPU are mentioned', () => {
    const prediction = predictLatency({ ...base, cpuOps: 3 }, 'usb2');
    expect(prediction).toMatchObject({ ms: 0.172, lowMs: 0.172 * 0.75, highMs: 0.172 * 1.25, calibrated: false, notes: [expect.stringContaining('3 operator(s)')] });
  });

  it('features: cycles fill columns of 64, only what crosses the bus counts', () => {
    const net = new TfliteBuilder();
    const first = net.conv(net.input([1, 8, 8, 4]), 8, { kernel: 1 });
    net.output(net.conv(net.layer('LEAKY_RELU', net.depthwise(first), [1, 8, 8, 8]), 16));
    const model = readModel(net.build());
    expect(latencyFeatures(model, analyze(model))).toMatchObject({
      convMcycles: 64 * 4 * 64 / 4096 / 1e6, depthwiseMmac: 64 * 9 * 8 / 1e6, inputMb: 256 / 1e6, outputMb: 512 / 1e6, streamedMb: 0, from: 'source', cpuOps: 2,
    });
  });
});

it.each([['dev-board', 'usb3'], ['x86-64', 'usb3'], ['raspberry-pi-4', 'usb3'], ['raspberry-pi-3', 'usb2'], ['x86-64-usb2', 'usb2'], ['raspberry-pi-zero', 'usb2']])('%s is on %s', (host, bus) => expect(busOf(host)).toBe(bus));

describe('calibrateHost', () => {
  const measured = (terms: typeof hostTerms.usb3, noise = 0): MeasuredRun[] => runs.map((features, index) => ({ features, ms: predictLatency(features, { terms, spread: 0, runs: 0 }).ms * (1 + noise * (index % 2 === 0 ? 1 : -1)) }));

  it('finds the terms the runs were made with', () => {
    const truth = { t0Ms: 0.5, inputMsPerMb: 6, outputMsPerMb: 20, instructionMsPerMb: 4 };
    const found = calibrateHost(measured(truth), 'usb3')!;
    for (const { features, ms } of measured(truth)) expect(Math.abs(predictLatency(features, found).ms - ms) / ms).toBeLessThan(0.02);
    expect(found.spread).toBeLessThan(0.1);
  });

  it('one run moves the prediction of that run and leaves the range wide', () => {
    const features = runs[1]!;
    const found = calibrateHost([{ features, ms: 3 }], 'usb3')!;
    expect(predictLatency(features, found).ms).toBeCloseTo(3, 1);
    expect(found.spread).toBeGreaterThan(0.1);
  });

  it('no usable run, no calibration', () => expect([calibrateHost([], 'usb3'), calibrateHost([{ features: base, ms: Number.NaN }], 'usb3')]).toEqual([null, null]));

  it('terms are never negative, whatever was measured', () => {
    fc.assert(fc.property(fc.array(fc.record({ pick: fc.nat(runs.length - 1), ms: fc.double({ min: 0.01, max: 500, noNaN: true }) }), { minLength: 1, maxLength: 20 }), (picks) => {
      const found = calibrateHost(picks.map(({ pick, ms }) => ({ features: runs[pick]!, ms })), 'usb3')!;
      expect(Object.values(found.terms).every((term) => Number.isFinite(term) && term >= 0)).toBe(true);
      const prediction = predictLatency(runs[1]!, found);
      expect(prediction.lowMs).toBeLessThanOrEqual(prediction.ms);
    }));
  });
});
