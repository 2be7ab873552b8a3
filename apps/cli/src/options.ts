import { ReefError } from '@reefkeeper/platform/errors';

// Numbers on the command line. All throw ReefError `option.invalid`, which names the flag and what was given.

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
