import { expect, it } from 'vitest';
import { explanationText, numbersText } from './explain-rollout.ts';

it('the numbers behind a decision fit on a line', () => {
  expect(numbersText({ wave: 0, devices: ['a', 'b'], counts: { SUCCEEDED: 4, FAILED: 0 }, accuracy: { verdict: 'PASSED', value: 90, limit: 85, unit: 'percent' }, blastRadius: { statement: 'long' }, baseline: null }))
    .toBe('wave 0; devices a, b; counts: 4 succeeded; accuracy PASSED at 90 of 85 percent');
});

it('says why, what for, what next, and who decided', () => {
  const text = explanationText({
    rollout: 'r', name: 'm@2', state: 'PAUSED', wave: 0, why: { code: 'inconclusive', message: 'Too few.' }, late: '3 came.', waitsFor: [], moves: [{ verb: 'resume', command: 'reef rollout resume r', does: 'judges again' }],
    decisions: [{ id: 1, at: '2026-01-01T08:00:00.000Z', kind: 'paused', wave: 0, code: 'inconclusive', message: 'Too few.', numbers: { gate: 'accuracy' }, actor: 'engine' }],
  });
  for (const part of ['Too few.', '3 came.', 'nothing: only a person moves it', 'reef rollout resume r\n    judges again', '08:00:00', 'inconclusive, engine', 'gate accuracy']) expect(text).toContain(part);
});
