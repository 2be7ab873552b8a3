import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { matching, place, type Placeable } from './placement.ts';

const usb = (at: number) => ({ type: 'usb' as const, path: `/sys/bus/usb/devices/${at}-1` });
const pci = (at: number) => ({ type: 'pci' as const, path: `/dev/apex_${at}` });
const some = (...names: string[]): Placeable[] => names.map((workload) => ({ workload, pin: null, group: null, edgeTpus: 1 }));
const loads = (placed: Map<string, string[]>) => [...placed.values()].flat().reduce((all, path) => all.set(path, (all.get(path) ?? 0) + 1), new Map<string, number>());

describe('placement', () => {
  it('spreads over what is there, the least loaded first', () => {
    expect([...loads(place(some('a', 'b', 'c', 'd'), [usb(1), pci(0)])).values()]).toEqual([2, 2]);
    expect(place(some('a'), [])).toEqual(new Map());
  });

  it('a newcomer moves nobody; a device that goes moves only its own', () => {
    const before = place(some('a', 'c'), [usb(1), usb(2)]);
    const after = place(some('a', 'b', 'c'), [usb(1), usb(2)], before);
    expect([after.get('a'), after.get('c')]).toEqual([before.get('a'), before.get('c')]);
    const alone = place(some('a', 'b', 'c'), [usb(2)], after);
    expect(new Set([...alone.values()].flat())).toEqual(new Set([usb(2).path]));
  });

  it('an Edge TPU that comes later takes one of two, and not the only one', () => {
    const before = place(some('a', 'b'), [usb(1)]);
    expect([...loads(place(some('a', 'b'), [usb(1), usb(2)], before)).values()]).toEqual([1, 1]);
    expect(place(some('a'), [usb(1), usb(2)], place(some('a'), [usb(2)]))).toEqual(new Map([['a', [usb(2).path]]]));
  });

  it('models compiled together stay together', () => {
    const eyes = { workload: 'eyes', pin: null, group: '5eed', edgeTpus: 1 };
    const ears = { workload: 'ears', pin: null, group: '5eed', edgeTpus: 1 };
    const placed = place([eyes, ears, ...some('alone')], [usb(1), usb(2)]);
    expect(placed.get('eyes')).toEqual(placed.get('ears'));
    expect(placed.get('alone')).not.toEqual(placed.get('eyes'));
    expect(place([eyes, ears], [usb(1), usb(2)], placed)).toEqual(new Map([['eyes', placed.get('eyes')], ['ears', placed.get('eyes')]]));
  });

  it('a pin is kept, and waited for', () => {
    const pinned = (pin: string) => [{ workload: 'a', pin, group: null, edgeTpus: 1 }];
    expect(place(pinned('pci'), [usb(1), pci(0)]).get('a')).toEqual([pci(0).path]);
    expect(place(pinned(usb(2).path), [usb(1)]).has('a')).toBe(false);
    expect(place(pinned('usb:1'), [usb(2), usb(1)], new Map([['a', [usb(1).path]]])).get('a')).toEqual([usb(2).path]);
    expect(matching([usb(1), pci(0)], ':0')).toEqual([pci(0)]);
  });

  it('a model in segments has an Edge TPU for each, keeps those that stay, and is nowhere where there are too few', () => {
    const cut = { workload: 'cut', pin: null, group: '5eed', edgeTpus: 2 };
    const before = place([cut, ...some('a')], [usb(1), usb(2), usb(3)]);
    expect(new Set(before.get('cut'))).toHaveProperty('size', 2);
    expect(before.get('cut')).not.toContain(before.get('a')![0]);
    const [first, second] = before.get('cut')!;
    const left = [usb(1), usb(2), usb(3)].filter(({ path }) => path !== first);
    const after = place([cut, ...some('a')], left, before);
    expect(after.get('cut')).toEqual([second, before.get('a')![0]]);
    expect(after.get('a')).toEqual(before.get('a'));
    expect(place([cut, ...some('a')], [usb(1)], after)).toEqual(new Map([['a', [usb(1).path]]]));
    expect(place([{ ...cut, pin: 'usb' }], [usb(1), pci(0)]).has('cut')).toBe(false);
  });

  const world = fc.record({
    wanted: fc.uniqueArray(fc.record({ workload: fc.stringMatching(/^[a-h]$/), pin: fc.constantFrom(null, null, 'usb', 'pci:0'), group: fc.constantFrom(null, null, 'x', 'y'), edgeTpus: fc.constantFrom(1, 1, 2, 3) }), { selector: ({ workload }) => workload }),
    devices: fc.uniqueArray(fc.constantFrom(usb(1), usb(2), usb(3), pci(0), pci(1)), { selector: ({ path }) => path }),
    before: fc.dictionary(fc.stringMatching(/^[a-h]$/), fc.uniqueArray(fc.constantFrom(usb(1).path, usb(2).path, pci(0).path, '/gone'), { minLength: 1, maxLength: 3 })),
  });
  it('is stable, in no order in particular, and never away from where it may be', () => {
    fc.assert(fc.property(world, ({ wanted, devices, before }) => {
      const placed = place(wanted, devices, new Map(Object.entries(before)));
      expect(place(wanted, devices, placed)).toEqual(placed);
      expect(place(wanted.toReversed(), devices.toReversed(), new Map(Object.entries(before)))).toEqual(placed);
      for (const { workload, pin, edgeTpus } of wanted) {
        const allowed = pin === null ? devices : matching(devices, pin);
        expect(placed.has(workload)).toBe(allowed.length >= edgeTpus);
        for (const path of placed.get(workload) ?? []) expect(allowed.map((device) => device.path)).toContain(path);
        if (placed.has(workload)) expect(new Set(placed.get(workload)).size).toBe(edgeTpus);
      }
      for (const one of wanted) for (const other of wanted) {
        if (one.group !== null && one.group === other.group && one.pin === null && other.pin === null && one.edgeTpus === 1 && other.edgeTpus === 1) expect(placed.get(one.workload)).toEqual(placed.get(other.workload));
      }
    }), { numRuns: 200 });
  });
});
