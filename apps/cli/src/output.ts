import { SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import colours from 'picocolors';
import type { ReefError } from '@reefkeeper/platform/errors';
import { widthsWithin } from './columns.ts';

const tones: Record<string, (text: string) => string> = {
  SUCCEEDED: colours.green, PASSED: colours.green, READY: colours.green, HEALTHY: colours.green, CACHED: colours.green, online: colours.green,
  RUNNING: colours.cyan, IN_PROGRESS: colours.cyan, ANALYSING: colours.cyan, BUILDING: colours.cyan, QUEUED: colours.cyan,
  FAILED: colours.red, ROLLED_BACK: colours.red, ROLLING_BACK: colours.red, TIMED_OUT: colours.red, ABORTED: colours.red, CANCELED: colours.red,
  PAUSED: colours.yellow, INCONCLUSIVE: colours.yellow, DEGRADED: colours.yellow, SKIPPED: colours.dim, PENDING: colours.dim, NOT_APPLICABLE: colours.dim, offline: colours.dim,
  OPEN: colours.yellow, ACKNOWLEDGED: colours.cyan, CLOSED: colours.green, critical: colours.red, warning: colours.yellow,
};

/** A state in its colour. */
export function tone(state: string): string {
  return (tones[state] ?? ((text: string) => text))(state);
}

/** Where results go. With --json, stdout carries JSON and nothing else; otherwise words and tables for people. Progress goes to stderr. */
export class Output {
  constructor(readonly json: boolean) {}

  /** One result. */
  show(value: unknown, people: () => string): void {
    process.stdout.write(this.json ? `${JSON.stringify(value)}\n` : `${people()}\n`);
  }

  /** Something on the way; for programs one JSON line. */
  step(value: Record<string, unknown>, people: string): void {
    if (this.json) process.stdout.write(`${JSON.stringify(value)}\n`);
    else process.stdout.write(`${people}\n`);
  }

  note(text: string): void {
    if (!this.json) process.stderr.write(`${colours.dim(text)}\n`);
  }

  failed(error: ReefError): void {
    if (this.json) process.stdout.write(`${JSON.stringify({ error: { code: error.code, kind: error.kind, message: error.message, context: error.detail } })}\n`);
    else process.stderr.write(`${colours.red('error:')} ${error.message}\n${colours.dim(`code: ${error.code}`)}\n`);
    if (error.kind === 'bug' && process.env.REEF_DEBUG) process.stderr.write(`${error.stack}\n${(error.cause as Error | undefined)?.stack ?? ''}\n`);
    process.exitCode = error.exitCode;
  }

  /** A bar on a terminal; nothing elsewhere. `update` takes percent. */
  bar(title: string): { update(percent: number, what?: string): void; done(): void } {
    if (this.json || !process.stderr.isTTY) return { update() {}, done() {} };
    const bar = new SingleBar({ format: `${title.padEnd(10)} {bar} {percentage} % {what}`, barCompleteChar: '█', barIncompleteChar: '░', hideCursor: true, stream: process.stderr, clearOnComplete: true });
    bar.start(100, 0, { what: '' });
    return { update: (percent, what = '') => bar.update(Math.min(100, Math.round(percent)), { what }), done: () => bar.stop() };
  }
}

/** Fits the terminal; in a pipe a row is a line. Where its columns do not fit side by side, each row is told one value below the other. */
export function table(head: string[], rows: (string | number | null | undefined)[][], line = process.stdout.isTTY ? process.stdout.columns : Infinity): string {
  if (rows.length === 0) return colours.dim('(none)');
  const cells = rows.map((row) => row.map((cell) => (cell === null || cell === undefined || cell === '' ? '-' : String(cell))));
  const widths = widthsWithin([head, ...cells], line);
  if (!widths) {
    // Columns that say nothing go first.
    const said = head.flatMap((_, column) => (cells.some((row) => row[column] !== '-') ? [column] : []));
    if (said.length > 0 && said.length < head.length) return table(said.map((column) => head[column]!), cells.map((row) => said.map((column) => row[column])), line);
    return cells.map((row) => facts(head.flatMap((name, column): [string, string | undefined][] => (row[column] === '-' ? [] : [[name, row[column]]])))).join('\n\n');
  }
  const made = new Table({
    ...(line === Infinity ? {} : { colWidths: widths, wordWrap: true }),
    head: head.map((name) => colours.bold(name)), style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 },
    chars: { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: '' },
  });
  for (const row of cells) made.push(row);
  return made.toString();
}

/** Wider ones wrap on a terminal. */
const confusionLimit = 12;

/** What is against what was answered, zeros as dots; nothing where there are too many classes. */
export function confusionTable(labels: string[], confusion: number[][]): string[] {
  if (labels.length > confusionLimit) return [];
  return [table(['is \\ answered', ...labels], confusion.map((row, index) => [labels[index]!, ...row.map((count) => (count === 0 ? '.' : count))]))];
}

/** Name and value, one per line. */
export function facts(pairs: [string, string | number | null | undefined][]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${colours.dim(name.padEnd(width))}  ${value ?? '-'}`).join('\n');
}

/** A fact that is left out where there is none. */
export const optional = (name: string, value: string | null | undefined): [string, string][] => (value ? [[name, value]] : []);

/** `site=lyon, line=a` */
export const labelsText = (labels: Record<string, string>): string => Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(', ');

/** The end of what holds for a while, such as a freeze. */
export function untilText({ until, active, liftedAt, liftedBy }: { until: string; active: boolean; liftedAt: string | null; liftedBy: string | null }): string {
  if (liftedAt) return `lifted by ${liftedBy} ${ago(liftedAt)}`;
  return active ? until : `over, ${until}`;
}

export function percent(share: number | null | undefined, digits = 1): string {
  return share === null || share === undefined ? '-' : `${(share * 100).toFixed(digits)} %`;
}

/** Memory comes in powers of two. */
export function memory(n: number): string {
  return n < 1_073_741_824 ? `${Math.round(n / 1_048_576)} MiB` : `${(n / 1_073_741_824).toFixed(1)} GiB`;
}

export function bytes(n: number): string {
  if (n < 1_000) return `${n} B`;
  if (n < 1_000_000) return `${(n / 1_000).toFixed(1)} kB`;
  return `${(n / 1_000_000).toFixed(1)} MB`;
}

/** `1 device`, `2 devices` */
export function counted(n: number, one: string): string {
  return `${n} ${one}${n === 1 ? '' : 's'}`;
}

export function ago(at: string | null | undefined): string {
  if (!at) return 'never';
  const s = Math.max(0, Math.round((Date.now() - Date.parse(at)) / 1_000));
  if (s < 60) return `${s} s ago`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}

/** `90 s`, `12 min`, `3.5 h` */
export function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3_600).toFixed(1)} h`;
}
