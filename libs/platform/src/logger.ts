import pino, { type Logger } from 'pino';

export type { Logger };

/** One JSON logger per process; ids are bound at the edge with `.child({ device })`. Writes to stderr: stdout belongs to results. */
export function openLogger(name: string, level = 'info'): Logger {
  return pino({ name, level, base: { name, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: false }));
}
