import type { KnownLabels } from '@reefkeeper/devices';
import type { Tx } from '@reefkeeper/platform';
import type { Capabilities, Policy } from '@reefkeeper/protocol';
import type { Seen } from './follow.ts';

/** What a device runs or is wanted to run, as far as it can be assigned again. */
export interface Placed { bundle: string; versionId: string | null; variant: string }

export interface FleetDevice {
  id: string;
  labels: Record<string, string>;
  online: boolean;
  health: 'HEALTHY' | 'DEGRADED' | 'UNKNOWN';
  capabilities: Capabilities | null;
  running: string | null;
  /** Of what runs. */
  variant: string | null;
  wanted: string | null;
  /** Why it keeps what it runs, and who said so. */
  pin: { reason: string; by: string } | null;
}

/** What decides when a device may be told. `timeZone`: as its agent reports it. */
export interface Place { labels: Record<string, string>; timeZone: string | null; pin: FleetDevice['pin'] }

export interface Order { workload: string; policy: Policy; rollback: boolean; devices: ReadonlyMap<string, Placed> }

/** All the engine asks of devices: set-based, inside the caller's transaction. */
export interface Fleet {
  /** @param without devices that have a part in this rollout are left out */
  select(tx: Tx, selector: string, workload: string, without?: string): Promise<FleetDevice[]>;
  /** Of every device that is not retired: to say what a selector may have meant. */
  labels(tx: Tx): Promise<KnownLabels>;
  places(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Place>>;
  /** Devices of a rollout (of one wave of it, or of all) that have left its bundle since their success, with why; it is still what they are wanted to run. */
  left(tx: Tx, rollout: { id: string; workload: string; bundle: string }, wave: number | null): Promise<Map<string, { code: string; message: string }>>;
  seen(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Seen>>;
  /** What each device goes back to: what it runs now, or is wanted to run where it has not said. Retired devices are missing. */
  placed(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Placed | null>>;
  /** The revision that tells each device; devices that are gone are missing. */
  assign(tx: Tx, order: Order): Promise<Map<string, number>>;
  unassign(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, number>>;
}
