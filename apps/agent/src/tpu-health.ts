interface DeviceHealth { failuresMs: number[]; offences: number; outUntilMs: number }

/**
 * Whether an Edge TPU is worth another try. So many failures within a while take it out of use, for a time that doubles with each offence;
 * after that it gets one try more. A reset may be asked for whenever it goes out, at most so often an hour. Pure: the caller has the clocks.
 */
export class TpuHealth {
  private readonly devices = new Map<string, DeviceHealth>();

  constructor(private readonly limits: { failures: number; withinMs: number; firstOutMs: number; maxOutMs: number } = { failures: 3, withinMs: 600_000, firstOutMs: 60_000, maxOutMs: 3_600_000 }) {}

  /** @returns whether the device has just gone out of use */
  failed(path: string, nowMs: number): boolean {
    const { failures, withinMs, firstOutMs, maxOutMs } = this.limits;
    const one = this.devices.get(path) ?? { failuresMs: [], offences: 0, outUntilMs: -Infinity };
    this.devices.set(path, one);
    if (this.forgiven(one, nowMs)) one.offences = 0;
    one.failuresMs = [...one.failuresMs.filter((ms) => nowMs - ms < withinMs), nowMs];
    // After an offence the first failure is enough: it was out on probation.
    if (nowMs < one.outUntilMs || one.failuresMs.length < (one.offences > 0 ? 1 : failures)) return false;
    one.outUntilMs = nowMs + Math.min(maxOutMs, firstOutMs * 2 ** Math.min(one.offences, 20));
    one.offences += 1;
    one.failuresMs = [];
    return true;
  }

  out(path: string, nowMs: number): boolean {
    return nowMs < (this.devices.get(path)?.outUntilMs ?? -Infinity);
  }

  /** It has been out of use and may be again: the next failure is enough. */
  doubted(path: string, nowMs: number): boolean {
    const one = this.devices.get(path);
    return one !== undefined && one.offences > 0 && !this.forgiven(one, nowMs);
  }

  /** When the next device may be tried again; undefined where none is out. */
  nextTryMs(nowMs: number): number | undefined {
    const waiting = [...this.devices.values()].map(({ outUntilMs }) => outUntilMs).filter((ms) => ms > nowMs);
    return waiting.length === 0 ? undefined : Math.min(...waiting);
  }

  /** It has been reset: another try now, and no second chance. */
  wasReset(path: string, nowMs: number): void {
    const one = this.devices.get(path);
    if (one) one.outUntilMs = nowMs;
  }

  private forgiven({ failuresMs, outUntilMs }: DeviceHealth, nowMs: number): boolean {
    return nowMs - (failuresMs.at(-1) ?? outUntilMs) > 10 * this.limits.withinMs;
  }
}

/** At most `perHour` within any hour of the clock given; one that runs backwards cannot buy more. */
export function mayReset(pastMs: readonly number[], nowMs: number, perHour: number): boolean {
  return pastMs.filter((ms) => Math.abs(nowMs - ms) < 3_600_000 || ms > nowMs).length < perHour;
}
