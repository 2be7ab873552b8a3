import type { EdgeTpuDevice } from '@reefkeeper/inference';

export interface Placeable {
  workload: string;
  /** `policy.device`: a path, or as pycoral counts: `usb`, `pci`, `usb:1`, `:0`. */
  pin: string | null;
  /** Models compiled together; apart from each other they would gain nothing from it. */
  group: string | null;
}

/**
 * Which workload runs on which Edge TPU; a workload that cannot run on any is missing in the answer. Pure, and the same for the same facts in
 * any order. What a workload may rely on: it keeps its Edge TPU as long as that one is there and its pin allows it, for moving means loading
 * anew. The only move without need is to an Edge TPU that nobody uses, from one that two parties share.
 */
export function place(wanted: readonly Placeable[], devices: readonly EdgeTpuDevice[], before: ReadonlyMap<string, string> = new Map()): Map<string, string> {
  const placed = new Map<string, string>();
  const paths = devices.map(({ path }) => path);
  const parties = partiesOf(wanted, devices);
  const load = (path: string) => [...placed.values()].filter((one) => one === path).length;
  const seat = (party: Placeable[], path: string) => { for (const { workload } of party) placed.set(workload, path); };

  const movable: Placeable[][] = [];
  for (const party of parties) {
    const { pin } = party[0]!;
    const allowed = pin === null ? paths : matching(devices, pin).map(({ path }) => path);
    const kept = party.map(({ workload }) => before.get(workload)).find((path) => path !== undefined && allowed.includes(path));
    if (kept !== undefined) seat(party, kept);
    if (pin === null) movable.push(party);
  }
  for (const party of parties.filter(([first]) => !placed.has(first!.workload))) {
    const { pin } = party[0]!;
    const allowed = pin === null ? paths : matching(devices, pin).map(({ path }) => path);
    const [least] = allowed.toSorted((a, b) => load(a) - load(b) || a.localeCompare(b));
    if (least !== undefined) seat(party, least);
  }
  for (const idle of paths.toSorted().filter((path) => load(path) === 0)) {
    const seats = (path: string) => movable.filter(([first]) => placed.get(first!.workload) === path);
    const parted = paths.toSorted((a, b) => load(b) - load(a) || a.localeCompare(b)).map(seats).find((there) => there.length > 0 && load(placed.get(there[0]![0]!.workload)!) > there.at(-1)!.length);
    if (parted) seat(parted.at(-1)!, idle);
  }
  return placed;
}

/** Who moves together, pinned ones alone, in an order that does not depend on the caller's. */
function partiesOf(wanted: readonly Placeable[], devices: readonly EdgeTpuDevice[]): Placeable[][] {
  const parties = new Map<string, Placeable[]>();
  if (devices.length === 0) return [];
  for (const one of wanted.toSorted((a, b) => a.workload.localeCompare(b.workload))) {
    const key = one.pin === null && one.group !== null ? `group ${one.group}` : `workload ${one.workload}`;
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
