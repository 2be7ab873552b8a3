import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { calmS, judge, keyOf, lapseS, staleS, type AlertKind, type Change, type Fact, type LiveAlert } from './alert.ts';
import { alertKind, deviceAlerts, limits, type SourceRow } from './alert-sources.ts';
import { messageOf } from './alert-message.ts';

const kinds = { slow: alertKind('warning', [5, 10], 'is so', 'do it'), atOnce: alertKind('critical', [0, 0], 'is so', 'do it'), told: alertKind('info', [0, 60], 'is so', 'do it', 'unknown') };
const start = Date.parse('2026-11-28T08:00:00Z');
const at = (s: number) => new Date(start + s * 1_000);
const fact = (kind: string, holds = true, subject = 'cam-1'): Fact => ({ kind, subject, device: subject, workload: null, rollout: null, holds, numbers: {} });

/** What the statement of `alert-watch.ts` does, in memory: every row that ever was. */
interface Row extends LiveAlert { openedAt: Date | null; closedAt: Date | null }
class Book {
  readonly rows: Row[] = [];
  constructor(private readonly of: Record<string, AlertKind> = kinds) {}

  get live(): Row[] { return this.rows.filter(({ closedAt }) => closedAt === null); }
  get open(): Row[] { return this.live.filter(({ state }) => state !== 'PENDING'); }

  sweep(s: number, facts: Fact[]): Change[] {
    const now = at(s);
    const lapsed = new Map(this.rows.filter(({ closedAt }) => closedAt && now.getTime() - closedAt.getTime() < lapseS * 1_000).map((row) => [keyOf(row), row.times]));
    const changes = judge(this.of, facts, this.live, lapsed, now);
    for (const change of changes) {
      const row = this.live.find((one) => keyOf(one) === keyOf(change));
      if (change.move === 'begin') this.rows.push({ kind: change.kind, subject: change.subject, state: change.state, since: now, lastSeenAt: now, goneSince: null, times: change.times, openedAt: change.state === 'OPEN' ? now : null, closedAt: null });
      if (change.move === 'forget') this.rows.splice(this.rows.indexOf(row!), 1);
      if (change.move === 'open') Object.assign(row!, { state: 'OPEN', openedAt: now, goneSince: null, lastSeenAt: now });
      if (change.move === 'see') Object.assign(row!, { goneSince: null, lastSeenAt: now });
      if (change.move === 'miss') row!.goneSince = now;
      if (change.move === 'close') row!.closedAt = now;
    }
    return changes;
  }
}

/** Sweeps every two seconds; `holds` says what each sees. */
function run(book: Book, kind: string, holds: string, fromS = 0): string {
  return [...holds].map((sign, index) => book.sweep(fromS + 2 * index, sign === '?' ? [] : [fact(kind, sign === '+')]).map(({ move }) => move).join('') || '.').join(' ');
}

describe('an alert', () => {
  it.each([
    ['opens when the condition has held for long enough, closes when it has been gone for long enough', 'slow', '++++++------', 'begin . . open . . miss . . . . close'],
    ['is forgotten where the condition did not last', 'slow', '++-+++++', 'begin . forget begin . . open .'],
    ['stays the same one where the condition is back in time', 'slow', '++++--+++---', 'begin . . open miss . see . . miss . .'],
    ['opens and closes at once where the kind says so', 'atOnce', '++-+', 'begin . close begin'],
    ['closes where nothing speaks of it and silence says that it is gone', 'slow', '++++??????', 'begin . . open miss . . . . close'],
    ['of a kind that is not spoken of stays where silence says nothing', 'told', '+???????', 'begin . . . . . . .'],
  ])('%s', (_, kind, holds, moves) => {
    expect(run(new Book(), kind, holds)).toBe(moves);
  });

  it('that nobody can know of any more ends in the end', () => {
    const book = new Book();
    book.sweep(0, [fact('told')]);
    expect(book.sweep(staleS - 2, [])).toEqual([]);
    expect(book.sweep(staleS, [])).toMatchObject([{ move: 'miss' }]);
    expect(book.sweep(staleS + 60, [])).toMatchObject([{ move: 'close' }]);
  });

  it('is written down as seen once a minute, not at every look', () => {
    expect(run(new Book(), 'atOnce', '+'.repeat(100)).split(' ').filter((move) => move !== '.')).toEqual(['begin', 'see', 'see', 'see']);
  });

  it('is never two of one kind and subject; every other subject and kind has its own', () => {
    const book = new Book();
    for (const s of [0, 2]) book.sweep(s, [fact('atOnce'), fact('atOnce'), fact('atOnce', true, 'cam-2'), fact('told')]);
    expect(book.open.map(keyOf).sort()).toEqual(['atOnce\ncam-1', 'atOnce\ncam-2', 'told\ncam-1']);
  });

  it('leaves alone what other sweeps look after', () => {
    const book = new Book();
    book.sweep(0, [fact('atOnce')]);
    expect(judge({ slow: kinds.slow }, [], book.live, new Map(), at(100))).toEqual([]);
  });

  it('counts how often it has come back lately, and is then closed later', () => {
    const book = new Book();
    run(book, 'slow', '++++-------', 0);
    run(book, 'slow', '++++-----------------', 30);
    expect(book.rows.map(({ times, closedAt, goneSince }) => [times, closedAt!.getTime() - goneSince!.getTime()])).toEqual([[1, 10_000], [2, 20_000]]);
    run(book, 'slow', '++++', lapseS + 200);
    expect(book.rows.at(-1)!.times).toBe(1);
    expect([1, 2, 5, 40].map((times) => calmS(kinds.slow, times))).toEqual([10, 20, 160, lapseS]);
  });
});

describe('whatever happens', () => {
  // Stretches of a condition that holds, is gone, or of which nothing is known.
  const story = fc.array(fc.record({ holds: fc.constantFrom(true, false, undefined), sweeps: fc.integer({ min: 1, max: 60 }) }), { minLength: 1, maxLength: 40 });
  const tell = (book: Book, kind: string, parts: { holds: boolean | undefined; sweeps: number }[], each: (s: number) => void = () => {}) => {
    let s = 0;
    for (const { holds, sweeps } of parts) for (let n = 0; n < sweeps; n += 1, s += 2) {
      book.sweep(s, holds === undefined ? [] : [fact(kind, holds)]);
      each(s);
    }
    return s;
  };

  it('never two are open, none is open before its time, none is closed too early, and each is closed when the condition is gone for long enough', () => {
    fc.assert(fc.property(story, fc.constantFrom('slow', 'atOnce', 'told'), (parts, kind) => {
      const book = new Book();
      const end = tell(book, kind, parts, () => { if (book.live.length > 1) throw new Error('two at once'); });
      const { openAfterS } = kinds[kind as keyof typeof kinds];
      for (const row of book.rows) {
        if (row.openedAt) expect(row.openedAt.getTime() - row.since.getTime()).toBeGreaterThanOrEqual(openAfterS * 1_000);
        if (row.closedAt) expect(row.closedAt.getTime() - (row.goneSince ?? row.closedAt).getTime()).toBeGreaterThanOrEqual(calmS(kinds[kind as keyof typeof kinds], row.times) * (row.goneSince ? 1_000 : 0));
      }
      for (let s = end; s <= end + lapseS + 40; s += 20) book.sweep(s, [fact(kind, false)]);
      expect(book.live).toEqual([]);
    }), { numRuns: 60 });
  });

  it('the same look again, or one that comes late, changes nothing that is closed', () => {
    fc.assert(fc.property(story, (parts) => {
      const book = new Book();
      const end = tell(book, 'slow', parts);
      const closed = () => book.rows.filter(({ closedAt }) => closedAt).map((row) => ({ ...row }));
      const before = closed();
      for (const again of [end, end, end - 2]) book.sweep(again, [fact('slow', true)]);
      expect(closed().slice(0, before.length)).toEqual(before);
    }), { numRuns: 50 });
  });

  it('what flaps for hours, however, opens a few alerts and not hundreds', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 300 }), (on, off) => {
      const book = new Book();
      for (let n = 0, s = 0; s < 8 * 3_600; n += 1, s += 2) book.sweep(s, [fact('slow', n % (on + off) < on)]);
      // Ten doublings of ten seconds are an hour of calm, which it never has.
      expect(book.rows.filter(({ openedAt }) => openedAt).length).toBeLessThanOrEqual(10);
    }), { numRuns: 8 });
  });
});

describe('what devices and their windows say', () => {
  const [conditions, , , windows] = deviceAlerts;
  const nothing = () => false;
  const device = (numbers: object): SourceRow => ({ kind: 'device.degraded', device: 'cam-1', workload: null, rollout: null, numbers });
  const work = (numbers: object): SourceRow => ({ kind: 'workload', device: 'cam-1', workload: 'classifier', rollout: null, numbers: { runs: true, inferences: 100, errors: 0, temperatureC: null, psi: null, scores: null, codes: null, ...numbers } });

  it('each condition has its kind, those of one kind are one, unknown ones are one', () => {
    const facts = conditions!.read([device({ conditions: ['NO_ACCELERATOR', 'DISK_FULL', 'DISK_FAILING', 'SOMETHING_NEW', 'ANOTHER'] })], nothing);
    expect(facts.map(({ kind, subject, numbers }) => [kind, subject, numbers.conditions])).toEqual([
      ['device.degraded', 'cam-1', ['ANOTHER', 'SOMETHING_NEW']], ['device.disk', 'cam-1', ['DISK_FAILING', 'DISK_FULL']], ['device.no_accelerator', 'cam-1', ['NO_ACCELERATOR']],
    ]);
    expect(conditions!.kinds['device.disk']!.summary(facts[1]!)).toBe('cam-1 cannot write to its disk (DISK_FAILING, DISK_FULL).');
  });

  it.each([
    ['errors below the limit', work({ errors: 4 }), false, 'workload.errors', false],
    ['errors at the limit', work({ errors: 5 }), false, 'workload.errors', true],
    ['errors that came down a little keep an alert', work({ errors: 4 }), true, 'workload.errors', true],
    ['errors that came down end it', work({ errors: 2 }), true, 'workload.errors', false],
    ['too few frames are nothing known', work({ inferences: limits.inferences - 1, errors: 40 }), false, 'workload.errors', undefined],
    ['scores that moved', work({ psi: 0.3 * 200, scores: '200' }), false, 'workload.drift', true],
    ['too few scores', work({ psi: 0.3 * 50, scores: '50' }), false, 'workload.drift', undefined],
    ['hot', work({ temperatureC: 85 }), false, 'device.hot', true],
    ['no temperature is none, not zero', work({}), true, 'device.hot', undefined],
    ['a workload that runs no more', work({ runs: false, inferences: null }), true, 'workload.errors', false],
  ])('%s', (_, row, live, kind, holds) => {
    expect(windows!.read([row], () => live).find((fact) => fact.kind === kind)?.holds).toBe(holds);
  });

  it('a device is as hot as the hottest of what it runs', () => {
    const facts = windows!.read([work({ temperatureC: 60 }), { ...work({ temperatureC: 90 }), workload: 'detector' }], nothing).filter(({ kind }) => kind === 'device.hot');
    expect(facts).toMatchObject([{ subject: 'cam-1', holds: true, numbers: { temperatureC: 90, workload: 'detector' } }]);
  });
});

it('a message has what its alerts have in common apart', () => {
  const alert = { id: '0190f6a0-0000-7000-8000-000000000001', kind: 'device.offline', subject: 'cam-1', severity: 'warning', device: 'cam-1', workload: null, rollout: null, labels: { site: 'lyon', 'example.org/line': 'a' }, closed: false, openedAt: at(0), closedAt: null, tries: 1, times: 1, summary: 'cam-1 is not connected.', advice: 'Check it.', numbers: {} };
  const message = messageOf([alert, { ...alert, id: '0190f6a0-0000-7000-8000-000000000002', device: 'cam-2', labels: { site: 'lyon' } }], 'https://reef.example/');
  expect(message).toMatchObject({ version: '4', status: 'firing', commonLabels: { alertname: 'device.offline', severity: 'warning', label_site: 'lyon' }, alerts: [{ labels: { device: 'cam-1', label_example_org_line: 'a' }, endsAt: '0001-01-01T00:00:00Z', generatorURL: 'https://reef.example/alerts/0190f6a0-0000-7000-8000-000000000001' }, {}] });
  expect(message.commonLabels).not.toHaveProperty('device');
});

it('docs/alerts.md has every kind with its severity and times', async () => {
  const text = await readFile(join(import.meta.dirname, '../../../docs/alerts.md'), 'utf8');
  for (const { kinds } of deviceAlerts) for (const [name, { severity, openAfterS, closeAfterS }] of Object.entries(kinds)) {
    expect(text).toContain(`| \`${name}\` | ${severity} | ${openAfterS} s | ${closeAfterS} s |`);
  }
});
