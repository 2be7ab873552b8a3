import type { EdgeTpuDevice } from '@reefkeeper/inference';

export interface Placeable {
  workload: string;
  /** `policy.device`: a path, or as pycoral counts: `usb`, `pci`, `usb:1`, `:0`. */
  pin: string | null;
  /** Models compiled together; apart from each other they would gain nothing from it. */
  group: string | null;
  /** How many it runs on, a segment on each. */
  edgeTpus: number;
}

/**
 * Which workload runs on which Edge TPUs: one, or as many as its model has segments, each another; a workload that cannot run on any is missing in the answer. Pure, and the same for the same facts in
 * any order. What a workload may rely on: it keeps an Edge TPU as long as that one is there and its pin allows it, for moving means loading
 * anew. The only move without need is to an Edge TPU that nobody uses, from one that two parties share.
 */
export function place(wanted: readonly Placeable[], devices: readonly EdgeTpuDevice[], before: ReadonlyMap<string, readonly string[]> = new Map()): Map<string, string[]> {
  const placed = new Map<string, string[]>();
  const paths = devices.map(({ path }) => path);
  const parties = partiesOf(wanted, devices);
  const load = (path: string) => [...placed.values()].filter((seats) => seats.includes(path)).length;
  const seat = (party: Placeable[], seats: string[]) => { for (const { workload } of party) placed.set(workload, seats); };
  const allowedTo = ({ pin }: Placeable) => (pin === null ? paths : matching(devices, pin).map(({ path }) => path));
  /** Where a party sat and still may. */
  const keptBy = (party: Placeable[]) => party.map(({ workload }) => (before.get(workload) ?? []).filter((path) => allowedTo(party[0]!).includes(path)));

  const movable: Placeable[][] = [];
  for (const party of parties) {
    const { pin, edgeTpus } = party[0]!;
    const kept = keptBy(party).find((seats) => seats.length >= edgeTpus);
    if (kept) seat(party, kept.slice(0, edgeTpus));
    if (pin === null && edgeTpus === 1) movable.push(party);
  }
  for (const party of parties.filter(([first]) => !placed.has(first!.workload))) {
    const { edgeTpus } = party[0]!;
    const kept = keptBy(party)[0]!;
    const others = allowedTo(party[0]!).filter((path) => !kept.includes(path)).toSorted((a, b) => load(a) - load(b) || a.localeCompare(b));
    const seats = [...kept, ...others].slice(0, edgeTpus);
    // A part of a model is of no use.
    if (seats.length === edgeTpus) seat(party, seats);
  }
  for (const idle of paths.toSorted().filter((path) => load(path) === 0)) {
    const seats = (path: string) => movable.filter(([first]) => placed.get(first!.workload)?.[0] === path);
    const parted = paths.toSorted((a, b) => load(b) - load(a) || a.localeCompare(b)).map(seats).find((there) => there.length > 0 && load(placed.get(there[0]![0]!.workload)![0]!) > there.at(-1)!.length);
    if (parted) seat(parted.at(-1)!, [idle]);
  }
  return placed;
}

/** Who moves together, pinned ones alone, in an order that does not depend on the caller's. */
function partiesOf(wanted: readonly Placeable[], devices: readonly EdgeTpuDevice[]): Placeable[][] {
  const parties = new Map<string, Placeable[]>();
  if (devices.length === 0) return [];
  for (const one of wanted.toSorted((a, b) => a.workload.localeCompare(b.workload))) {
    const key = one.pin === null && one.group !== null && one.edgeTpus === 1 ? `group ${one.group}` : `workload ${one.workload}`;
    parties.set(key, [...(parties.get(key) ?? []), one]);
  }
  return [...parties.values()];
}

/** The devices that a pin means. */
export function matching(devices: readonly EdgeTpuDevice[], pin: string): EdgeTpuDevice[] {
  const counted = /^(usb|pci)?(?::(\d+))?$/.exec(pin);
  if (!counted) return devices.filter(({ path }) => path === pin);
  const [, type, index] = counted;
  const ofType = devices.filter((device) => type === undefined || device.type === type).toSorted((a, b) => a.path.localeCompare(b.path));
  return index === undefined ? ofType : ofType.slice(Number(index), Number(index) + 1);
}
