import { describe, expect, it } from 'vitest';
import { randomOf } from '@reefkeeper/platform/random';
import { normal } from './normal.ts';
import { createRollout, settingsFor, type DeviceSample, type Settings } from './rollout.ts';
import { judgeInstall, judgeSamples, noCounts, type GateName, type VerdictWord } from './verdict.ts';

// The promise of docs/rollouts.md, measured: an engine that looks at every tick is wrong no more often than alpha, over all looks of a wave
// together. Each run is one wave whose devices report one after another; it is judged at every report.
const runs = 2_000;
const alpha = 0.05;
const waveSize = 60;

type Wave = (run: number) => DeviceSample[];

function settings(gates: object): Settings {
  const off = { installFailures: null, errorRate: null, latencyP95: null, accuracy: null };
  return settingsFor(createRollout.parse({ version: 'm@1', workload: 'w', gates: { ...off, ...gates }, alpha, minReportingPercent: 0 }), 1_000);
}

/** Shares of runs in which a verdict was given at any look, and how many devices it took on average. */
function judged(wave: Wave, gate: GateName, rules: Settings, from = 1): { failed: number; passed: number; devices: number } {
  const end = { failed: 0, passed: 0, devices: 0 };
  for (let run = 1; run <= runs; run += 1) {
    const samples = wave(run);
    let [word, at]: [VerdictWord, number] = ['PENDING', from];
    for (; at <= samples.length && word === 'PENDING'; at += 1) word = judgeSamples(rules, samples.slice(0, at), true).find((one) => one.gate === gate)!.verdict;
    end.failed += Number(word === 'FAILED') / runs;
    end.passed += Number(word === 'PASSED') / runs;
    end.devices += (at - 1) / runs;
  }
  return end;
}

/** Devices whose p95 changes by the factor `ratio`, give or take 20 % from device to device. */
const latency = (ratio: number, size = waveSize): Wave => (run) => {
  const noise = normal(randomOf(run * 7_919));
  return Array.from({ length: size }, () => {
    const base = 20_000 * Math.exp(0.5 * noise());
    const now = base * ratio * Math.exp(0.2 * noise());
    const sample = (p95Us: number) => ({ inferences: 1_000, errors: 0, p50Us: p95Us / 1.3, p95Us, labelled: 0, correct: 0 });
    return { device: 'd', first: false, baseline: sample(base), current: sample(now) };
  });
};

/** Devices with 200 labelled frames before and 200 now; the chance of a right answer differs from site to site. */
const accuracy = (drop: number, size = waveSize): Wave => (run) => {
  const noise = normal(randomOf(run * 104_729));
  // As good as binomial at this size, and 200 times cheaper.
  const right = (p: number) => Math.min(200, Math.round(200 * p + Math.sqrt(200 * p * (1 - p)) * noise()));
  return Array.from({ length: size }, () => {
    const p = Math.min(0.97, Math.max(0.6, 0.85 + 0.05 * noise()));
    const sample = (correct: number) => ({ inferences: 1_000, errors: 0, p50Us: null, p95Us: null, labelled: 200, correct });
    return { device: 'd', first: false, baseline: sample(right(p)), current: sample(right(p - drop)) };
  });
};

/** Devices that push 60 numbers before and 60 now, each with a spread of 0.3 about a level that differs from device to device. */
const numbers = (ratio: number, size = waveSize): Wave => (run) => {
  const noise = normal(randomOf(run * 15_485_863));
  return Array.from({ length: size }, () => {
    const level = 2 * Math.exp(0.2 * noise());
    const sample = (mean: number) => {
      const seen = mean + (0.3 / Math.sqrt(60)) * noise();
      return { inferences: 1_000, errors: 0, p50Us: null, p95Us: null, labelled: 0, correct: 0, metrics: { level: { count: 60, sum: 60 * seen, sumSquares: 60 * (seen * seen + 0.09) } } };
    };
    return { device: 'd', first: false, baseline: sample(level), current: sample(level * ratio) };
  });
};

/** Devices on whose 100 shadow frames the version agrees with the active model in this share. */
const shadow = (share: number, size: number): Wave => (run) => {
  const next = randomOf(run * 32_452_843);
  return Array.from({ length: size }, () => ({ device: 'd', first: false, baseline: null, current: { inferences: 1_000, errors: 0, p50Us: null, p95Us: null, labelled: 0, correct: 0, shadow: { frames: 100, agreed: Array.from({ length: 100 }, () => Number(next() < share)).reduce((a, b) => a + b, 0) } } }));
};

const customGate = settings({ custom: [{ metric: 'level', better: 'lower', maxIncreasePercent: 10 }] });
const latencyGate = settings({ latencyP95: { maxIncreasePercent: 25, minIncreaseMs: 0 } });
const accuracyGate = settings({ accuracy: { maxDropPoints: 3 } });

describe(`over ${runs} waves of ${waveSize} devices, judged at every report`, () => {
  // Exactly at the limit either verdict would be wrong: the hardest case there is.
  it.each<[string, Wave, GateName, Settings]>([
    ['latency', latency(1.25), 'latency_p95', latencyGate],
    ['accuracy', accuracy(0.03), 'accuracy', accuracyGate],
    // Percentages of levels that differ: the spread of the excess grows with the level.
    ['a number of one\'s own', numbers(1.1), 'custom_level', customGate],
  ])('%s at its very limit: wrongly failed and wrongly passed in no more than alpha of the waves', (_what, wave, gate, rules) => {
    const { failed, passed } = judged(wave, gate, rules, 20);
    expect(failed).toBeLessThanOrEqual(alpha);
    expect(passed).toBeLessThanOrEqual(alpha);
  });

  it('installations: failed before the budget of the wave is spent, which it then never is, in no more than alpha of the waves', () => {
    const rules = settings({ installFailures: { maxPercent: 5, basis: 'group' } });
    let wronglyFailed = 0;
    for (let run = 1; run <= runs; run += 1) {
      const next = randomOf(run * 31_337);
      const answers = Array.from({ length: 200 }, () => (next() < 0.05 ? 'FAILED' as const : 'SUCCEEDED' as const));
      if (answers.filter((one) => one === 'FAILED').length > 0.05 * answers.length) continue;
      const counts = { ...noCounts(), QUEUED: answers.length };
      const failed = answers.some((answer) => {
        counts.QUEUED -= 1;
        counts[answer] += 1;
        return answer === 'FAILED' && judgeInstall(rules, counts)!.verdict === 'FAILED';
      });
      wronglyFailed += Number(failed) / runs;
    }
    expect(wronglyFailed).toBeLessThanOrEqual(alpha);
  });

  it.each<[string, Wave, GateName, Settings]>([
    ['a p95 that rises by 20 %', latency(1.2), 'latency_p95', settings({ latencyP95: { maxIncreasePercent: 0.1, minIncreaseMs: 0 } })],
    ['an accuracy that drops by 5 points', accuracy(0.05), 'accuracy', settings({ accuracy: { maxDropPoints: 0 } })],
  ])('power: %s is found in at least 95 % of the waves, by half of the devices on average', (_what, wave, gate, rules) => {
    const { failed, devices } = judged(wave, gate, rules, 20);
    expect(failed).toBeGreaterThanOrEqual(0.95);
    expect(devices).toBeLessThanOrEqual(waveSize / 2);
  });
});

describe('small waves go by a threshold, without the promise; over as many of them', () => {
  it.each([1, 3, 10])('a version that is just like the one before passes or waits on %d devices, and fails in no more than alpha', (size) => {
    for (const [wave, gate, rules] of [[latency(1, size), 'latency_p95', settings({ latencyP95: {} })], [accuracy(0, size), 'accuracy', settings({ accuracy: {} })]] as const) {
      expect(judged(wave, gate, rules, size).failed, gate).toBeLessThanOrEqual(alpha);
    }
  });
  it.each([1, 3, 10])('at the very limit, where chance alone decides on %d devices, numbers and agreement fail in no more than alpha', (size) => {
    for (const [wave, gate, rules] of [[numbers(1.1, size), 'custom_level', customGate], [shadow(0.9, size), 'shadow_agreement', settings({ shadowAgreement: { minPercent: 90 } })]] as const) {
      expect(judged(wave, gate, rules, size).failed, gate).toBeLessThanOrEqual(alpha);
    }
  });
});
