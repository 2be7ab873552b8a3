import { describe, expect, it } from 'vitest';
import { predictLatency, type LatencyFeatures } from '@reefkeeper/edgetpu';
import { forecastOf } from './forecast.ts';

const features = (convMcycles: number): LatencyFeatures => ({ convMcycles, depthwiseMmac: 5, inputMb: 0.15, outputMb: 0.001, instructionMb: 0.2, streamedMb: 0, from: 'compiled', cpuOps: 0 });
const [small, big] = [features(0.5), features(2)];

describe('forecast', () => {
  it('is the range of the class where a device has not run anything yet, and of its bus', () => {
    const [usb3, usb2] = forecastOf([{ hostClass: 'jetson-nano', variant: 'edgetpu-14', features: big, now: null }, { hostClass: 'jetson-nano', variant: 'edgetpu-14', features: big, now: null }, { hostClass: 'raspberry-pi-3', variant: 'edgetpu-14', features: big, now: null }]);
    const { lowMs, highMs } = predictLatency(big, 'usb3');
    expect(usb3).toMatchObject({ devices: 2, calibrated: 0, predictedMs: [Number(lowMs.toPrecision(3)), Number(highMs.toPrecision(3))], nowMs: null });
    expect(usb2!.predictedMs![0]).toBeGreaterThan(usb3!.predictedMs![0]);
  });

  it('is narrower, and follows the device, where it has run something', () => {
    // Twice as slow on the host's side as its class.
    const slow = 2 * predictLatency(small, 'usb3').ms;
    const [own] = forecastOf([{ hostClass: 'dev-board', variant: 'edgetpu-14', features: big, now: { ms: slow, features: small } }]);
    const { ms, lowMs, highMs } = predictLatency(big, 'usb3');
    expect(own).toMatchObject({ calibrated: 1, nowMs: Number(slow.toPrecision(3)) });
    const [low, high] = own!.predictedMs!;
    expect((low + high) / 2).toBeGreaterThan(ms);
    expect((high - low) / (low + high)).toBeLessThan((highMs - lowMs) / (lowMs + highMs));
  });

  it('is not made for the CPU, which the model says nothing about', () => {
    expect(forecastOf([{ hostClass: 'x86', variant: 'cpu-int8', features: null, now: { ms: 12, features: null } }])).toEqual([{ variant: 'cpu-int8', hostClass: 'x86', devices: 1, calibrated: 0, predictedMs: null, nowMs: 12, notes: [] }]);
    expect(forecastOf([])).toEqual([]);
  });
});
