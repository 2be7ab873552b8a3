import { ReefError } from '@reefkeeper/platform/errors';
import { createRollout, sameAsBefore, simulate, usualFaults, type Simulated } from '@reefkeeper/rollouts/simulate';
import { counted, duration, facts, percent, table, tone, type Output } from '../output.ts';
import { verdictTable } from '../commands/rollouts.ts';
import { numberWithin } from '../options.ts';

export interface SimulateOptions {
  devices: string; sites: string; seed: string; runs: string;
  offline?: string; flapping?: string; slow?: string; hot?: string; brokenDelta?: string; lyingClock?: string;
  installFailures?: string; slower?: string; errors?: string; accuracyDrop?: string;
}

/** Runs the engine on virtual devices and prints how it went. Returns the exit code: 1 when a run did not succeed. */
export function simulation(output: Output, settings: Record<string, unknown>, options: SimulateOptions): number {
  const number = (flag: string, text: string | undefined, otherwise: number, bounds: [number, number]) => (text === undefined ? otherwise : numberWithin(flag, text, bounds));
  const share = (flag: string, text: string | undefined, otherwise: number) => number(flag, text, otherwise, [0, 100]);
  const seed = number('--seed', options.seed, 1, [0, 2 ** 31]);
  const runs = Math.floor(number('--runs', options.runs, 1, [1, 10_000]));
  const parsed = createRollout.safeParse(settings);
  if (!parsed.success) throw new ReefError('option.invalid', 'invalid', parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '));
  const common = {
    devices: Math.floor(number('--devices', options.devices, 10_000, [1, 1_000_000])), sites: Math.floor(number('--sites', options.sites, 100, [1, 100_000])), body: parsed.data,
    faults: {
      offlinePercent: share('--offline', options.offline, usualFaults.offlinePercent), flappingPercent: share('--flapping', options.flapping, usualFaults.flappingPercent), slowPercent: share('--slow', options.slow, usualFaults.slowPercent),
      hotPercent: share('--hot', options.hot, usualFaults.hotPercent), brokenDeltaPercent: share('--broken-delta', options.brokenDelta, usualFaults.brokenDeltaPercent), lyingClockPercent: share('--lying-clock', options.lyingClock, usualFaults.lyingClockPercent),
    },
    version: {
      ...sameAsBefore, installFailurePercent: share('--install-failures', options.installFailures, 0), latencyFactor: 1 + number('--slower', options.slower, 0, [-90, 1_000]) / 100,
      errorPercent: share('--errors', options.errors, 0), accuracyDropPoints: share('--accuracy-drop', options.accuracyDrop, 0),
    },
  };
  const results = Array.from({ length: runs }, (_, at) => {
    const result = simulate({ seed: seed + at, ...common });
    if ('fault' in result) throw new ReefError('rollout.no_device', 'conflict', result.fault);
    return result;
  });
  // Who is in which wave would be most of the document.
  const view = ({ plan: { eligible, uncovered, blastRadius }, ...rest }: Simulated) => ({ ...rest, plan: { eligible, uncovered, blastRadius } });
  output.show(runs === 1 ? view(results[0]!) : results.map((result) => view({ ...result, transcript: [] })), () => (runs === 1 ? runText(results[0]!) : distributionText(results)));
  return results.every(({ state }) => state === 'SUCCEEDED') ? 0 : 1;
}

function runText(run: Simulated): string {
  return [
    run.transcript.join('\n'),
    table(['wave', 'state', 'size', 'updated', 'failed', 'no answer', 'took'], run.waves.map((wave) => [wave.index + 1, tone(wave.state), wave.size, wave.updated, wave.failed, wave.unanswered, wave.tookS === null ? null : duration(wave.tookS)])),
    ...run.waves.filter(({ state, verdicts }) => ['FAILED', 'INCONCLUSIVE'].includes(state) && verdicts.length > 0).map((wave) => `wave ${wave.index + 1}\n${verdictTable(wave.verdicts)}`),
    facts([
      ['ended', `${tone(run.state)} after ${duration(run.tookS)}: ${run.reason.message}`],
      ['at risk', `at most ${counted(run.unproven.most, 'device')} at once on a version whose wave had no verdict (${run.unproven.stated} stated before)`],
      ['exposed', `${counted(run.exposed, 'device')} ran the version at some time`],
      ['wrong at the end', counted(run.wrong, 'device')],
      ['transcript', run.digest.slice(0, 16)],
    ]),
  ].join('\n\n');
}

function distributionText(runs: readonly Simulated[]): string {
  const at = (values: number[], q: number) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))]!;
  const groups = [...Map.groupBy(runs, ({ state, reason }) => `${state} ${reason.code}`).values()].sort((a, b) => b.length - a.length);
  return table(['ended', 'why', 'runs', 'time, median', 'time, 95 %', 'exposed, median', 'exposed, most'], groups.map((group) => {
    const times = group.map(({ tookS }) => tookS);
    const exposed = group.map((run) => run.exposed);
    return [tone(group[0]!.state), group[0]!.reason.code, `${group.length} (${percent(group.length / runs.length)})`, duration(at(times, 0.5)), duration(at(times, 0.95)), at(exposed, 0.5), Math.max(...exposed)];
  }));
}
