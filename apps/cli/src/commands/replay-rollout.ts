import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import { replay, type Replayed, type RolloutRecord } from '@reefkeeper/rollouts/simulate';
import type { Client } from '../client.ts';
import { numberOf } from '../options.ts';
import { counted, duration, facts, table, tone, type Output } from '../output.ts';
import { gatesOf } from './gate-options.ts';
import { paceOf, sizeOf, type PaceOptions } from './rollout-options.ts';
import { verdictTable } from './rollouts.ts';

export interface ReplayOptions extends Omit<PaceOptions, 'startAt' | 'stopAt' | 'dynamic'> { /** False with --no-pace. */ pace?: boolean; /** False with --no-freezes. */ freezes?: boolean; gate?: string[]; wave?: string[]; soak?: string; deadline?: string; minSamples?: string; minReporting?: string; installTimeout?: string; alpha?: string; onFailure?: string; transcript?: boolean }

/** Runs the engine again over what the devices of a rollout did, and says where it would have gone another way. */
export async function replayRollout(api: Client, output: Output, id: string, options: ReplayOptions): Promise<void> {
  const changes = changesOf(options);
  const path = `/rollouts/${encodeURIComponent(id)}`;
  const record: RolloutRecord = { rollout: await api.get(path), executions: await api.all(`${path}/executions`), events: await api.all(`${path}/events`), windows: await api.all(`${path}/windows`, { limit: 200 }), freezes: await api.all(`${path}/freezes`) };
  if (record.rollout.startedAt === null) throw new ReefError('rollout.not_started', 'conflict', `Rollout "${record.rollout.name}" has not started, so there is nothing to replay. Try: reef rollout simulate`);
  const result = replayed(record, changes);
  output.show(result, () => replayText(result, options.transcript ?? false));
}

function replayed(record: RolloutRecord, changes: Record<string, unknown>): Replayed {
  try {
    return replay(record, changes);
  } catch (error) {
    const issues = (error as { issues?: { path: PropertyKey[]; message: string }[] }).issues;
    if (!issues) throw error;
    throw new ReefError('option.invalid', 'invalid', issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '));
  }
}

const given = (values: Record<string, unknown>): Record<string, unknown> => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));

function changesOf(options: ReplayOptions): Record<string, unknown> {
  const number = (flag: string, text: string | undefined) => (text === undefined ? undefined : numberOf(flag, text));
  const pace = given(paceOf(options));
  return given({
    gates: options.gate ? gatesOf(options.gate) : undefined, waves: options.wave?.map((text) => sizeOf('--wave', text)), soakS: number('--soak', options.soak), deadlineS: number('--deadline', options.deadline), minSamples: number('--min-samples', options.minSamples),
    minReportingPercent: number('--min-reporting', options.minReporting), installTimeoutS: number('--install-timeout', options.installTimeout), alpha: number('--alpha', options.alpha), onFailure: options.onFailure, pace: options.pace === false ? null : Object.keys(pace).length > 0 ? pace : undefined, freezes: options.freezes,
  });
}

export function replayText(one: Replayed, withTranscript: boolean): string {
  const { ended, moves, differsAt } = one;
  const side = (move: Replayed['moves'][number]['was']) => (move ? `${duration(move.afterS)}  ${move.wave === null ? '' : `wave ${move.wave + 1} `}${move.code}` : '-');
  const differs = differsAt === null ? 'nowhere' : `from move ${differsAt + 1} on: ${moves[differsAt]!.would?.message ?? 'it would have ended there.'}`;
  return [
    facts([
      ['rollout', `${one.name} (${one.rollout})`], ['then', `${tone(ended.was.state)} ${ended.was.code}`], ['replayed', `${tone(ended.would.state)} ${ended.would.code} after ${duration(ended.would.afterS)}`],
      ['differs', differs], ['exposed', `${counted(one.exposed, 'device')} in the replay`], ['transcript', one.digest.slice(0, 16)],
    ]),
    table(['', 'then', 'replayed'], moves.map((move) => [move.differs ? colours.yellow('*') : '', side(move.was), side(move.would)])),
    ...one.waves.filter(({ state, verdicts }) => ['FAILED', 'INCONCLUSIVE'].includes(state) && verdicts.length > 0).map((wave) => `wave ${wave.index + 1}\n${verdictTable(wave.verdicts)}`),
    ...(one.people.length > 0 ? [`What people did then\n${one.people.map(({ afterS, message }) => `  ${duration(afterS)}  ${message}`).join('\n')}`] : []),
    ...(one.notes.length > 0 ? [one.notes.map((note) => colours.dim(note)).join('\n')] : []),
    ...(withTranscript ? [one.transcript.join('\n')] : []),
  ].join('\n\n');
}
