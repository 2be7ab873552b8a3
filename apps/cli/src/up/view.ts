import colours from 'picocolors';
import { table } from '../output.ts';
import type { ManagedState } from './managed.ts';
import type { Stack } from './stack.ts';

const tones: Record<ManagedState, (text: string) => string> = { waiting: colours.dim, ready: colours.green, starting: colours.cyan, restarting: colours.yellow, stopping: colours.yellow, stopped: colours.dim };

/** On a terminal one table that is drawn over itself; elsewhere a line per change. */
export class StatusView {
  private drawn = 0;
  private timer: NodeJS.Timeout | undefined;
  private readonly told = new Map<string, string>();

  constructor(private readonly stack: Stack, private readonly live: boolean) {}

  start(): void {
    if (this.live) this.timer = setInterval(() => this.draw(), 1_000);
    this.draw();
  }

  /** Lines keep the order in which things happened; the table is drawn every second anyway. */
  changed(): void {
    if (!this.live) this.draw();
  }

  stop(): void {
    clearInterval(this.timer);
    this.draw();
  }

  /** Something else goes to the terminal now: the table is drawn anew below it. */
  interrupted(): void {
    this.drawn = 0;
  }

  draw(): void {
    if (!this.live) {
      for (const { name, state, pid, restarts, at } of this.stack.rows()) {
        const line = `${name.padEnd(10)} ${state}${state === 'ready' ? `${pid ? `, process ${pid}` : ''}${at ? `, ${at}` : ''}` : ''}${restarts > 0 ? `, restarted ${restarts} ${restarts === 1 ? 'time' : 'times'}` : ''}`;
        if (state !== 'waiting' && this.told.get(name) !== line) process.stdout.write(`${line}\n`);
        this.told.set(name, line);
      }
      return;
    }
    const rows = this.stack.rows().map(({ name, state, pid, since, restarts, at }) => [name, tones[state](state), pid, span(Date.now() - since), restarts, at]);
    const text = `${table(['process', 'state', 'pid', 'for', 'restarts', 'at'], rows)}\n\n${colours.dim('Ctrl-C stops everything; data stays.')}\n`;
    process.stdout.write(`${this.drawn > 0 ? `\x1b[${this.drawn}A\x1b[0J` : ''}${text}`);
    this.drawn = text.split('\n').length - 1;
  }
}

function span(ms: number): string {
  const s = Math.floor(ms / 1_000);
  return s < 60 ? `${s} s` : s < 3_600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3_600)} h`;
}
