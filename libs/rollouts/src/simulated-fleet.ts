import { terminalStates, type Execution } from '@reefkeeper/protocol';
import type { Seen } from './follow.ts';
import type { DeviceSample } from './rollout.ts';

/** What the simulator asks of devices, be they made up (`virtual-fleet.ts`) or recorded (`recorded-fleet.ts`). */

export const newBundle = 'new';
export const oldBundle = 'old';

export interface SimulatedDevice {
  id: string;
  site: string;
  zone: string;
  /** Of the bundle that it fetches. */
  bytes: number;
  /** Virtual ms at which it is reachable (again); Infinity = never. */
  reachableAt: number;
  failsInstall: boolean;
  revision: number;
  wanted: string;
  running: string;
  /** Since when it runs that. */
  since: number;
  execution: Execution | null;
  observed: number;
  /** When it may be told nothing new; of several, the one that lasts longest counts. */
  freezes?: readonly Frozen[];
}

/** A freeze on the virtual clock: it is to last until `until`, and ends at `endedAt`. */
export interface Frozen { from: number; until: number; endedAt: number; reason: string }

/** A report on its way: what the device says of itself at `at`, by the server's clock. */
export interface Report { at: number; device: SimulatedDevice; revision: number; running: string; execution: Execution }

export interface SimulatedFleet {
  readonly devices: readonly SimulatedDevice[];
  /** The device is wanted to run the version (or the one before again); returns the reports it will send. */
  tell(device: SimulatedDevice, to: typeof newBundle | typeof oldBundle, now: number, observeS: number): Report[];
  /** Whether it has left the version since its success; absent where no device ever does. */
  hasLeft?(device: SimulatedDevice, now: number): boolean;
  /** Health before and since. */
  sample(device: SimulatedDevice, now: number): DeviceSample;
}

/** What the server takes in. An older revision than the last one heard of is late news and changes nothing. */
export function receive({ at, device, revision, running, execution }: Report): void {
  if (revision < device.observed || revision < device.revision) return;
  device.observed = revision;
  if (device.running !== running) device.since = at;
  device.running = running;
  // Sticky on the device's side, too: a report sent again says what the first one said.
  device.execution = execution.state === 'IN_PROGRESS' && device.execution?.revision === revision && terminalStates.has(device.execution.state) ? device.execution : execution;
}

export function seenOf(device: SimulatedDevice): Seen {
  return { retired: false, wantedBundle: device.wanted, observedRevision: device.observed, running: device.running, execution: device.execution };
}
