import { expect, it } from 'vitest';
import { gatesOf } from './gate-options.ts';

it('settings of gates, as the API takes them', () => {
  expect(gatesOf(['latencyP99.maxIncreasePercent=80', 'latencyP99.maxMs=none', 'temperature=on', 'accuracy=off', 'accuracy.required=true', 'installFailures.basis=executed'])).toEqual({
    latencyP99: { maxIncreasePercent: 80, maxMs: null }, temperature: {}, accuracy: { required: true }, installFailures: { basis: 'executed' },
  });
  expect(gatesOf(['custom.reject_rate.max=0.1', 'custom.reject_rate.minCount=20', 'custom.yield.min=0.9', 'custom.belt.better=lower'])).toEqual({
    custom: [{ metric: 'reject_rate', better: 'lower', max: 0.1, minCount: 20 }, { metric: 'yield', better: 'higher', min: 0.9 }, { metric: 'belt', better: 'lower' }],
  });
  expect(gatesOf([])).toEqual({});
});

it.each(['temperature', 'temperature=maybe', 'custom.max=1', 'a.b.c=1', '=1', 'temperature.maxC='])('%s is refused, with how to write it', (text) => {
  expect(() => gatesOf([text])).toThrow(expect.objectContaining({ code: 'option.invalid', message: expect.stringContaining('--gate temperature.maxC=80') as string }));
});
