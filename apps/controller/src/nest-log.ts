import type { LoggerService } from '@nestjs/common';
import type { Logger } from '@reefkeeper/platform';

/** Nest's own lines into our log; its chatter about modules and routes is debug. */
export class NestLog implements LoggerService {
  constructor(private readonly to: Logger) {}

  log(message: unknown, context?: string): void {
    this.to.debug({ context }, String(message));
  }

  error(message: unknown, ...rest: unknown[]): void {
    this.to.error({ rest }, String(message));
  }

  warn(message: unknown, ...rest: unknown[]): void {
    this.to.warn({ rest }, String(message));
  }

  debug(message: unknown): void {
    this.to.trace(String(message));
  }

  verbose(message: unknown): void {
    this.to.trace(String(message));
  }
}
