import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Sketch, telemetry, type Telemetry } from '@reefkeeper/protocol';
import { ByteRate } from './byte-rate.ts';
import { Disk } from './disk.ts';
import { mergeWindows } from './merge-windows.ts';
import { Outbox } from './outbox.ts';

const bundle = 'ab'.repeat(32);
const window = (seq: number, more: Partial<Telemetry> = {}): Telemetry => telemetry.schema.parse({
  bootId: 'b', seq, workload: 'w', bundle, variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-01-01T00:00:00.000Z', durationMs: 60_000,
  inferences: 10, labelled: 4, correct: 3, latency: { total: Sketch.of(Array.from({ length: 10 }, (_, at) => 1_000 * (seq + at + 1))).toBase64() }, ...more,
});
const sum = (windows: Telemetry[], pick: (one: Telemetry) => number) => windows.reduce((total, one) => total + pick(one), 0);

describe('windows as one', () => {
  it('say what the two said', () => {
    const [one, two] = [
      window(1, { errors: { 'inference.failed': 2 }, temperatureC: 40, metrics: { m: { count: 1, sum: 2, sumSquares: 4 } }, scores: Sketch.of([900]).toBase64() }),
      window(2, { errors: { 'inference.failed': 1, 'image.unreadable': 5 }, temperatureC: 50, metrics: { m: { count: 2, sum: 3, sumSquares: 5 }, n: { count: 1, sum: 1, sumSquares: 1 } }, drift: { psi: 0.3, reference: 500, current: 100 } }),
    ];
    const both = mergeWindows(one, two)!;
    expect(both).toMatchObject({ bootId: 'b', seq: 1, startedAt: one.startedAt, durationMs: 120_000, inferences: 20, labelled: 8, correct: 6, errors: { 'inference.failed': 3, 'image.unreadable': 5 }, temperatureC: 50, metrics: { m: { count: 3, sum: 5, sumSquares: 9 }, n: { count: 1 } }, scores: one.scores, drift: two.drift });
    expect(Sketch.fromBase64(both.latency.total!).toBase64()).toBe(Sketch.fromBase64(one.latency.total!).merge(Sketch.fromBase64(two.latency.total!)).toBase64());
    expect(telemetry.decode(telemetry.encode(both))).toMatchObject({ ok: true });
  });
  it('of another bundle or backend stay apart', () => {
    expect(mergeWindows(window(1), window(2, { bundle: 'cd'.repeat(32) }))).toBeUndefined();
    expect(mergeWindows(window(1), window(2, { backend: 'edgetpu' }))).toBeUndefined();
  });
  it('keep what the controller corrects drift by', () => {
    // Per window it takes psi * current - 9 * (1 + current / reference), and adds those up.
    const part = ({ psi, current, reference }: NonNullable<Telemetry['drift']>) => psi * current - 9 * (1 + current / reference);
    const [a, b] = [{ psi: 0.3, reference: 500, current: 100 }, { psi: 0.5, reference: 500, current: 300 }];
    expect(part(mergeWindows(window(1, { drift: a }), window(2, { drift: b }))!.drift!)).toBeCloseTo(part(a) + part(b), 10);
  });
});

describe('bytes in any hour', () => {
  it('never exceed the rate, however they are asked for', () => {
    fc.assert(fc.property(fc.integer({ min: 16 * 1024, max: 200_000 }), fc.array(fc.record({ bytes: fc.integer({ min: 1, max: 4_096 }), afterMs: fc.integer({ min: 0, max: 600_000 }) }), { maxLength: 400 }), (perHour, asks) => {
      const rate = new ByteRate(0);
      let now = 0;
      const sent: { at: number; bytes: number }[] = [];
      for (const { bytes, afterMs } of asks) {
        now += afterMs;
        if (rate.take(bytes, perHour, now) === 0) sent.push({ at: now, bytes });
      }
      for (const { at } of sent) expect(sent.filter((one) => one.at >= at && one.at < at + 3_600_000).reduce((total, { bytes }) => total + bytes, 0)).toBeLessThanOrEqual(perHour);
    }), { numRuns: 200 });
  });
  it('says when to come again, and means it', () => {
    const rate = new ByteRate(0);
    const waitMs = rate.take(3_000, 16_384, 0);
    expect(waitMs).toBeGreaterThan(0);
    expect(rate.take(3_000, 16_384, waitMs - 2)).toBeGreaterThan(0);
    expect(rate.take(3_000, 16_384, waitMs)).toBe(0);
  });
});

describe('the outbox', () => {
  let dir: string;
  beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-outbox-')); });
  afterEach(async () => rm(dir, { recursive: true, force: true }));
  const decoded = (payloads: Buffer[]) => payloads.map((payload) => {
    const one = telemetry.decode(payload);
    if (!one.ok) throw new Error(one.reason);
    return one.body;
  });
  const drained = async (outbox: Outbox, perHour?: number) => {
    const sent: Buffer[] = [];
    const waitMs = await outbox.drain(async (payload) => { sent.push(payload); }, perHour);
    return { sent: decoded(sent), bytes: sent.reduce((total, { length }) => total + length + 100, 0), waitMs };
  };

  it('makes neighbours longer when there is no room, and loses nothing that a gate looks at', async () => {
    const outbox = await Outbox.open(dir, new Disk(dir), 4_000);
    for (let seq = 0; seq < 50; seq += 1) await outbox.put(window(seq));
    expect(outbox.dropped).toBe(0);
    const { sent } = await drained(await Outbox.open(dir, new Disk(dir), 4_000));
    expect(sent.length).toBeLessThan(12);
    expect([sum(sent, (one) => one.inferences), sum(sent, (one) => one.correct), sum(sent, (one) => one.durationMs)]).toEqual([500, 150, 50 * 60_000]);
    expect(Math.max(...sent.map(({ durationMs }) => durationMs))).toBeLessThanOrEqual(3_600_000);
    expect(await readdir(dir)).toEqual([]);
  });

  it('drops the oldest where nothing can be made one, and says how many in the next', async () => {
    const outbox = await Outbox.open(dir, new Disk(dir), 1_500);
    // Every window of a bundle of its own.
    for (let seq = 0; seq < 10; seq += 1) await outbox.put(window(seq, { bundle: seq.toString(16).repeat(64) }));
    const { sent } = await drained(outbox);
    expect(sent.at(-1)!.seq).toBe(9);
    expect(sent.length).toBeLessThan(10);
    // What was dropped after the last was put is said by the one after.
    await outbox.put(window(10));
    const all = [...sent, ...(await drained(outbox)).sent];
    expect(outbox.dropped).toBe(11 - all.length);
    expect(sum(all, (one) => one.inferences) + sum(all, ({ lost }) => lost?.inferences ?? 0)).toBe(110);
    expect(all.length + sum(all, ({ lost }) => lost?.windows ?? 0)).toBe(11);
  });

  it('a window that may have arrived is sent again as it was, over a restart as well', async () => {
    const outbox = await Outbox.open(dir, new Disk(dir), 100_000);
    await outbox.put(window(0));
    await expect(outbox.drain(async () => { throw new Error('the link went down'); })).rejects.toThrow();
    const again = await Outbox.open(dir, new Disk(dir), 100_000);
    // Held back by the rate, what comes is merged; but never into what was tried.
    expect((await drained(again, 16_384)).waitMs).toBeGreaterThan(0);
    await again.put(window(1));
    await again.put(window(2));
    expect((await drained(again)).sent).toEqual([window(0), mergeWindows(window(1), window(2))]);
  });

  it('who asks while windows leave is told once all have left, and each leaves once', async () => {
    const outbox = await Outbox.open(dir, new Disk(dir), 100_000);
    await outbox.put(window(0));
    const acknowledged = Promise.withResolvers<void>();
    const [handed, sent] = [Promise.withResolvers<void>(), [] as Buffer[]];
    const send = async (payload: Buffer) => {
      sent.push(payload);
      handed.resolve();
      await acknowledged.promise;
    };
    const first = outbox.drain(send);
    await handed.promise;
    await outbox.put(window(1));
    const second = outbox.drain(send).then(async () => readdir(dir));
    acknowledged.resolve();
    expect(await second).toEqual([]);
    await first;
    expect(decoded(sent)).toEqual([window(0), window(1)]);
  });

  it('over half a day on a small budget: at most so many bytes in any hour, longer windows, nothing lost', async () => {
    const perHour = 16 * 1024;
    // As wide as latencies get: about 800 bytes a window, three times what the budget lets through.
    const wide = { total: Sketch.of(Array.from({ length: 300 }, (_, at) => 1_000 * 1.02 ** at)).toBase64() };
    let now = 0;
    const outbox = await Outbox.open(dir, new Disk(dir), 1_000_000, () => now);
    const log: { at: number; bytes: number; sent: Telemetry[] }[] = [];
    let next = 0;
    for (let seq = 0; seq < 12 * 60; seq += 1) {
      now = seq * 60_000;
      await outbox.put(window(seq, { latency: wide }));
      if (now < next) continue;
      const { sent, bytes, waitMs } = await drained(outbox, perHour);
      next = now + (waitMs ?? 0);
      if (sent.length > 0) log.push({ at: now, bytes, sent });
    }
    for (const { at } of log) expect(log.filter((one) => one.at >= at && one.at < at + 3_600_000).reduce((total, { bytes }) => total + bytes, 0)).toBeLessThanOrEqual(perHour);
    const all = log.flatMap(({ sent }) => sent);
    // All but what waits for the next turn has arrived.
    now += 24 * 3_600_000;
    for (let waitMs: number | undefined = 0; waitMs !== undefined; now += waitMs ?? 0) {
      const more = await drained(outbox, perHour);
      all.push(...more.sent);
      ({ waitMs } = more);
    }
    expect(sum(all, (one) => one.inferences)).toBe(12 * 60 * 10);
    expect(outbox.merged).toBeGreaterThan(100);
  });
});
