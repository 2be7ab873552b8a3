/**
 * A mergeable quantile sketch: counts in logarithmic buckets 2 % wide, so a quantile is within 1 % of the true value.
 * The idea is DDSketch (Masson, Rim, Lee, VLDB 2019); the encoding is ours: pairs of LEB128 varints (gap to the bucket
 * before, count), about 180 bytes for 1,000 latencies. Values are non-negative; anything below 1 counts as bucket 0.
 */
const gamma = 1.02;
const logGamma = Math.log(gamma);
/** exp(1100 * ln 1.02) is about 2.9e9: 48 minutes in microseconds. */
const maxBucket = 1_100;

export class Sketch {
  private readonly counts = new Map<number, number>();
  private total = 0;

  static of(values: Iterable<number>): Sketch {
    const sketch = new Sketch();
    for (const value of values) sketch.add(value);
    return sketch;
  }

  get count(): number {
    return this.total;
  }

  add(value: number, times = 1): void {
    const bucket = value <= 1 ? 0 : Math.min(maxBucket, Math.ceil(Math.log(value) / logGamma));
    this.counts.set(bucket, (this.counts.get(bucket) ?? 0) + times);
    this.total += times;
  }

  merge(other: Sketch): this {
    for (const [bucket, count] of other.counts) this.counts.set(bucket, (this.counts.get(bucket) ?? 0) + count);
    this.total += other.total;
    return this;
  }

  /** The value below which the share `q` (0 to 1) lies; undefined when empty. */
  quantile(q: number): number | undefined {
    if (this.total === 0) return undefined;
    const rank = Math.max(1, Math.ceil(q * this.total));
    let seen = 0;
    for (const [bucket, count] of this.sorted()) {
      seen += count;
      if (seen >= rank) return middleOf(bucket);
    }
    return undefined;
  }

  /** (upper bound of the bucket, count), rising. For plots. */
  buckets(): { upTo: number; count: number }[] {
    return this.sorted().map(([bucket, count]) => ({ upTo: gamma ** bucket, count }));
  }

  /** (the value that stands for the bucket, as in `quantile`; count), rising. */
  middles(): { middle: number; count: number }[] {
    return this.sorted().map(([bucket, count]) => ({ middle: middleOf(bucket), count }));
  }

  encode(): Buffer {
    const bytes: number[] = [];
    let before = 0;
    for (const [bucket, count] of this.sorted()) {
      writeVarint(bytes, bucket - before);
      writeVarint(bytes, count);
      before = bucket;
    }
    return Buffer.from(bytes);
  }

  /** @throws RangeError when the bytes are not a sketch */
  static decode(bytes: Uint8Array): Sketch {
    const sketch = new Sketch();
    let at = 0;
    let bucket = 0;
    const next = (): number => {
      let value = 0;
      for (let scale = 1; ; scale *= 128) {
        const byte = bytes[at++];
        if (byte === undefined || scale > 2 ** 42) throw new RangeError('truncated or oversized varint in a sketch');
        value += (byte & 0x7f) * scale;
        if (byte < 0x80) return value;
      }
    };
    while (at < bytes.length) {
      bucket += next();
      const count = next();
      if (bucket > maxBucket || count === 0) throw new RangeError('bucket out of range in a sketch');
      sketch.counts.set(bucket, (sketch.counts.get(bucket) ?? 0) + count);
      sketch.total += count;
    }
    return sketch;
  }

  toBase64(): string {
    return this.encode().toString('base64');
  }

  static fromBase64(text: string): Sketch {
    return Sketch.decode(Buffer.from(text, 'base64'));
  }

  private sorted(): [number, number][] {
    return [...this.counts].sort(([a], [b]) => a - b);
  }
}

function middleOf(bucket: number): number {
  return bucket === 0 ? 1 : (2 * gamma ** bucket) / (1 + gamma);
}

function writeVarint(bytes: number[], value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 128) | 0x80);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
}
