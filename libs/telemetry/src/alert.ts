/** The words of an alert and the decision about it. Nothing here knows a database or a clock. */

export const alertStates = ['OPEN', 'ACKNOWLEDGED', 'CLOSED'] as const;
export type AlertState = (typeof alertStates)[number];
export const severities = ['critical', 'warning', 'info'] as const;
export type Severity = (typeof severities)[number];

/** What is known of one subject just now. */
export interface Fact {
  kind: string;
  /** A device, `device/workload`, or a rollout: one alert of a kind is open for it at most. */
  subject: string;
  device: string | null;
  workload: string | null;
  rollout: string | null;
  /** Whether the condition holds. */
  holds: boolean;
  numbers: Record<string, unknown>;
}

/** How alerts of one kind come and go, and what they say. */
export interface AlertKind {
  severity: Severity;
  /** The condition holds for so long without a break before the alert opens. */
  openAfterS: number;
  /** And is gone for so long without a break before it closes; longer where it came back lately, see `calmS`. */
  closeAfterS: number;
  /** What it means that no fact speaks of a subject: the condition is gone, or nothing is known and all stays as it is. */
  silence: 'gone' | 'unknown';
  summary(fact: Fact): string;
  advice(fact: Fact): string;
}
export type AlertKinds = Readonly<Record<string, AlertKind>>;

/** An alert that is not closed. PENDING ones nobody is told of: their condition has not held for long enough. */
export interface LiveAlert {
  kind: string;
  subject: string;
  state: 'PENDING' | 'OPEN' | 'ACKNOWLEDGED';
  /** Since when the condition holds. */
  since: Date;
  lastSeenAt: Date;
  /** Since when it is gone; null while it holds. */
  goneSince: Date | null;
  /** The how manieth alert of this kind and subject in a row, each opened soon after the one before was closed. */
  times: number;
}

/** What becomes of an alert; a fact comes with what is written of it. */
export type Change =
  | { move: 'begin'; state: 'PENDING' | 'OPEN'; kind: string; subject: string; times: number; fact: Fact }
  | { move: 'open' | 'see'; kind: string; subject: string; fact: Fact }
  | { move: 'miss' | 'close' | 'forget'; kind: string; subject: string };

/** An alert that opens this soon after the last one of its subject was closed is one more time of the same trouble. */
export const lapseS = 3_600;
/** Nothing known for so long ends an alert, too: whoever closed the line would keep it open for ever. */
export const staleS = 86_400;
/** A standing condition is written down as seen this often. */
const seenEveryS = 60;

/** Calm that is asked for before an alert is closed: twice as long each time it has come back, so that what flaps stays one open alert instead of many short ones. */
export const calmS = ({ closeAfterS }: Pick<AlertKind, 'closeAfterS'>, times: number): number => Math.max(closeAfterS, Math.min(lapseS, closeAfterS * 2 ** (times - 1)));

export const keyOf = ({ kind, subject }: { kind: string; subject: string }): string => `${kind}\n${subject}`;

/**
 * What to do about each alert of these kinds. Alerts and facts of other kinds are left alone.
 * @param lapsed times of alerts that were closed less than `lapseS` ago, by `keyOf`
 */
export function judge(kinds: AlertKinds, facts: readonly Fact[], live: readonly LiveAlert[], lapsed: ReadonlyMap<string, number>, now: Date): Change[] {
  const aged = (since: Date, s: number): boolean => now.getTime() - since.getTime() >= s * 1_000;
  const known = new Map(facts.map((fact) => [keyOf(fact), fact]));
  const changes: Change[] = [];
  const alive = new Set<string>();
  for (const alert of live) {
    const kind = kinds[alert.kind];
    if (!kind) continue;
    const { kind: name, subject } = alert;
    alive.add(keyOf(alert));
    const fact = known.get(keyOf(alert));
    if (!fact && kind.silence === 'unknown' && !aged(alert.lastSeenAt, staleS)) continue;
    if (fact?.holds) {
      if (alert.state === 'PENDING' && aged(alert.since, kind.openAfterS)) changes.push({ move: 'open', kind: name, subject, fact });
      else if (alert.goneSince || aged(alert.lastSeenAt, seenEveryS)) changes.push({ move: 'see', kind: name, subject, fact });
    } else if (alert.state === 'PENDING') changes.push({ move: 'forget', kind: name, subject });
    else if (calmS(kind, alert.times) === 0 || (alert.goneSince && aged(alert.goneSince, calmS(kind, alert.times)))) changes.push({ move: 'close', kind: name, subject });
    else if (!alert.goneSince) changes.push({ move: 'miss', kind: name, subject });
  }
  for (const [key, fact] of known) {
    const kind = kinds[fact.kind];
    if (!kind || !fact.holds || alive.has(key)) continue;
    changes.push({ move: 'begin', state: kind.openAfterS === 0 ? 'OPEN' : 'PENDING', kind: fact.kind, subject: fact.subject, times: (lapsed.get(key) ?? 0) + 1, fact });
  }
  return changes;
}
