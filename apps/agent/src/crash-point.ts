import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Where the kill test takes the process down. A step has three points: `enter`, `effect` (its effect is there, not yet noted)
 * and `noted`. A file remembers that it happened, so that the restarted agent gets past it.
 */
export type CrashPoint = (name: string) => void;

export function crashPoint(wanted: string | undefined, dir: string): CrashPoint {
  if (!wanted) return () => {};
  return (name) => {
    if (name !== wanted) return;
    try {
      closeSync(openSync(join(dir, `.crashed-${name.replace(':', '-')}`), 'wx'));
    } catch {
      return;
    }
    process.kill(process.pid, 'SIGKILL');
  };
}
