import { randomOf } from '@reefkeeper/platform/random';

/** One damaged copy, and how it was made: a failure names it, and the seed makes it again. */
export interface Mutation {
  how: string;
  bytes: Uint8Array;
}

/** Whole numbers below what is asked. */
function belowOf(seed: number): (below: number) => number {
  const next = randomOf(seed);
  return (below) => Math.floor(next() * below);
}

type Change = (bytes: Uint8Array, random: (below: number) => number) => Uint8Array;

const words = [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x10_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

const changes: Record<string, Change> = {
  bits(bytes, random) {
    for (let left = 1 + random(8); left > 0; left -= 1) {
      const at = random(bytes.length);
      bytes[at] = bytes[at]! ^ 1 << random(8);
    }
    return bytes;
  },
  bytes(bytes, random) {
    for (let left = 1 + random(6); left > 0; left -= 1) bytes[random(bytes.length)] = random(256);
    return bytes;
  },
  truncated: (bytes, random) => bytes.subarray(0, random(bytes.length)),
  /** Counts and offsets are little-endian words on multiples of their size, mostly. */
  length(bytes, random) {
    const at = Math.floor(random(bytes.length) / 4) * 4;
    if (at + 4 > bytes.length) return bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const before = view.getUint32(at, true);
    view.setUint32(at, random(2) === 0 ? words[random(words.length)]! : (before + random(9) - 4) >>> 0, true);
    return bytes;
  },
  short(bytes, random) {
    const at = Math.floor(random(bytes.length) / 2) * 2;
    if (at + 2 <= bytes.length) new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).setUint16(at, words[random(words.length)]! & 0xffff, true);
    return bytes;
  },
  swapped(bytes, random) {
    const length = 1 + random(Math.min(64, bytes.length / 2));
    const [one, other] = [random(bytes.length - length + 1), random(bytes.length - length + 1)];
    const kept = bytes.slice(one, one + length);
    bytes.copyWithin(one, other, other + length);
    bytes.set(kept, other);
    return bytes;
  },
  repeated(bytes, random) {
    const length = 1 + random(Math.min(256, bytes.length));
    const from = random(bytes.length - length + 1);
    const longer = new Uint8Array(bytes.length + length);
    longer.set(bytes.subarray(0, from + length));
    longer.set(bytes.subarray(from), from + length);
    return longer;
  },
  zeroed(bytes, random) {
    const from = random(bytes.length);
    return bytes.fill(0, from, Math.min(bytes.length, from + 1 + random(64)));
  },
  inserted(bytes, random) {
    const at = random(bytes.length);
    const longer = new Uint8Array(bytes.length + 4);
    longer.set(bytes.subarray(0, at));
    longer.set(bytes.subarray(at), at + 4);
    return longer;
  },
};

/** `count` damaged copies of `original`, all kinds in turn, some damaged twice. The same seed gives the same ones. */
export function* mutationsOf(original: Uint8Array, { count, seed = 1 }: { count: number; seed?: number }): Generator<Mutation> {
  const kinds = Object.entries(changes);
  for (let number = 0; number < count; number += 1) {
    const random = belowOf(seed * 1_000_003 + number);
    // Not slice(): a Buffer's is a view.
    let bytes: Uint8Array = new Uint8Array(original);
    const how: string[] = [];
    for (let left = 1 + (random(4) === 0 ? 1 : 0); left > 0 && bytes.length > 0; left -= 1) {
      const [name, change] = kinds[(number + random(left)) % kinds.length]!;
      bytes = change(bytes, random);
      how.push(name);
    }
    yield { how: `seed ${seed}, number ${number}: ${how.join(', ')}`, bytes };
  }
}

/** The same for JSON: values replaced, keys dropped, doubled or renamed, strings stretched. */
export function* jsonMutationsOf(original: unknown, { count, seed = 1 }: { count: number; seed?: number }): Generator<{ how: string; value: unknown }> {
  const odd: unknown[] = [null, true, -1, 0, 1.5, 2 ** 53, 1e308, '', 'x', '\u0000', 'a'.repeat(5000), [], {}, [null], [[[[]]]], { __proto__: null, constructor: 1 }];
  for (let number = 0; number < count; number += 1) {
    const random = belowOf(seed * 2_000_003 + number);
    const holder = { root: structuredClone(original) };
    const places = placesIn(holder);
    const { parent, key } = places[random(places.length)]!;
    const how = ['replaced', 'dropped', 'renamed', 'doubled'][random(4)]!;
    const target = parent as Record<string, unknown>;
    switch (how) {
      case 'replaced': target[key] = odd[random(odd.length)]; break;
      case 'dropped': if (Array.isArray(parent)) parent.splice(Number(key), 1); else delete target[key]; break;
      case 'renamed': target[`${key}x`] = target[key]; if (!Array.isArray(parent)) delete target[key]; break;
      case 'doubled': if (Array.isArray(target[key])) target[key] = [...target[key] as unknown[], ...target[key] as unknown[]]; else target[key] = [target[key], target[key]]; break;
    }
    yield { how: `seed ${seed}, number ${number}: ${how} ${key}`, value: holder.root };
  }
}

function placesIn(value: unknown): { parent: unknown; key: string }[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [{ parent: value, key }, ...placesIn(inner)]);
}
