import { startEmbeddedPostgres, type EmbeddedPostgres } from '@reefkeeper/platform/embedded-postgres';
import type { Row } from './stack.ts';

const lookMs = 1_000;

/** The embedded PostgreSQL, watched: it is nobody's child, so it is looked after by its process id. With DATABASE_URL there is none. */
export class Database {
  private server: EmbeddedPostgres | undefined;
  private pid: number | undefined;
  private state: Row['state'] = 'waiting';
  private since = Date.now();
  private restarts = 0;
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;

  constructor(private readonly dir: string, private readonly tell: { onNote(text: string): void; onChange(): void }) {}

  /** @returns its URL */
  async start(): Promise<string> {
    if (process.env.DATABASE_URL) {
      this.move('ready');
      return process.env.DATABASE_URL;
    }
    this.move('starting');
    this.server = await startEmbeddedPostgres(this.dir);
    this.pid = await this.server.pid();
    if (this.server.adopted) this.tell.onNote('PostgreSQL was still running from before and was taken over');
    this.move('ready');
    this.timer = setInterval(() => { this.looking ??= this.look().finally(() => { this.looking = undefined; }); }, lookMs);
    return this.server.url;
  }

  row(): Row {
    return { name: 'postgres', state: this.state, pid: this.pid, since: this.since, restarts: this.restarts, at: this.server ? `127.0.0.1:${this.server.port}` : process.env.DATABASE_URL ? 'DATABASE_URL' : '' };
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
    if (this.server) {
      this.move('stopping');
      await this.server.stop();
      this.pid = undefined;
    }
    this.move('stopped');
  }

  private async look(): Promise<void> {
    this.pid = await this.server!.pid();
    if (this.pid) return;
    this.move('restarting');
    try {
      // On its old port: everybody else only knows that one, and connects again by themselves.
      this.server = await startEmbeddedPostgres(this.dir, { port: this.server!.port });
      this.pid = await this.server.pid();
      this.restarts += 1;
      this.move('ready');
    } catch (error) {
      this.tell.onNote(`PostgreSQL does not start: ${(error as Error).message}`);
    }
  }

  private move(state: Row['state']): void {
    if (state === this.state) return;
    this.state = state;
    this.since = Date.now();
    this.tell.onChange();
  }
}
