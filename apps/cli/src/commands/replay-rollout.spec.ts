import { stripVTControlCharacters } from 'node:util';
import { expect, it } from 'vitest';
import type { Replayed } from '@reefkeeper/rollouts/simulate';
import { replayText } from './replay-rollout.ts';

it('says how it ended then and now, and marks where it went another way', () => {
  const move = (afterS: number, code: string) => ({ afterS, wave: 0, code, message: `${code}.` });
  const one: Replayed = {
    rollout: 'r', name: 'm@2', ended: { was: { state: 'SUCCEEDED', code: 'completed' }, would: { state: 'ROLLED_BACK', code: 'accuracy_failed', afterS: 63 } }, differsAt: 1, exposed: 1, waves: [], transcript: ['00:00:00 openWave'], digest: 'd'.repeat(64),
    moves: [{ was: move(0, 'wave_opened'), would: move(0, 'wave_opened'), differs: false }, { was: move(30, 'wave_passed'), would: move(30, 'accuracy_failed'), differs: true }, { was: move(31, 'completed'), would: null, differs: true }],
    people: [move(20, 'resumed')], notes: ['People acted.'],
  };
  const text = stripVTControlCharacters(replayText(one, false));
  for (const part of ['SUCCEEDED completed', 'ROLLED_BACK accuracy_failed after 63 s', 'from move 2 on: accuracy_failed.', '30 s  wave 1 accuracy_failed', 'resumed.', 'People acted.']) expect(text).toContain(part);
  expect(text).not.toContain('00:00:00 openWave');
  expect(replayText({ ...one, differsAt: null }, true)).toMatch(/nowhere[^]*00:00:00 openWave/);
});
