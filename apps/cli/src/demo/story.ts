import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import type { DeviceView } from '../commands/devices.ts';
import { push, type VersionView } from '../commands/models.ts';
import { createRollout, followRollout, verdictTable, type RolloutView } from '../commands/rollouts.ts';
import { percent, table, type Output } from '../output.ts';
import { prepareDemo, type DemoAssets } from './assets.ts';

const model = 'efficientnet-lite0';
const workload = 'classifier';
const waves = ['1', '60%', '100%'];
/** One canary of five must give at least this many answers before it is judged. */
const minSamples = '40';
/** Once around the photographs, before a device's accuracy is shown. */
const enoughAnswers = 36;
const patienceMs = 120_000;
const quick = { soak: '15', deadline: '180', observe: '5', minSamples };

interface SeriesPoint { group: string; bundle: string; inferences: number; errors: number; p95Ms: number | null; labelled: number; accuracy: number | null }

/** Something the product promises, with the numbers that show it. */
class Claims {
  private failed = 0;

  constructor(private readonly output: Output) {}

  check(claim: string, holds: boolean, numbers: string): void {
    if (!holds) this.failed += 1;
    this.output.step({ event: 'claim', claim, holds, numbers }, `${holds ? colours.green('PASS') : colours.red('FAIL')} ${claim} ${colours.dim(`(${numbers})`)}`);
  }

  get exitCode(): number {
    return this.failed === 0 ? 0 : 1;
  }
}

/**
 * A real classifier through the whole line on real processes, then one that is worse. What a former run has done already is not done
 * again, so it can be played in a stack that has its data.
 * @returns 0 when every claim holds
 */
export async function playDemo(api: Client, output: Output, { dir, agents, begin = Date.now() }: { dir: string; agents: number; /** When the whole began, for the times shown. */ begin?: number }): Promise<number> {
  const assets = await prepareDemo(output, dir);
  const claims = new Claims(output);
  const chapter = (title: string) => output.step({ event: 'chapter', title, atS: Math.round((Date.now() - begin) / 1_000) }, `\n${colours.bold(title)} ${colours.dim(`${Math.round((Date.now() - begin) / 1_000)} s`)}`);

  chapter('1. A SavedModel becomes a verified, signed version');
  const good = await versionOf(api, output, assets, assets.good, 1, 'ImageNet weights, as published');
  claims.check('the int8 model agrees with the float original', (good.parity?.agreement ?? 0) >= 0.9, `top-1 agreement ${percent(good.parity?.agreement)} on ${good.parity?.samples} held-out photos`);
  claims.check('quantisation costs little accuracy', good.parity?.accuracy != null && good.parity.accuracy.int8 >= good.parity.accuracy.float - 0.05, `float ${percent(good.parity?.accuracy?.float)}, int8 ${percent(good.parity?.accuracy?.int8)}`);

  chapter(`2. It goes out to ${agents} devices: a canary, then waves`);
  const first = await rolloutOf(api, output, `${model}@1`);
  claims.check('the rollout succeeds by itself', first.state === 'SUCCEEDED', first.stateReason.message);
  const running = await devicesRunning(api, good.bundleDigest!);
  const asked = Date.now();
  claims.check('every device runs it', running.length === agents, `${running.length} of ${agents}`);
  // Devices that were started just now have said nothing yet.
  const before = await api.follow('subscription { telemetryReceived { seq } }', async () => {
    const found = await answers(api, good.bundleDigest!);
    return (found.length === agents && found.every((one) => one.labelled >= enoughAnswers)) || Date.now() - asked > patienceMs ? found : undefined;
  });
  output.step({ event: 'answers', devices: before }, answersTable(before));
  claims.check('the devices name real photos right, natively', before.length === agents && before.every((one) => (one.accuracy ?? 0) >= 0.7), `accuracy on labelled frames ${before.map((one) => percent(one.accuracy, 0)).join(', ')}`);

  chapter('3. A retrained version that is worse, and does not look it');
  const worse = await versionOf(api, output, assets, assets.worse, 2, 'a retrain gone wrong: float and int8 agree, and both are wrong');
  claims.check('it passes every check that only compares it with its own original', worse.state === 'READY' && (worse.parity?.agreement ?? 0) >= 0.9, `top-1 agreement ${percent(worse.parity?.agreement)}`);

  chapter('4. It goes out, the canary says no, and it comes back without anyone watching');
  const second = await rolloutOf(api, output, `${model}@2`);
  const failed = second.waves.flatMap((wave) => wave.verdicts).filter((verdict) => verdict.verdict === 'FAILED');
  claims.check('the product rolls it back by itself', second.state === 'ROLLED_BACK', second.stateReason.message);
  claims.check('and says why, with the numbers', failed.length > 0 && failed.every((verdict) => verdict.value !== null), failed.map((verdict) => verdict.message).join('; ') || 'no failed verdict');
  const exposed = second.waves.reduce((sum, wave) => sum + Object.entries(wave.counts).reduce((n, [state, count]) => n + (state === 'PENDING' || state === 'CANCELED' ? 0 : count), 0), 0);
  claims.check('only the canary ever ran it', exposed === 1, `${exposed} of ${agents} devices were told`);
  const after = await api.follow('subscription { deviceChanged { id } }', async () => {
    const back = await devicesRunning(api, good.bundleDigest!);
    return back.length === agents || Date.now() - asked > 3_600_000 ? back : undefined;
  });
  claims.check('every device runs the good version again', after.length === agents, `${after.length} of ${agents}`);
  output.step({ event: 'verdicts', verdicts: failed }, failed.length > 0 ? verdictTable(failed) : '');
  output.step({ event: 'end', seconds: Math.round((Date.now() - begin) / 1_000), exitCode: claims.exitCode }, `\n${colours.bold(claims.exitCode === 0 ? 'Every claim holds.' : 'A claim does not hold.')} ${colours.dim(`${Math.round((Date.now() - begin) / 1_000)} s in all`)}\n`);
  return claims.exitCode;
}

async function versionOf(api: Client, output: Output, assets: DemoAssets, source: string, number: number, notes: string): Promise<VersionView> {
  const there = await api.get<VersionView>(`/models/${model}/versions/${number}`).catch(missing);
  if (there?.state === 'READY') {
    output.note(`${model}@${number} is there already`);
    return there;
  }
  const { version } = await push(api, output, source, { name: model, calibration: assets.calibration, evaluation: assets.evaluation, labels: assets.labels, task: 'classification', notes, ...assets.preprocessing });
  return version;
}

async function rolloutOf(api: Client, output: Output, version: string): Promise<RolloutView> {
  const { items } = await api.get<{ items: RolloutView[] }>('/rollouts', { limit: 100 });
  const there = items.find((one) => one.version === version && one.workload === workload && one.state !== 'ABORTED');
  if (there) output.note(`the rollout of ${version} is there already`);
  const { id } = there ?? await createRollout(api, output, version, { workload, wave: waves, name: `demonstration ${version}`, ...quick });
  return followRollout(api, output, id);
}

async function devicesRunning(api: Client, bundle: string): Promise<string[]> {
  const { items } = await api.get<{ items: DeviceView[] }>('/devices', { limit: 1_000 });
  return items.filter((one) => one.reported?.workloads[workload]?.running === bundle).map(({ id }) => id);
}

/** What each device measured of a bundle in the last minutes, from its own telemetry. */
async function answers(api: Client, bundle: string): Promise<SeriesPoint[]> {
  const from = new Date(Date.now() - 1_800_000).toISOString();
  const { points } = await api.get<{ points: SeriesPoint[] }>('/telemetry/series', { workload, from, stepS: 1_800, by: 'device' });
  const byDevice = new Map<string, SeriesPoint>();
  for (const point of points.filter((one) => one.bundle === bundle && one.inferences > 0)) byDevice.set(point.group, point);
  return [...byDevice.values()].toSorted((a, b) => a.group.localeCompare(b.group));
}

function answersTable(points: SeriesPoint[]): string {
  return table(['device', 'inferences', 'errors', 'p95', 'labelled', 'right'], points.map((one) => [one.group, one.inferences, one.errors, one.p95Ms === null ? null : `${one.p95Ms.toFixed(1)} ms`, one.labelled, percent(one.accuracy)]));
}

function missing(error: unknown): undefined {
  if (error instanceof ReefError && error.kind === 'not_found') return undefined;
  throw error;
}
