import { cosine, dequantise, matchBoxes } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Policy } from '@reefkeeper/protocol';
import { boxesOf, classesOf, type Answer, type Question, type Reading } from './answer.ts';
import { unlessAborted } from './backoff.ts';
import { burst } from './observation.ts';
import { prepared, type Runner } from './runner.ts';

export type ShadowPolicy = NonNullable<Policy['shadow']>;

/** One frame that both models saw; `agreed` null where the candidate gave no answer. */
export interface ShadowSample { agreed: boolean | null; candidateUs: number | null; activeUs: number }

export type ShadowEnd = 'enough' | 'time' | 'hurts';
export interface ShadowResult { end: ShadowEnd; frames: number; agreed: number; errors: number; dropped: number }

/** Frames of the active model alone that its pace is known by, before the candidate runs beside it. */
const baselineFrames = 30;
/** Frames over which its pace is judged each time. */
const judgedFrames = 40;
/** A p95 of so few frames moves by this much by itself. */
const noiseUs = 2_000;
/** So often the candidate is shown fewer frames before it is taken away. */
const throttles = 3;

/**
 * The pace of the model that serves, while something runs beside it. Judged over stretches of frames, so that it is not one slow frame that
 * counts; p95 over a stretch against p95 from before.
 */
export class Pace {
  private readonly baseline: number[];
  private stretch: number[] = [];
  private limitUs: number | undefined;
  private left = throttles;

  /** @param before whole times, microseconds; where they are too few, the first ones noted are taken as well */
  constructor(before: readonly number[], private readonly maxAddedPercent: number) {
    this.baseline = before.slice(-4 * baselineFrames);
  }

  /** `learning`: nothing may run beside it yet. `throttle`: it is slower than allowed. `hurts`: still, although it was said before. */
  note(totalUs: number): 'learning' | 'fine' | 'throttle' | 'hurts' {
    if (this.limitUs === undefined) {
      if (this.baseline.length < baselineFrames) {
        this.baseline.push(totalUs);
        return 'learning';
      }
      const usual = p95(this.baseline);
      this.limitUs = Math.max(usual * (1 + this.maxAddedPercent / 100), usual + noiseUs);
    }
    this.stretch.push(totalUs);
    if (this.stretch.length < judgedFrames) return 'fine';
    const slow = p95(this.stretch) > this.limitUs;
    this.stretch = [];
    if (!slow) return 'fine';
    this.left -= 1;
    return this.left < 0 ? 'hurts' : 'throttle';
  }
}

/**
 * A candidate beside the model that serves. Invariants: the active answer is given before the candidate sees the frame; at most one frame is with
 * the candidate, and those that come meanwhile are dropped, never kept. What it costs the active model all the same (processor, memory bandwidth)
 * is measured: p95 of the active answers against those from before.
 */
export class Shadow {
  private readonly end: Promise<ShadowEnd>;
  private finish!: (end: ShadowEnd) => void;
  private fail!: (error: ReefError) => void;
  private readonly counted = { frames: 0, agreed: 0, errors: 0, dropped: 0 };
  private readonly pace: Pace;
  private everyN: number;
  private seen = 0;
  private busy: Promise<void> | undefined;

  /** @param before whole times of the active model's latest answers, microseconds */
  constructor(private readonly candidate: Runner, private readonly policy: ShadowPolicy, before: readonly number[], private readonly onSample: (answer: Answer, sample: ShadowSample) => void) {
    this.everyN = policy.everyN;
    this.pace = new Pace(before, policy.maxAddedPercent);
    this.end = new Promise((resolve, reject) => {
      this.finish = resolve;
      this.fail = reject;
    });
    this.end.catch(() => {});
    candidate.onExit((why) => this.fail(new ReefError('shadow.crashed', 'invalid', `The candidate's process ended while it ran beside the active model (${why.code}): ${why.message}`, { cause: why })));
  }

  /** An answer that the active model has just given. Returns at once. */
  offer(question: Question, answer: Answer): void {
    const pace = this.pace.note(answer.totalUs);
    if (pace === 'learning') return;
    if (pace === 'hurts') return this.finish('hurts');
    if (pace === 'throttle') this.everyN *= 2;
    this.seen += 1;
    if (this.seen % this.everyN !== 0) return;
    if (this.busy) this.counted.dropped += 1;
    else this.busy = this.compare(question, answer).finally(() => { this.busy = undefined; });
  }

  /** @throws ReefError `shadow.crashed`, `shadow.errors`, the reason of `signal` */
  async over(onPercent: (percent: number) => void, signal: AbortSignal): Promise<ShadowResult> {
    const begin = performance.now();
    const late = setTimeout(() => this.finish('time'), this.policy.maxS * 1_000);
    const ticks = setInterval(() => onPercent(Math.min(99, Math.floor(100 * Math.max(this.counted.frames / this.policy.frames, (performance.now() - begin) / this.policy.maxS / 1_000)))), 500);
    try {
      const end = await unlessAborted(this.end, signal);
      return { end, ...this.counted };
    } finally {
      clearTimeout(late);
      clearInterval(ticks);
      await this.busy;
    }
  }

  private async compare(question: Question, answer: Answer): Promise<void> {
    const { candidate, counted } = this;
    let sample: ShadowSample = { agreed: null, candidateUs: null, activeUs: answer.totalUs };
    try {
      const { outputs, us } = await candidate.use(async () => {
        const { inputs, preprocessUs } = await prepared(question, candidate);
        const begin = performance.now();
        const given = await candidate.infer(inputs);
        return { outputs: given.outputs, us: preprocessUs + (performance.now() - begin) * 1_000 };
      });
      sample = { ...sample, agreed: agree(answer, { manifest: candidate.manifest, tensors: candidate.tensors, outputs }), candidateUs: us };
    } catch (error) {
      counted.errors += 1;
      const { code, message } = asReefError(error);
      if (counted.errors >= burst.errors && counted.errors > burst.share * (counted.frames + 1)) this.fail(new ReefError('shadow.errors', 'invalid', `The candidate failed on ${counted.errors} of ${counted.frames + 1} live frames that the active model answered; the last: ${code}: ${message}`));
    }
    counted.frames += 1;
    if (sample.agreed) counted.agreed += 1;
    this.onSample(answer, sample);
    if (counted.frames >= this.policy.frames) this.finish('enough');
  }
}

/**
 * Whether two models say the same: the same top-1 (classification, by label where both have labels), boxes of which three quarters pair up by class
 * and overlap (detection: F1 at IoU 0.5), outputs that point the same way (others: cosine of each of 0.95 or more).
 */
export function agree(active: Reading, candidate: Reading): boolean {
  const [a, b] = [classesOf(active, 1)?.[0], classesOf(candidate, 1)?.[0]];
  if (a && b) return active.manifest.labels && candidate.manifest.labels ? a.label === b.label : a.index === b.index;
  const [ones, others] = [boxesOf(active), boxesOf(candidate)];
  if (ones && others) return ones.length + others.length === 0 || (2 * matchBoxes(ones, others).matched) / (ones.length + others.length) >= 0.75;
  if (active.outputs.length !== candidate.outputs.length) return false;
  return active.outputs.every((bytes, index) => cosine(dequantise(bytes, active.tensors.outputs[index]!), dequantise(candidate.outputs[index]!, candidate.tensors.outputs[index]!)) >= 0.95);
}

function p95(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(0.95 * values.length))]!;
}
