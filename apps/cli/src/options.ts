import { ReefError } from '@reefkeeper/platform/errors';

// Numbers and times on the command line. All throw ReefError `option.invalid`, which names the flag and what was given.

export function numberOf(flag: string, text: string | undefined): number {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new ReefError('option.invalid', 'invalid', `${flag} takes a number, not "${text}".`);
  return value;
}

export function numbersOf(flag: string, text: string): number[] {
  const numbers = text.split(',').map(Number);
  if (numbers.some((one) => !Number.isFinite(one))) throw new ReefError('option.invalid', 'invalid', `${flag} takes numbers separated by commas, not "${text}".`);
  return numbers;
}

export function numberWithin(flag: string, text: string | undefined, [low, high]: [number, number], { whole = false } = {}): number {
  const value = Number(text);
  if (text?.trim() === '' || !Number.isFinite(value) || value < low || value > high || (whole && !Number.isInteger(value))) {
    throw new ReefError('option.invalid', 'invalid', `${flag} takes a ${whole ? 'whole ' : ''}number from ${low} to ${high}, not "${text}".`);
  }
  return value;
}

const unitS = { s: 1, m: 60, h: 3_600, d: 86_400 };

/** A moment with its zone, or a stretch from now: `90m`, `2h`, `3d`. */
export function timeOf(flag: string, text: string, now = new Date()): Date {
  const stretch = /^\s*(\d+(?:\.\d+)?)\s*([smhd])\s*$/.exec(text);
  const at = stretch ? new Date(now.getTime() + Number(stretch[1]) * unitS[stretch[2] as keyof typeof unitS] * 1_000) : /^\d{4}-\d{2}-\d{2}T/.test(text) ? new Date(text) : new Date(NaN);
  if (Number.isNaN(at.getTime())) throw new ReefError('option.invalid', 'invalid', `${flag} takes a time, such as 2026-12-01T22:00:00+01:00, or 90m, 2h, 3d from now; not "${text}".`);
  return at;
}

export interface WhileOptions { selector?: string; all?: boolean; until?: string; reason?: string }

/** Some devices, for a while, for a reason: of what is called `what`. */
export function whileOf(what: string, { selector, all, until, reason }: WhileOptions): { selector: string; until: string; reason: string } {
  if ((selector === undefined) === !all) throw new ReefError('option.invalid', 'invalid', 'Say which devices: --selector LABELS, or --all.');
  if (!until || !reason) throw new ReefError('option.invalid', 'invalid', `A ${what} needs an end and a reason: --until TIME --reason TEXT.`);
  return { selector: selector ?? '', until: timeOf('--until', until).toISOString(), reason };
}
