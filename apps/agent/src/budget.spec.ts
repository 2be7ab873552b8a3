import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseDataBudget } from '@reefkeeper/protocol';
import { agentSettings } from './config.ts';
import { awayMs, Budget, later, limitOf, periodMs } from './budget.ts';

const hour = 3_600_000;
let dir: string;
beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-budget-')); });
afterEach(() => rm(dir, { recursive: true }));

describe('a data budget', () => {
  it('is spent, known after a restart, and whole again in the next period', async () => {
    let [mono, wall] = [0, Date.parse('2026-11-25T08:00:00Z')];
    const open = () => Budget.open(dir, { limit: () => ({ bytes: 1_000, per: 'day' }), monotonicMs: () => mono, wallMs: () => wall });
    const budget = await open();
    budget.afford('b', 1_000);
    budget.spend(600);
    expect(() => budget.afford('b', 401)).toThrow(expect.objectContaining({ code: 'budget_exceeded', message: expect.stringContaining('401 bytes and 400 of 1000 a day are left; the next day begins in 24 h') }));
    expect(() => budget.afford('b', 2_000)).toThrow('more than a whole day');
    budget.afford('b', 400);
    await budget.save();
    [mono, wall] = [5_000, wall + 10 * hour];
    const again = await open();
    expect([again.leftBytes, again.opensInMs]).toEqual([400, 14 * hour]);
    mono += 14 * hour - 1;
    expect(again.leftBytes).toBe(400);
    mono += 1;
    expect(again.leftBytes).toBe(1_000);
    await again.save();
  });

  it('lets a bundle through that a person allowed, counts it, and remembers', async () => {
    const limit = () => ({ bytes: 100, per: 'month' as const });
    const budget = await Budget.open(dir, { limit });
    await budget.allow(['b']);
    budget.afford('b', 5_000);
    expect(() => budget.afford('c', 5_000)).toThrow();
    budget.spend(5_000);
    await budget.save();
    const again = await Budget.open(dir, { limit });
    expect(again.leftBytes).toBe(0);
    again.afford('b', 5_000);
  });

  it('does not exist on an unmetered link, where nothing is counted', async () => {
    let limit: { bytes: number; per: 'day' } | null = null;
    const budget = await Budget.open(dir, { limit: () => limit });
    budget.afford('b', 1e12);
    budget.spend(1e9);
    expect(budget.opensInMs).toBeNull();
    limit = { bytes: 10, per: 'day' };
    expect(budget.leftBytes).toBe(10);
  });

  it('begins anew from a file that cannot be read', async () => {
    await writeFile(join(dir, 'budget.json'), '{"schema":1,');
    expect((await Budget.open(dir, { limit: () => ({ bytes: 10, per: 'day' }) })).leftBytes).toBe(10);
  });

  it('never opens because a clock jumped: not to 1970, not back from there', () => {
    const now = Date.parse('2026-11-25T08:00:00Z');
    expect(awayMs(now, now + 5)).toBe(5);
    for (const [savedAt, read] of [[now, 0], [now, now - hour], [0, now], [1_000, 5_000]] as const) expect(awayMs(savedAt, read)).toBe(0);
  });

  it('never lets more through in one period than it says', () => {
    const event = fc.oneof(fc.record({ spend: fc.nat(400) }), fc.record({ pass: fc.nat(30 * hour) }));
    fc.assert(fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      let ledger = { spentBytes: 0, elapsedMs: 0 };
      let at = 0;
      const spent: { at: number; bytes: number }[] = [];
      for (const one of events) {
        if ('pass' in one) {
          at += one.pass;
          ledger = later(ledger, one.pass, periodMs.day);
        } else if (ledger.spentBytes + one.spend <= 1_000) {
          ledger = { ...ledger, spentBytes: ledger.spentBytes + one.spend };
          spent.push({ at, bytes: one.spend });
        }
      }
      // Periods are days since the start.
      const days = new Map<number, number>();
      for (const { at: when, bytes } of spent) days.set(Math.floor(when / periodMs.day), (days.get(Math.floor(when / periodMs.day)) ?? 0) + bytes);
      expect(Math.max(0, ...days.values())).toBeLessThanOrEqual(1_000);
      expect(ledger.elapsedMs).toBeLessThan(periodMs.day);
    }));
  });

  it('is the fleet\'s word before the device\'s own', () => {
    const [fleets, own] = [parseDataBudget('20MB/day')!, parseDataBudget('1.5GB/month')!];
    expect([fleets, own, agentSettings({ REEF_DATA_BUDGET: '5000/day' }).REEF_DATA_BUDGET]).toEqual([{ bytes: 20e6, per: 'day' }, { bytes: 1.5e9, per: 'month' }, { bytes: 5_000, per: 'day' }]);
    expect(limitOf({ link: null, dataBudget: null }, { link: 'metered', dataBudget: own })).toBe(own);
    expect(limitOf({ link: null, dataBudget: fleets }, { link: 'metered', dataBudget: own })).toBe(fleets);
    expect(limitOf({ link: 'unmetered', dataBudget: fleets }, { link: 'metered', dataBudget: own })).toBeNull();
    expect(limitOf({ link: 'metered', dataBudget: null }, { link: 'unmetered' })).toBeNull();
    expect(limitOf({ link: null, dataBudget: fleets }, { link: 'unmetered' })).toBeNull();
    for (const wrong of ['20MB', '0/day', '-5/day', '20MB/week', 'x/day']) expect(() => agentSettings({ REEF_DATA_BUDGET: wrong })).toThrow(expect.objectContaining({ code: 'config.invalid' }));
  });
});
