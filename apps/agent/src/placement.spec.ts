import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { matching, place, type Placeable } from './placement.ts';

const usb = (at: number) => ({ type: 'usb' as const, path: `/sys/bus/usb/devices/${at}-1` });
const pci = (at: number) => ({ type: 'pci' as const, path: `/dev/apex_${at}` });
const some = (...names: string[]): Placeable[] => names.map((workload) => ({ workload, pin: null, group: null }));
const loads = (placed: Map<string, string>) => [...placed.values()].reduce((all, path) => all.set(path, (all.get(path) ?? 0) + 1), new Map<string, number>());

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
    expect(new Set(alone.values())).toEqual(new Set([usb(2).path]));
  });

  it('an Edge TPU that comes later takes one of two, and not the only one', () => {
    const before = place(some('a', 'b'), [usb(1)]);
    expect([...loads(place(some('a', 'b'), [usb(1), usb(2)], before)).values()]).toEqual([1, 1]);
    expect(place(some('a'), [usb(1), usb(2)], place(some('a'), [usb(2)]))).toEqual(new Map([['a', usb(2).path]]));
  });

  it('models compiled together stay together', () => {
    const eyes = { workload: 'eyes', pin: null, group: '5eed' };
    const ears = { workload: 'ears', pin: null, group: '5eed' };
    const placed = place([eyes, ears, ...some('alone')], [usb(1), usb(2)]);
    expect(placed.get('eyes')).toBe(placed.get('ears'));
    expect(placed.get('alone')).not.toBe(placed.get('eyes'));
    expect(place([eyes, ears], [usb(1), usb(2)], placed)).toEqual(new Map([['eyes', placed.get('eyes')], ['ears', placed.get('eyes')]]));
  });

  it('a pin is kept, and waited for', () => {
    const pinned = (pin: string) => [{ workload: 'a', pin, group: null }];
    expect(place(pinned('pci'), [usb(1), pci(0)]).get('a')).toBe(pci(0).path);
    expect(place(pinned(usb(2).path), [usb(1)]).has('a')).toBe(false);
    expect(place(pinned('usb:1'), [usb(2), usb(1)], new Map([['a', usb(1).path]])).get('a')).toBe(usb(2).path);
    expect(matching([usb(1), pci(0)], ':0')).toEqual([pci(0)]);
  });

  const world = fc.record({
    wanted: fc.uniqueArray(fc.record({ workload: fc.stringMatching(/^[a-h]$/), pin: fc.constantFrom(null, null, 'usb', 'pci:0'), group: fc.constantFrom(null, null, 'x', 'y') }), { selector: ({ workload }) => workload }),
    devices: fc.uniqueArray(fc.constantFrom(usb(1), usb(2), usb(3), pci(0), pci(1)), { selector: ({ path }) => path }),
    before: fc.dictionary(fc.stringMatching(/^[a-h]$/), fc.constantFrom(usb(1).path, usb(2).path, pci(0).path, '/gone')),
  });
  it('is stable, in no order in particular, and never away from where it may be', () => {
    fc.assert(fc.property(world, ({ wanted, devices, before }) => {
      const placed = place(wanted, devices, new Map(Object.entries(before)));
      expect(place(wanted, devices, placed)).toEqual(placed);
      expect(place(wanted.toReversed(), devices.toReversed(), new Map(Object.entries(before)))).toEqual(placed);
      for (const { workload, pin } of wanted) {
        const allowed = pin === null ? devices : matching(devices, pin);
        expect(placed.has(workload)).toBe(allowed.length > 0);
        if (placed.has(workload)) expect(allowed.map(({ path }) => path)).toContain(placed.get(workload));
      }
      for (const one of wanted) for (const other of wanted) {
        if (one.group !== null && one.group === other.group && one.pin === null && other.pin === null) expect(placed.get(one.workload)).toBe(placed.get(other.workload));
      }
    }), { numRuns: 200 });
  });
});
