import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ReefError } from '@reefkeeper/platform/errors';
import type { AgentConfig, DataBudget } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';

/** What of a budget is spent. Periods follow each other from the first start on; the device's clock has no say in when. */
export interface Ledger {
  spentBytes: number;
  /** Of the period at hand, milliseconds. */
  elapsedMs: number;
}

export const periodMs: Record<DataBudget['per'], number> = { day: 24 * 3_600_000, month: 30 * 24 * 3_600_000 };

export function later({ spentBytes, elapsedMs }: Ledger, ms: number, lengthMs: number): Ledger {
  const elapsed = elapsedMs + Math.max(0, ms);
  return elapsed >= lengthMs ? { spentBytes: 0, elapsedMs: elapsed % lengthMs } : { spentBytes, elapsedMs: elapsed };
}

/** A device without a battery starts in 1970 until it has asked for the time: from such a clock nothing follows. */
const plausibleMs = Date.parse('2026-01-01T00:00:00Z');

/** How long the agent was not running, as far as two readings of the device's clock can tell; 0 where they cannot, so that a clock that comes back from 1970 opens no budget. One that was set ahead meanwhile is believed. */
export function awayMs(savedAt: number, now: number): number {
  return savedAt >= plausibleMs && now > savedAt ? now - savedAt : 0;
}

/** What the link costs: the fleet's word, else the device's own settings. Nothing is counted on an unmetered one. */
export function limitOf(config: Pick<AgentConfig, 'link' | 'dataBudget'>, own: { link: 'metered' | 'unmetered'; dataBudget?: DataBudget | undefined }): DataBudget | null {
  return (config.link ?? own.link) === 'metered' ? config.dataBudget ?? own.dataBudget ?? null : null;
}

const saved = z.object({ schema: z.literal(1), spentBytes: z.number().nonnegative(), elapsedMs: z.number().nonnegative(), savedAt: z.number(), allowed: z.array(z.string()) });

const saveEveryBytes = 256 * 1024;
const saveEveryMs = 3_600_000;

export interface BudgetOptions {
  limit: () => DataBudget | null;
  monotonicMs?: () => number;
  /** The device's clock: only to learn how long the agent was not running. */
  wallMs?: () => number;
}

/**
 * Bytes downloaded over a metered link, counted over restarts. What arrived in the last moments before a power cut may be missing
 * (`saveEveryBytes`); time that nobody can vouch for does not count, so a period is rather too long than too short.
 */
export class Budget {
  private ledger: Ledger;
  private readAtMs: number;
  private savedAtMs: number;
  private unsaved = 0;
  private saving: Promise<void> = Promise.resolve();
  private readonly monotonicMs: () => number;
  private readonly wallMs: () => number;

  private constructor(private readonly path: string, ledger: Ledger, private allowed: ReadonlySet<string>, private readonly options: BudgetOptions) {
    this.ledger = ledger;
    this.monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.wallMs = options.wallMs ?? (() => Date.now());
    this.readAtMs = this.savedAtMs = this.monotonicMs();
  }

  static async open(dir: string, options: BudgetOptions): Promise<Budget> {
    const path = join(dir, 'budget.json');
    const text = await readFile(path, 'utf8').catch(() => undefined);
    try {
      const { spentBytes, elapsedMs, savedAt, allowed } = saved.parse(JSON.parse(text!));
      const budget = new Budget(path, { spentBytes, elapsedMs }, new Set(allowed), options);
      budget.pass(awayMs(savedAt, budget.wallMs()));
      return budget;
    } catch {
      // None yet, or not readable any more: a period begins.
      return new Budget(path, { spentBytes: 0, elapsedMs: 0 }, new Set(), options);
    }
  }

  /** What is left of the period; null where nothing limits it. */
  get leftBytes(): number | null {
    const limit = this.options.limit();
    this.tick();
    return limit && Math.max(0, limit.bytes - this.ledger.spentBytes);
  }

  /** Until the next period; null where nothing limits it. */
  get opensInMs(): number | null {
    const limit = this.options.limit();
    this.tick();
    return limit && periodMs[limit.per] - this.ledger.elapsedMs;
  }

  /** To be asked before bytes are. @throws ReefError `budget_exceeded` */
  afford(bundle: string, bytes: number): void {
    const limit = this.options.limit();
    const left = this.leftBytes;
    if (!limit || left === null || bytes <= left || this.allowed.has(bundle)) return;
    const until = bytes > limit.bytes ? `which is more than a whole ${limit.per}'s budget` : `the next ${limit.per} begins in ${Math.ceil(this.opensInMs! / 3_600_000)} h`;
    throw new ReefError('budget_exceeded', 'conflict', `The download needs ${bytes} bytes and ${left} of ${limit.bytes} a ${limit.per} are left; ${until}. Let it through with \`reef device allow-download\`, or with ignoreBudget in the rollout's policy.`, { detail: { bytes, left, budget: limit.bytes } });
  }

  allows(bundle: string): boolean {
    return this.allowed.has(bundle);
  }

  spend(bytes: number): void {
    if (this.options.limit() === null) return;
    this.tick();
    this.ledger = { ...this.ledger, spentBytes: this.ledger.spentBytes + bytes };
    this.unsaved += bytes;
    if (this.unsaved >= saveEveryBytes) void this.save();
  }

  /** These bundles may be fetched whatever it costs; what they cost is counted. */
  async allow(bundles: readonly string[]): Promise<void> {
    this.allowed = new Set(bundles);
    await this.save();
  }

  save(): Promise<void> {
    this.tick();
    this.unsaved = 0;
    this.savedAtMs = this.readAtMs;
    const body = JSON.stringify({ schema: 1, ...this.ledger, savedAt: this.wallMs(), allowed: [...this.allowed] } satisfies z.input<typeof saved>);
    // A disk that cannot be written is somebody else's to report; the count goes on in memory.
    this.saving = this.saving.then(() => writeFileAtomic(this.path, body)).catch(() => {});
    return this.saving;
  }

  private tick(): void {
    const now = this.monotonicMs();
    this.pass(now - this.readAtMs);
    this.readAtMs = now;
    if (this.options.limit() && now - this.savedAtMs > saveEveryMs) {
      this.savedAtMs = now;
      void this.save();
    }
  }

  private pass(ms: number): void {
    this.ledger = later(this.ledger, ms, periodMs[this.options.limit()?.per ?? 'day']);
  }
}
