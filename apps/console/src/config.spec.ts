import { expect, it } from 'vitest';
import type { Config } from './api.ts';
import { configIn, configText, ruleIn } from './config.ts';

const form = (fields: Record<string, string>): FormData => {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.set(name, value);
  return data;
};

it('a rule says what its fields say, in the units of the API, and nothing of what is left out', () => {
  expect(ruleIn(form({ name: ' lte ', selector: ' link=lte ', priority: '-3', 'config.link': 'metered', 'config.dataBudget': 'value', 'config.dataBudget.bytes': '0.3', 'config.dataBudget.per': 'month', 'config.telemetryBytesPerHour': 'value', telemetryKilobytes: '65.536', 'config.telemetryWindowS': '', 'config.maxFps': 'null', 'config.capture': 'value', 'config.capture.perHour': '5', 'config.capture.uncertainBelow': '0' }))).toEqual({
    name: 'lte', body: { selector: 'link=lte', priority: -3, config: { link: 'metered', dataBudget: { bytes: 300_000, per: 'month' }, telemetryBytesPerHour: 65_536, maxFps: null, capture: { perHour: 5, uncertainBelow: 0 } } },
  });
  expect(configIn(form({}))).toEqual({});
});

it('what a rule says that has no field stays as it was; what is left out goes', () => {
  const before = { link: 'metered' as const, capture: { perHour: 20, uncertainBelow: 0.2, masks: ['a'], workloads: ['front'] }, ofLater: { some: 1 } };
  const fields = { 'config.link': '', 'config.capture': 'value', 'config.capture.perHour': '9', 'config.capture.uncertainBelow': '0.1' };
  expect(configIn(form(fields), before)).toEqual({ ofLater: { some: 1 }, capture: { perHour: 9, uncertainBelow: 0.1, masks: ['a'], workloads: ['front'] } });
  expect(configIn(form({ ...fields, 'config.capture': 'null' }), before)).toEqual({ ofLater: { some: 1 }, capture: null });
});

it('is told in words', () => {
  expect(configText({ link: null, dataBudget: null, telemetryBytesPerHour: null, maxFps: null, capture: null })).toBe('link as the device says, downloads as the device says, all telemetry, every frame, no pictures');
  expect(configText({ maxFps: 2, telemetryWindowS: 5, dataBudget: { bytes: 2e7, per: 'day' }, ofLater: 1 } as Config)).toBe('downloads 20.0 MB a day, telemetry every 5 s, 2 frames a second at most, ofLater 1');
});
