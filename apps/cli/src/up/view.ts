import colours from 'picocolors';
import { table } from '../output.ts';
import type { ManagedState } from './managed.ts';
import type { Stack } from './stack.ts';

const tones: Record<ManagedState, (text: string) => string> = { ready: colours.green, starting: colours.cyan, restarting: colours.yellow, stopped: colours.dim };

/** On a terminal one table that is drawn over itself; elsewhere a line per change. */
export class StatusView {
  private drawn = 0;
  private timer: NodeJS.Timeout | undefined;
  private readonly told = new Map<string, string>();

  constructor(private readonly stack: Stack, private readonly live: boolean) {}

  start(): void {
    this.timer = setInterval(() => this.draw(), 1_000);
    this.draw();
  }

  stop(): void {
    clearInterval(this.timer);
    this.draw();
  }

  private draw(): void {
    if (!this.live) {
      for (const { spec, state, pid, restarts } of this.stack.processes) {
        const line = `${spec.name} ${state}${state === 'ready' ? ` (process ${pid})` : ''}${restarts > 0 ? `, started ${restarts + 1} times` : ''}`;
        if (this.told.get(spec.name) !== line) process.stdout.write(`${line}\n`);
        this.told.set(spec.name, line);
      }
      return;
    }
    const rows = this.stack.processes.map(({ spec, state, pid, restarts, since }) => [spec.name, tones[state](state), pid ?? '-', span(Date.now() - since), restarts, spec.at ?? '']);
    const text = `${table(['process', 'state', 'pid', 'for', 'restarts', 'at'], [['postgres', colours.green('ready'), '-', '-', '-', this.stack.database], ...rows])}\n\n${colours.dim('Ctrl-C stops everything; data stays.')}\n`;
    process.stdout.write(`${this.drawn > 0 ? `\x1b[${this.drawn}A\x1b[0J` : ''}${text}`);
    this.drawn = text.split('\n').length - 1;
  }
}

function span(ms: number): string {
  const s = Math.floor(ms / 1_000);
  return s < 60 ? `${s} s` : s < 3_600 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3_600)} h`;
}
