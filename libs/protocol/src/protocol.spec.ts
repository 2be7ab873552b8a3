import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { command, deviceId, maxPayloadBytes, messages, parseTopic, presence, Sketch, telemetry, desired } from './index.ts';

const folder = join(import.meta.dirname, '../fixtures/v1');
const byName = new Map(Object.values(messages).map((message) => [message.name as string, message]));

describe('golden fixtures: what version 1 looked like on the wire stays readable', () => {
  it.each(readdirSync(folder))('%s', (file) => {
    const message = byName.get(file.split('.')[0]!)!;
    const decoded = message.decode(readFileSync(join(folder, file)));
    expect(decoded).toMatchObject({ ok: true });
    // Written again it reads the same: nothing that we know of is lost.
    if (decoded.ok) expect(message.decode(message.encode(decoded.body as never))).toEqual(decoded);
  });

  it('every message has one', () => {
    const seen = new Set(readdirSync(folder).map((file) => file.split('.')[0]));
    expect([...byName.keys()].filter((name) => !seen.has(name))).toEqual([]);
  });

  it('absent optional fields get their defaults', () => {
    const decoded = desired.decode(readFileSync(join(folder, 'desired.newer.json')));
    expect(decoded).toMatchObject({ ok: true, body: { workloads: { classifier: { policy: { cpuFallback: true, observeS: 10, timeoutS: 600 }, rollbackTo: null, rollback: false } }, config: { telemetryWindowS: 60, maxFps: null } } });
    expect(JSON.stringify(decoded)).not.toContain('notYetKnown');
  });
});

describe('decoding', () => {
  it('never throws and says why', () => {
    expect(presence.decode(Buffer.from('{"online":'))).toEqual({ ok: false, reason: 'payload is not JSON' });
    expect(presence.decode(Buffer.from('{"online":"yes","session":1}'))).toMatchObject({ ok: false, reason: expect.stringContaining('online') });
    expect(telemetry.decode(Buffer.alloc(maxPayloadBytes + 1))).toMatchObject({ ok: false, reason: expect.stringContaining('over') });
    fc.assert(fc.property(fc.uint8Array(), (bytes) => {
      for (const message of Object.values(messages)) expect(message.decode(bytes)).toHaveProperty('ok');
    }));
  });
});

describe('what a window may carry besides', () => {
  const window = JSON.parse(readFileSync(join(folder, 'telemetry.json'), 'utf8')) as Record<string, unknown>;
  const moments = { count: 1, sum: 1, sumSquares: 1 };
  const names = (n: number): Record<string, unknown> => Object.fromEntries(Array.from({ length: n }, (_, i) => [`m${i}`, moments]));

  it('an agent that knows nothing of it is read as before', () => {
    const decoded = telemetry.decode(Buffer.from(JSON.stringify(window)));
    expect(decoded.ok && ['shadow', 'metrics', 'drift'].filter((field) => field in decoded.body)).toEqual([]);
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['too many metrics', { metrics: names(33) }, 'at most 32'],
    ['a metric without a proper name', { metrics: { 'reject rate': moments } }, 'reject rate'],
    ['a metric of no number', { metrics: { m: { count: 0, sum: 0, sumSquares: 0 } } }, 'count'],
    ['a negative index', { drift: { psi: -0.1, reference: 10, current: 10 } }, 'psi'],
    ['a shadow without the candidate', { shadow: { frames: 1, agreed: 1, errors: 0, latency: '', active: '' } }, 'bundle'],
    ['too many stages', { latency: Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`s${i}`, ''])) }, 'at most 8'],
  ])('%s is refused', (_what, more, why) => {
    expect(telemetry.decode(Buffer.from(JSON.stringify({ ...window, ...more })))).toEqual({ ok: false, reason: expect.stringContaining(why) as string });
  });

  it('as many metrics as are allowed pass', () => {
    expect(telemetry.decode(Buffer.from(JSON.stringify({ ...window, metrics: names(32) }))).ok).toBe(true);
  });
});

describe('topics', () => {
  it('lead back to device and message', () => {
    expect(telemetry.topicFor('dev-1')).toBe('reef/v1/dev-1/telemetry');
    expect(parseTopic('reef/v1/dev-1/telemetry')).toEqual({ device: 'dev-1', path: 'telemetry' });
    expect(parseTopic(command.topicFor('dev-1', 'c9'))).toEqual({ device: 'dev-1', path: 'cmd/{id}', id: 'c9' });
    expect(parseTopic('reef/v1/dev-1/cmd/c9/result')).toEqual({ device: 'dev-1', path: 'cmd/{id}/result', id: 'c9' });
    expect(telemetry.filter).toBe('reef/v1/+/telemetry');
  });

  it.each(['reef/v2/dev-1/telemetry', 'reef/v1/dev 1/telemetry', 'reef/v1//telemetry', 'other', `reef/v1/${'x'.repeat(65)}/telemetry`])('%s is not ours', (topic) => {
    expect(parseTopic(topic)).toBeUndefined();
  });

  it.each(['', 'a/b', '+', '#', 'ä', 'x'.repeat(65)])('%j cannot be a device id', (id) => expect(deviceId.safeParse(id).success).toBe(false));
});

describe('sketch', () => {
  const values = fc.array(fc.double({ min: 2, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 400 });

  it('answers quantiles within 1 %', () => {
    fc.assert(fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (sample, q) => {
      const sorted = [...sample].sort((a, b) => a - b);
      const exact = sorted[Math.max(1, Math.ceil(q * sorted.length)) - 1]!;
      const told = Sketch.of(sample).quantile(q)!;
      expect(Math.abs(told - exact) / exact).toBeLessThan(0.0101);
    }));
  });

  it('merged or encoded it says the same', () => {
    fc.assert(fc.property(values, values, (one, other) => {
      const merged = Sketch.of(one).merge(Sketch.of(other));
      const whole = Sketch.of([...one, ...other]);
      expect(merged.encode()).toEqual(whole.encode());
      expect(Sketch.fromBase64(whole.toBase64()).buckets()).toEqual(whole.buckets());
      expect(Sketch.decode(whole.encode()).count).toBe(one.length + other.length);
    }));
  });

  it('is about 200 bytes for a thousand latencies', () => {
    let seed = 1;
    const normal = () => { let sum = 0; for (let i = 0; i < 12; i += 1) { seed = (seed * 16_807) % 2_147_483_647; sum += seed / 2_147_483_647; } return sum - 6; };
    expect(Sketch.of(Array.from({ length: 1_000 }, () => 12_000 * Math.exp(0.25 * normal()))).encode().length).toBeLessThan(260);
  });

  it('refuses bytes that are not one', () => {
    expect(() => Sketch.decode(Buffer.from([0x80]))).toThrow(RangeError);
    expect(() => Sketch.decode(Buffer.from([1, 0]))).toThrow(RangeError);
    expect(() => Sketch.decode(Buffer.from([0xff, 0xff, 0x7f, 1]))).toThrow(RangeError);
    expect(new Sketch().quantile(0.5)).toBeUndefined();
  });
});
