import { expect, it } from 'vitest';
import { explain, type Unanswered } from './explain.ts';
import { createRollout, rolloutStates, settingsFor, type RolloutState, type WaveState } from './rollout.ts';
import type { RolloutView } from './views.ts';

const at = (seconds: number): Date => new Date(Date.parse('2026-01-01T00:00:00Z') + seconds * 1_000);
const nobody: Unanswered = { open: 0, waiting: 0, untold: 0, timedOut: 0, devices: [], nextTimeoutAt: null };
const view = (state: RolloutState, wave: WaveState, stillNeeded: string | null = null): RolloutView => ({
  id: 'r', name: 'n', state, stateReason: { code: 'c', message: 'm', numbers: {} }, wave: 0, createdBy: 'olga', startAt: at(60),
  settings: settingsFor(createRollout.parse({ version: 'm@1', workload: 'w', soakS: 20, deadlineS: 90 }), 5), rollback: { QUEUED: 2, IN_PROGRESS: 1, SUCCEEDED: 0, FAILED: 0, TIMED_OUT: 0, CANCELED: 0 },
  waitingDevices: [], waves: [{ index: 0, state: wave, analysingAt: at(0), deadlineAt: at(90), verdicts: [{ gate: 'latency_p95', stillNeeded }] }, { index: 1 }],
} as unknown as RolloutView);

it('a wave that serves: its soak, what each undecided gate needs, its deadline, each with its time', () => {
  expect(explain(view('RUNNING', 'ANALYSING', '3 more devices'), nobody).waitsFor).toEqual([
    { what: expect.stringContaining('soak of 20 s') as string, until: at(20) }, { what: 'latency p95: 3 more devices', until: null }, { what: expect.stringContaining('deadline') as string, until: at(90) },
  ]);
});

it('devices that have not answered are named, with when the next one times out, and may be left out', () => {
  const { waitsFor, moves } = explain(view('RUNNING', 'RUNNING'), { open: 7, waiting: 0, untold: 0, timedOut: 1, devices: ['a', 'b'], nextTimeoutAt: at(30) });
  expect(waitsFor).toEqual([{ what: expect.stringContaining('7 devices of wave 1 (a, b, and 5 more)') as string, until: at(30) }]);
  expect(moves.map(({ command }) => command)).toEqual(['reef rollout pause r', 'reef rollout advance r --skip-pending', 'reef rollout advance r', 'reef rollout rollback r', 'reef rollout abort r --stop-new']);
});

it('devices that wait by their own word are told apart, until the deadline, and may be let through or left out', () => {
  const budget = { ...view('RUNNING', 'ANALYSING'), waitingDevices: [{ code: 'budget_exceeded', what: 'its data budget', message: 'needs 4 MB', count: 2, devices: ['a', 'b'] }] };
  const { waitsFor, moves } = explain(budget, { ...nobody, waiting: 2, devices: ['a', 'b'] });
  expect(waitsFor[0]).toEqual({ what: '2 devices waiting for its data budget (a, b): needs 4 MB', until: at(90) });
  expect(moves[1]!.command).toBe('reef rollout advance r --skip-pending');
});

it('devices that have not been told are not waited for, but may be left out', () => {
  const { waitsFor, moves } = explain(view('RUNNING', 'RUNNING'), { open: 0, waiting: 0, untold: 3, timedOut: 0, devices: ['a', 'b', 'c'], nextTimeoutAt: null });
  expect(waitsFor).toEqual([]);
  expect(moves[1]!.does).toContain('3 devices of wave 1');
});

it.each<[RolloutState, string | undefined, string[]]>([
  ['DRAFT', undefined, ['start', 'abort']], ['AWAITING_APPROVAL', 'an approver other than olga', ['approve', 'abort']], ['SCHEDULED', 'its start time', ['abort']],
  ['PAUSED', undefined, ['resume', 'advance', 'rollback', 'abort']], ['ROLLING_BACK', '3 devices on the way back', []], ['SUCCEEDED', undefined, ['rollback']], ['ABORTED', undefined, ['rollback']], ['ROLLED_BACK', undefined, []],
])('%s waits for %s, and a person may %j', (state, waits, verbs) => {
  const { waitsFor, moves } = explain(view(state, 'INCONCLUSIVE'), nobody);
  if (waits === undefined) expect(waitsFor).toEqual([]);
  else expect(waitsFor[0]!.what).toContain(waits);
  expect(moves.map(({ verb }) => verb)).toEqual(verbs);
});

it('a dynamic rollout goes on after its success: it says that it takes in those that come, how many came, and why no more do', () => {
  const counts = { PENDING: 0, QUEUED: 1, IN_PROGRESS: 0, SUCCEEDED: 3, FAILED: 1, TIMED_OUT: 0, REJECTED: 0, REMOVED: 0, CANCELED: 0 };
  const dynamic = (late: RolloutView['late']): RolloutView => ({ ...view('SUCCEEDED', 'PASSED'), selector: 'site=lyon', stopAt: null, waiting: null, late });
  expect(explain(dynamic({ counts, stopped: null }), nobody)).toMatchObject({
    late: '5 devices came since its success: 3 updated, 1 failed or without an answer, 1 under way. It still takes in those that come.',
    waitsFor: [{ what: 'devices that come to match "site=lyon": they take the version, too', until: null }, { what: 'the answers of 1 device that came late' }], moves: [{ verb: 'rollback' }],
  });
  expect(explain(dynamic({ counts: { ...counts, QUEUED: 0, SUCCEEDED: 0, FAILED: 0 }, stopped: null }), nobody).late).toBe('No device has come since its success. It still takes in those that come.');
  expect(explain(dynamic({ counts: { ...counts, QUEUED: 0 }, stopped: { code: 'late_superseded', message: 'No more devices are taken in: a newer one.', numbers: {} } }), nobody)).toMatchObject({ waitsFor: [], late: expect.stringContaining('No more devices are taken in') as string });
  expect(explain(dynamic(null), nobody)).toMatchObject({ late: null, waitsFor: [] });
});

it('every state has an answer', () => {
  for (const state of rolloutStates) expect(explain(view(state, 'RUNNING'), nobody).state).toBe(state);
});
