import { ReefError } from '@reefkeeper/platform/errors';

/** What a service manager is told (sd_notify(3)). */
export interface ServiceManager {
  ready(): void;
  /** An orderly end has begun. */
  stopping(): void;
  /**
   * Feeds the watchdog for as long as `healthy` says yes in time, and not a beat longer: a loop that hangs, or a check that does not come
   * back, lets it starve, and the service manager starts the service again.
   */
  watch(healthy: () => Promise<boolean>): void;
  close(): void;
}

const silent: ServiceManager = { ready: () => {}, stopping: () => {}, watch: () => {}, close: () => {} };

/**
 * systemd, where it started us with `Type=notify`; else nobody. Node has no Unix datagram sockets, so the word goes through libsystemd itself, by the
 * same koffi that drives TFLite (docs/adr/0008-service-manager.md). It is loaded only here, and only under systemd.
 * @throws ReefError `agent.notify_unavailable`
 */
export async function serviceManager(env: Record<string, string | undefined>, notify?: (state: string) => void): Promise<ServiceManager> {
  if (!env.NOTIFY_SOCKET) return silent;
  const say = notify ?? await libsystemd();
  // sd_watchdog_enabled(3) recommends half; a third survives one late timer.
  const everyMs = Number(env.WATCHDOG_USEC) > 0 ? Number(env.WATCHDOG_USEC) / 3_000 : undefined;
  let timer: NodeJS.Timeout | undefined;
  let asking = false;
  return {
    ready: () => say('READY=1'),
    stopping: () => say('STOPPING=1'),
    watch(healthy) {
      if (everyMs === undefined) return;
      const ask = (): void => {
        // The last question is not answered yet: that is an answer.
        if (asking) return;
        asking = true;
        void healthy().then((yes) => { if (yes) say('WATCHDOG=1'); }, () => {}).finally(() => { asking = false; });
      };
      // At once: the release before may have been fed last a while ago.
      ask();
      timer = setInterval(ask, everyMs);
    },
    close: () => clearInterval(timer),
  };
}

async function libsystemd(): Promise<(state: string) => void> {
  try {
    const { default: koffi } = await import('koffi');
    const notify = koffi.load('libsystemd.so.0').func('int sd_notify(int unset_environment, const char *state)') as (unset: number, state: string) => number;
    return (state) => { notify(0, state); };
  } catch (cause) {
    throw new ReefError('agent.notify_unavailable', 'invalid', `The service manager waits for word from this service (Type=notify), and libsystemd.so.0 cannot be loaded: ${(cause as Error).message}. Install libsystemd0, or use Type=simple.`, { cause });
  }
}
