import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { timeOf } from '../options.ts';
import { bandwidthOf, paceOf, paceOptions, paceText, rampOf, sizeOf, waveOf, windowOf } from './rollout-options.ts';

describe('options of a rollout', () => {
  it('waves', () => {
    expect(['20%', '2', ' 1 per hostClass', '10% per site', 'by runtime', 'canary=true', 'site in (a,b)'].map(waveOf)).toEqual([
      { percent: 20 }, { count: 2 }, { count: 1, perStratum: 'hostClass' }, { percent: 10, perStratum: 'site' }, { by: 'runtime' }, { selector: 'canary=true' }, { selector: 'site in (a,b)' },
    ]);
  });
  it('waves as people write them', () => {
    expect(['10 %', '10%  per  site', '3x=true', '3x in (a,b)', 'lyon', 'site', '!spare', 'site=by'].map(waveOf)).toEqual([
      { percent: 10 }, { percent: 10, perStratum: 'site' }, { selector: '3x=true' }, { selector: '3x in (a,b)' }, { selector: 'lyon' }, { selector: 'site' }, { selector: '!spare' }, { selector: 'site=by' },
    ]);
    for (const [bad, part] of [['3x', '3x'], ['10%%', '10%%'], ['%10', '%10'], ['1.2.3', '1.2.3'], ['-1', '-1'], ['', ''], ['0', 'above 0'], ['1.5', 'a share is 1.5%'], ['120%', 'at most 100'], ['by rack', 'rack'], ['by', 'kind'], ['1 per rack', 'rack'], ['2x per site', '2x'], ['10 percent', '10 percent']] as const) {
      expect(() => waveOf(bad), bad).toThrow(expect.objectContaining({ code: 'option.invalid', message: expect.stringMatching(new RegExp(`--wave "${bad}".*${part}.*a label selector`)) as string }) as Error);
    }
    expect(['20%', '2'].map((text) => sizeOf('--rollback-wave', text))).toEqual([{ percent: 20 }, { count: 2 }]);
    for (const bad of ['by site', 'site=lyon', '1 per site', '3x']) expect(() => sizeOf('--rollback-wave', bad)).toThrow(/--rollback-wave/);
  });
  it('windows', () => {
    expect(windowOf('22:00-05:00')).toEqual({ from: '22:00', to: '05:00' });
    expect(windowOf('Mon-Wed 9:00-17:30')).toEqual({ days: ['mon', 'tue', 'wed'], from: '09:00', to: '17:30' });
    expect(windowOf('sat-mon,sunday 22:00 - 05:00').days).toEqual(['sat', 'sun', 'mon']);
    for (const bad of ['22-05', 'funday 22:00-05:00', 'mon', '']) expect(() => windowOf(bad)).toThrow(expect.objectContaining({ code: 'option.invalid' }) as Error);
  });
  it('paces', () => {
    expect(rampOf('10,2,100,1000')).toEqual({ base: 10, factor: 2, afterSucceeded: 100, maxPerMinute: 1000 });
    expect(['500k', '2M', '1500', '1.5 MB'].map((text) => bandwidthOf('--rate', text))).toEqual([500_000, 2_000_000, 1_500, 1_500_000]);
    for (const bad of [() => rampOf('10,2'), () => rampOf('a,b,c,d'), () => bandwidthOf('--rate', 'fast'), () => bandwidthOf('--rate', '0'), () => paceOf({ rate: '5', ramp: '1,2,3,4' }), () => paceOf({ maxInProgress: '0' })]) expect(bad).toThrow(expect.objectContaining({ code: 'option.invalid' }) as Error);
    const command = paceOptions(new Command()).exitOverride().parse(['--window', '22:00-05:00', 'sun 08:00-10:00', '--rate', '50', '--max-in-progress', '9', '--site-bandwidth', '2M'], { from: 'user' });
    const body = paceOf(command.opts());
    expect(JSON.parse(JSON.stringify(body))).toEqual({ windows: [{ from: '22:00', to: '05:00' }, { days: ['sun'], from: '08:00', to: '10:00' }], rate: { perMinute: 50 }, maxInProgress: 9, siteBytesPerSecond: 2_000_000 });
    expect(paceText({ windows: [{ days: ['sun'], from: '08:00', to: '10:00' }], rate: { perMinute: 50 }, maxInProgress: 9, maxInProgressPerSite: null, siteBytesPerSecond: null })).toBe('sun 08:00-10:00 local time; 50 a minute; 9 at once');
  });
  it('times: a moment, or so long from now', () => {
    const now = new Date('2026-01-01T00:00:00Z');
    expect(['90m', '2h', '3d', '45s', '2026-12-01T22:00:00+01:00'].map((text) => timeOf('--until', text, now).toISOString())).toEqual(['2026-01-01T01:30:00.000Z', '2026-01-01T02:00:00.000Z', '2026-01-04T00:00:00.000Z', '2026-01-01T00:00:45.000Z', '2026-12-01T21:00:00.000Z']);
    for (const bad of ['soon', '', '2026-13-01', '5']) expect(() => timeOf('--until', bad, now)).toThrow(/--until takes a time/);
  });
});
