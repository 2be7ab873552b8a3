import type { Command } from 'commander';
import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Transfer } from '@reefkeeper/protocol';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numberOf } from '../options.ts';
import { gatesOf } from './gate-options.ts';
import type { SimulateOptions } from '../offline/simulate.ts';
import type { ReplayOptions } from './replay-rollout.ts';
import { budgetOptions, lateText, paceOf, paceOptions, paceText, sizeOf, waveOf, type LateView, type PaceOptions, type PaceView } from './rollout-options.ts';
import { registerSeries } from './series.ts';
import { ago, bytes, counted, facts, optional, table, tone, type Output } from '../output.ts';

export interface Verdict { gate: string; verdict: string; value: number | null; baseline: number | null; limit: number | null; unit: string; basis: string; method: string; interval: [number, number] | null; sample: { devices: number; inferences: number }; message: string; stillNeeded: string | null }
type WaveKind = { by: string; value: string } | null;
export interface RolloutView {
  id: string; name: string; version: string; bundle: string; workload: string; selector: string; state: string; stateReason: { code: string; message: string }; wave: number; createdAt: string; createdBy: string;
  waves: { index: number; state: string; size: number; canary: boolean; of: WaveKind; counts: Record<string, number>; waiting: number; faults: number; verdicts: Verdict[] }[];
  transfer: Transfer | null; waitingDevices: { code: string; what: string; message: string; count: number; devices: string[] }[]; rollback: Record<string, number> | null; plan: PlanView; settings: { pace?: PaceView }; startAt: string | null; stopAt: string | null; waiting: { code: string; message: string } | null; late: LateView;
}
interface PlanView { eligible: number; excluded: { device: string; code: string; reason: string }[]; blastRadius: { statement: string }; waves?: { index: number; devices?: unknown; size: number; canary: boolean; of: WaveKind }[]; notes?: string[]; timing?: { statement: string }; forecast?: { variant: string; hostClass: string; devices: number; calibrated: number; predictedMs: [number, number] | null; nowMs: number | null; notes: string[] }[] }
export interface RolloutEvent { id: number; at: string; kind: string; wave: number | null; code: string; message: string; numbers: Record<string, unknown>; actor: string }

const ended = new Set(['SUCCEEDED', 'ROLLED_BACK', 'ABORTED']);

interface CreateOptions extends PaceOptions {
  workload?: string; selector?: string; device?: string[]; exclude?: string[]; excludeSelector?: string; name?: string; wave?: string[]; soak?: string; deadline?: string; minSamples?: string; observe?: string; timeout?: string; supersede?: boolean; start?: boolean; watch?: boolean;
  maxLatencyIncrease?: string; maxAccuracyDrop?: string; maxErrorIncrease?: string; maxInstallFailures?: string; gate?: string[]; cpuFallback?: boolean; ignoreBudget?: boolean; edgeTpu?: string; probation?: string;
  rollbackAtOnce?: string; rollbackWave?: string[];
  shadowEvery?: string; shadowFrames?: string; shadowMaxAdded?: string; shadowTimeout?: string;
}

export function registerRollouts(program: Command): void {
  const rollout = program.command('rollout').description('bring a version onto the fleet, in waves');
  const described = (name: string, text: string) => paceOptions(rollout.command(name).description(text))
    .option('-w, --workload <name>', 'inference slot on the devices; classifier, or reef-agent for its releases, where absent').option('-l, --selector <labels>', 'which devices; all where absent').option('--name <text>')
    .option('--device <id...>', 'only these of them').option('--exclude <device...>', 'leave these alone').option('--exclude-selector <labels>', 'and those that match')
    .option('--wave <size...>', 'in order: percent (20%, cumulative), count (2), selector (canary=true), of each kind ("1 per hostClass", "10% per site"), or a wave per kind ("by site"; hostClass, runtime, site); a canary, half, all where absent')
    .option('--soak <seconds>', 'how long a wave serves before it can pass').option('--deadline <seconds>', 'after which an undecided wave is inconclusive').option('--min-samples <n>', 'inferences per device before it is judged')
    .option('--observe <seconds>', 'how long a device watches itself before it commits').option('--timeout <seconds>', 'for one device\'s activation')
    .option('--shadow-every <n>', 'first run it beside the active model, on every n-th live frame').option('--shadow-frames <n>', 'until so many are compared').option('--shadow-max-added <percent>', 'by which the active model\'s p95 may rise meanwhile').option('--shadow-timeout <seconds>', 'go on with fewer frames after this')
    .option('--max-latency-increase <percent>', 'p95 against the same device before').option('--max-accuracy-drop <points>', 'on labelled frames').option('--max-error-increase <points>').option('--max-install-failures <percent>')
    .option('--rollback-at-once <n>', 'devices on their way back at once, should they have to go').option('--rollback-wave <size...>', 'percent (20%, cumulative) or count, in order')
    .option('--gate <setting...>', 'any setting of any gate: latencyP99.maxIncreasePercent=80, temperature=on, accuracy=off, custom.reject_rate.max=0.1')
    .option('--no-cpu-fallback', 'wait for an Edge TPU rather than serve on the CPU').option('--ignore-budget', 'fetch it over metered links, too, whatever is left of their data budgets').option('--probation <seconds>', 'how long a device watches a committed model on, 600 where absent').option('--edge-tpu <which>', 'usb, pci, usb:1 or a path; the least loaded where absent').option('--supersede', 'stop other rollouts of this workload on these devices');

  described('preview <version>', 'who would get it, in which waves, and what could go wrong at most').action(action(async ({ output, client }, version: string, options: CreateOptions) => {
    const plan = await (await client()).post<PlanView>('/rollouts/preview', bodyOf(version, options));
    output.show(plan, () => planText(plan));
  }));
  described('create <version>', 'start a rollout').option('--no-start', 'leave it as a draft').option('--watch', 'follow it to its end')
    .addHelpText('after', '\nExample:\n  reef rollout create classifier@2 --workload classifier --wave 1 --wave 50% --wave 100% --watch')
    .action(action(async ({ output, client }, version: string, options: CreateOptions) => {
      const api = await client();
      const made = await createRollout(api, output, version, options);
      if (!options.watch) return 0;
      return exitOf(await followRollout(api, output, made.id));
    }));
  const shares = (command: Command) => command
    .option('--devices <n>', 'virtual devices', '10000').option('--sites <n>', 'they are at', '100').option('--seed <n>', 'the same seed gives the same run', '1').option('--runs <n>', 'with as many seeds, for how often it ends how', '1')
    .option('--offline <percent>', 'cannot be reached; half of them never').option('--flapping <percent>', 'come and go').option('--slow <percent>', 'behind a slow link').option('--hot <percent>', 'throttle in the heat')
    .option('--broken-delta <percent>', 'fetch the full file after a delta that does not apply').option('--lying-clock <percent>', 'clocks years off')
    .option('--install-failures <percent>', 'the version cannot be installed on these').option('--slower <percent>', 'the version is slower by this').option('--errors <percent>', 'of inferences fail with the version').option('--accuracy-drop <points>', 'the version is less accurate by this');
  shares(described('simulate', 'the engine on virtual devices and a virtual clock: how it would go, before it does'))
    .addHelpText('after', '\nOffline; needs no controller. Virtual devices have the labels site=site-0 ... and host=dev-board|raspberry-pi-4|x86-64.\n\nExamples:\n  reef rollout simulate --devices 100000 --wave 1% --wave 10% --wave 100%\n  reef rollout simulate --slower 30 --runs 20')
    .action(action(async ({ output }, options: CreateOptions & SimulateOptions) => {
      const { simulation } = await import('../offline/simulate.ts');
      return simulation(output, bodyOf('simulated@1', options), options);
    }));
  rollout.command('ls').description('newest first').action(action(async ({ output, client }) => {
    const { items } = await (await client()).get<{ items: RolloutView[] }>('/rollouts', { limit: 50 });
    output.show(items, () => table(['rollout', 'version', 'workload', 'state', 'created', 'why'], items.map((one) => [one.id, one.version, one.workload, tone(one.state), ago(one.createdAt), one.stateReason.message])));
  }));
  rollout.command('show <id>').description('waves, verdicts and numbers').action(action(async ({ output, client }, id: string) => {
    const one = await (await client()).get<RolloutView>(`/rollouts/${encodeURIComponent(id)}`);
    output.show(one, () => rolloutText(one));
  }));
  registerSeries(rollout, 'rollout');
  rollout.command('watch <id>').description('follow it to its end; exits 1 when it went back or was aborted').action(action(async ({ output, client }, id: string) => exitOf(await followRollout(await client(), output, id))));
  rollout.command('explain <id>').description('why it is in its state, what it waits for, what would move it, and every decision with its numbers').action(action(async ({ output, client }, id: string) => {
    const api = await client();
    const { explanationOf, explanationText } = await import('./explain-rollout.ts');
    const found = await explanationOf(api, id);
    output.show(found, () => explanationText(found));
  }));
  budgetOptions(rollout.command('replay <id>').description('the engine again over what the devices of a rollout did, with other settings where asked for: what would have happened')
    .option('--gate <setting...>', 'as in create; what is not named stays as it was').option('--wave <size...>', 'percent (20%, cumulative) or count: the same devices in other waves').option('--soak <seconds>').option('--deadline <seconds>')
    .option('--min-samples <n>').option('--min-reporting <percent>').option('--install-timeout <seconds>').option('--alpha <share>').option('--on-failure <what>', 'rollback or pause').option('--no-pace', 'everybody of a wave at once, whatever the calendar').option('--no-freezes', 'as if nothing had been frozen').option('--transcript', 'every decision of the replay'))
    .addHelpText('after', '\nExamples:\n  reef rollout replay ROLLOUT                                    # does it make the same moves?\n  reef rollout replay ROLLOUT --gate accuracy.maxDropPoints=2 --soak 600\n  reef rollout replay ROLLOUT --rate 500 --window 00:00-05:00     # how long would it have taken?')
    .action(action(async ({ output, client }, id: string, options: ReplayOptions) => {
      const { replayRollout } = await import('./replay-rollout.ts');
      await replayRollout(await client(), output, id, options);
    }));
  const verbs: [string, string][] = [['start', 'start a draft'], ['approve', 'let one start that waits for an approver'], ['pause', 'tell nobody else for now'], ['resume', 'go on; judges the same wave again'], ['rollback', 'send every device back to its own previous version']];
  for (const [verb, text] of verbs) {
    rollout.command(`${verb} <id>`).description(text).action(action(async ({ output, client }, id: string) => {
      const one = await (await client()).post<RolloutView>(`/rollouts/${encodeURIComponent(id)}/${verb}`);
      output.show(one, () => `${one.name} ${tone(one.state)}: ${one.stateReason.message}`);
    }));
  }
  rollout.command('advance <id>').description('open the next wave without a verdict on this one').option('--skip-pending', 'leave out the devices that have not answered, and judge the rest instead')
    .action(action(async ({ output, client }, id: string, options: { skipPending?: boolean }) => {
      const one = await (await client()).post<RolloutView>(`/rollouts/${encodeURIComponent(id)}/advance`, { skipPending: options.skipPending ?? false });
      output.show(one, () => `${one.name} ${tone(one.state)}: ${one.stateReason.message}`);
    }));
  rollout.command('abort <id>').description('end it').option('--stop-new', 'tell nobody else; devices keep what they have').option('--recall', 'and send those back that were told')
    .action(action(async ({ output, client }, id: string, options: { stopNew?: boolean; recall?: boolean }) => {
      if (Boolean(options.stopNew) === Boolean(options.recall)) throw new ReefError('option.invalid', 'invalid', 'Say which abort you mean: --stop-new (devices keep what they have) or --recall (they go back).');
      const one = await (await client()).post<RolloutView>(`/rollouts/${encodeURIComponent(id)}/abort`, { mode: options.recall ? 'recall' : 'stop-new' });
      output.show(one, () => `${one.name} ${tone(one.state)}: ${one.stateReason.message}`);
    }));
}

export async function createRollout(api: Client, output: Output, version: string, options: CreateOptions): Promise<RolloutView> {
  const made = await api.post<RolloutView>('/rollouts', bodyOf(version, options));
  output.step({ event: 'created', rollout: made.id, version: made.version, state: made.state }, `rollout ${made.id}\n${planText(made.plan)}`);
  return made;
}

/** Prints every decision as it is taken, and the verdicts of each wave. */
export async function followRollout(api: Client, output: Output, id: string): Promise<RolloutView> {
  let last = '0';
  const seen = new Map<number, string>();
  let waiting = { text: '', at: 0 };
  let returned = '';
  return api.follow<RolloutView>(`subscription { rolloutChanged(id: ${JSON.stringify(id)}) { id } }`, async () => {
    const now = await api.get<RolloutView>(`/rollouts/${encodeURIComponent(id)}`);
    // The cursor is the id of the last event read.
    const events = await api.all<RolloutEvent>(`/rollouts/${encodeURIComponent(id)}/events`, { cursor: last });
    for (const event of events) {
      last = String(event.id);
      if (event.code !== 'created' || output.json) output.step({ event: 'decision', ...event }, eventText(event));
    }
    for (const wave of now.waves) {
      if (['PASSED', 'FAILED', 'INCONCLUSIVE'].includes(wave.state) && seen.get(wave.index) !== wave.state) {
        seen.set(wave.index, wave.state);
        output.step({ event: 'wave', ...wave }, `\nwave ${wave.index + 1} ${tone(wave.state)}\n${verdictTable(wave.verdicts)}\n`);
      }
    }
    const text = waitsFor(now);
    const back = now.state === 'ROLLING_BACK' && now.rollback ? backText(now.rollback) : '';
    if (back && back !== returned) {
      returned = back;
      output.step({ event: 'rolling-back', rollout: id, counts: now.rollback }, `         ${back}`);
    }
    if (text && text !== waiting.text && Date.now() - waiting.at >= waitingEveryMs) {
      waiting = { text, at: Date.now() };
      output.step({ event: 'waiting', rollout: id, wave: now.wave, for: text }, colours.dim(`         wave ${now.wave + 1} waits: ${text}`));
    }
    if (now.state === 'PAUSED') throw new ReefError('rollout.paused', 'conflict', `The rollout is paused: ${now.stateReason.message} Resume, advance, abort or roll it back.`, { detail: { rollout: id } });
    if (!ended.has(now.state)) return undefined;
    output.step({ event: 'ended', rollout: id, state: now.state, reason: now.stateReason }, `${now.name} ${tone(now.state)}: ${now.stateReason.message}`);
    return now;
  });
}

/** A sample grows with every window: people need not read each of them. */
const waitingEveryMs = 10_000;

/** What the gates of the current wave wait for; empty when they wait for nothing. */
export function waitsFor({ state, wave, waves, waitingDevices }: Pick<RolloutView, 'state' | 'wave' | 'waves' | 'waitingDevices'>): string {
  if (state !== 'RUNNING') return '';
  return [...waitingDevices.map(({ count, what }) => `${counted(count, 'device')} waiting for ${what}`), ...(waves[wave]?.verdicts ?? []).flatMap(({ gate, stillNeeded }) => (stillNeeded ? [`${gate.replaceAll('_', ' ')}: ${stillNeeded}`] : []))].join('; ');
}

export function eventText(event: RolloutEvent): string {
  return `${colours.dim(`${event.at.slice(11, 19)}Z`)} ${event.wave === null ? '' : `wave ${event.wave + 1}: `}${event.kind === 'rolling_back' ? 'Going back. ' : ''}${event.message}`;
}

function exitOf(rollout: RolloutView): number {
  return rollout.state === 'SUCCEEDED' ? 0 : 1;
}

const number = (flag: string, text: string | undefined) => (text === undefined ? undefined : numberOf(flag, text));
const only = (parts: Record<string, unknown>) => Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined));

/** Any of its options asks for it; the rest is as the controller has it. */
function shadowOf({ shadowEvery, shadowFrames, shadowMaxAdded, shadowTimeout }: CreateOptions): object | undefined {
  const shadow = only({ everyN: number('--shadow-every', shadowEvery), frames: number('--shadow-frames', shadowFrames), maxAddedPercent: number('--shadow-max-added', shadowMaxAdded), maxS: number('--shadow-timeout', shadowTimeout) });
  return Object.keys(shadow).length > 0 ? shadow : undefined;
}

function bodyOf(version: string, options: CreateOptions): Record<string, unknown> {
  const limit = (name: string, flag: string, text: string | undefined) => (text === undefined ? undefined : { [name]: number(flag, text) });
  return only({
    version, workload: options.workload ?? (/^reef-agent(@|$)/.test(version) ? 'reef-agent' : 'classifier'), selector: options.selector, name: options.name,
    devices: options.device,
    exclude: options.exclude || options.excludeSelector ? only({ devices: options.exclude, selector: options.excludeSelector }) : undefined,
    waves: options.wave?.map(waveOf), ...paceOf(options),
    soakS: number('--soak', options.soak), deadlineS: number('--deadline', options.deadline), minSamples: number('--min-samples', options.minSamples),
    policy: only({ observeS: number('--observe', options.observe), timeoutS: number('--timeout', options.timeout), cpuFallback: options.cpuFallback === false ? false : undefined, ignoreBudget: options.ignoreBudget, device: options.edgeTpu, probationS: number('--probation', options.probation), shadow: shadowOf(options) }),
    gates: mergedGates(only({
      latencyP95: limit('maxIncreasePercent', '--max-latency-increase', options.maxLatencyIncrease), accuracy: limit('maxDropPoints', '--max-accuracy-drop', options.maxAccuracyDrop),
      errorRate: limit('maxIncreasePoints', '--max-error-increase', options.maxErrorIncrease), installFailures: limit('maxPercent', '--max-install-failures', options.maxInstallFailures),
    }), gatesOf(options.gate ?? [])),
    rollback: options.rollbackAtOnce || options.rollbackWave ? only({ maxInProgress: number('--rollback-at-once', options.rollbackAtOnce), waves: options.rollbackWave?.map((text) => sizeOf('--rollback-wave', text)) }) : undefined,
    supersede: options.supersede, start: options.start === false ? false : undefined,
  });
}

/** `transferred 12.0 MB, saved 240.0 MB by deltas` without its first word. */
export function transferText(transfer: Transfer | null): string | null {
  if (!transfer) return null;
  const { fullBytes, deltaBytes, peerBytes, savedBytes } = transfer;
  return [bytes(fullBytes + deltaBytes), ...(savedBytes > 0 ? [`saved ${bytes(savedBytes)} by deltas`] : []), ...(peerBytes > 0 ? [`${bytes(peerBytes)} more between devices of one site`] : [])].join(', ');
}

const kindOf = (of: WaveKind | undefined): string => (of ? `, ${of.by} ${of.value || '(none)'}` : '');

/** Two ways to say it may speak of one gate. */
function mergedGates(short: Record<string, unknown>, long: Record<string, unknown>): Record<string, unknown> {
  const both = (name: string) => (long[name] && short[name] ? { ...short[name], ...long[name] } : name in long ? long[name] : short[name]);
  return Object.fromEntries([...new Set([...Object.keys(short), ...Object.keys(long)])].map((name) => [name, both(name)]));
}

export function rolloutText(one: RolloutView): string {
  const waits = one.waves.some(({ waiting }) => waiting > 0);
  return [
    facts([['rollout', one.id], ['name', one.name], ['version', one.version], ['workload', one.workload], ['devices', one.selector || 'all'], ['state', tone(one.state)], ['why', one.stateReason.message], ...optional('now', one.waiting?.message), ...optional('came late', lateText(one.late)), ...optional('pace', paceText(one.settings.pace)),
      ...optional('starts', one.state === 'SCHEDULED' ? one.startAt : null), ...optional('stops', one.stopAt), ...optional('transferred', transferText(one.transfer)), ...optional('way back', one.rollback && backText(one.rollback)), ['by', `${one.createdBy}, ${ago(one.createdAt)}`]]),
    table(['wave', 'state', 'size', 'done', 'failed', 'open', ...(waits ? ['waiting'] : [])], one.waves.map((wave) => [`${wave.index + 1}${wave.canary ? ' (canary)' : ''}${kindOf(wave.of)}`, tone(wave.state), wave.size, (wave.counts.SUCCEEDED ?? 0) - wave.faults, (wave.counts.FAILED ?? 0) + (wave.counts.TIMED_OUT ?? 0) + (wave.counts.REJECTED ?? 0) + wave.faults, (wave.counts.QUEUED ?? 0) + (wave.counts.IN_PROGRESS ?? 0) - wave.waiting, ...(waits ? [wave.waiting] : [])])),
    ...one.waitingDevices.map((some) => `waiting for ${some.what}: ${counted(some.count, 'device')} (${some.devices.join(', ')}${some.count > some.devices.length ? ', ...' : ''}), ${some.code}\n${some.message}`),
    ...one.waves.filter((wave) => wave.verdicts.length > 0).map((wave) => `wave ${wave.index + 1}\n${verdictTable(wave.verdicts)}`),
  ].join('\n\n');
}

/** `7 of 10 back, 2 on the way, 1 in line` */
export function backText(rollback: Record<string, number>): string {
  const { PENDING = 0, QUEUED = 0, IN_PROGRESS = 0, SUCCEEDED = 0, FAILED = 0, TIMED_OUT = 0 } = rollback;
  const parts: [number, string][] = [[QUEUED + IN_PROGRESS, 'on the way'], [PENDING, 'in line'], [FAILED, 'could not go back'], [TIMED_OUT, 'without an answer']];
  return [`${SUCCEEDED} of ${PENDING + QUEUED + IN_PROGRESS + SUCCEEDED + FAILED + TIMED_OUT} back`, ...parts.flatMap(([n, what]) => (n > 0 ? [`${n} ${what}`] : []))].join(', ');
}

export function verdictTable(verdicts: Verdict[]): string {
  const open = verdicts.some(({ stillNeeded }) => stillNeeded);
  const sample = (one: Verdict) => [counted(one.sample.devices, 'device'), ...(one.sample.inferences > 0 ? [counted(one.sample.inferences, one.unit === 'number' ? 'number' : 'inference')] : []), one.method].join(', ');
  return table(['gate', 'verdict', 'now', 'before', 'limit', 'judged on', ...(open ? ['still needed'] : [])], verdicts.map((one) => [
    one.gate.replaceAll('_', ' '), tone(one.verdict), `${quantity(one.value, one.unit) ?? '-'}${one.interval ? ` (${one.interval.map((end) => Number(end.toPrecision(4))).join(' to ')})` : ''}`, quantity(one.baseline, one.unit), quantity(one.limit, one.unit), sample(one), ...(open ? [one.stillNeeded ?? ''] : []),
  ]));
}

const unitWords: Record<string, string> = { percent: ' %', celsius: ' °C', number: '', psi: ' PSI' };

function quantity(value: number | null, unit: string): string | null {
  if (value === null) return null;
  return `${Number(value.toPrecision(4))}${unitWords[unit] ?? ` ${unit}`}`;
}

function planText(plan: PlanView): string {
  const { forecast = [] } = plan;
  return [
    `${counted(plan.eligible, 'device')}${plan.waves ? ` in ${counted(plan.waves.length, 'wave')}` : ''}, ${plan.excluded.length} left out`, plan.blastRadius.statement,
    ...(plan.waves ?? []).slice(0, 20).map((wave) => `  wave ${wave.index + 1}: ${counted(wave.size, 'device')}${kindOf(wave.of)}${wave.canary ? ', canary' : ''}`),
    ...((plan.waves?.length ?? 0) > 20 ? [`  and ${counted(plan.waves!.length - 20, 'wave')} more`] : []),
    ...plan.excluded.slice(0, 20).map((one) => `  not ${one.device} (${one.code}): ${one.reason}`),
    ...(plan.excluded.length > 20 ? [`  and ${counted(plan.excluded.length - 20, 'device')} more left out`] : []),
    ...(plan.notes ?? []), ...(plan.timing ? [plan.timing.statement] : []),
    ...(forecast.length === 0 ? [] : ['', table(['variant', 'on', 'devices', 'predicted invocation', 'now'], forecast.map((one) => [
      one.variant, one.hostClass, one.devices,
      one.predictedMs ? `${one.predictedMs[0]} to ${one.predictedMs[1]} ms${one.calibrated > 0 ? ` (${one.calibrated} from own runs)` : ''}` : 'not predicted on the CPU',
      one.nowMs === null ? null : `${one.nowMs} ms`,
    ]))]),
    ...new Set(forecast.flatMap(({ notes }) => notes)),
  ].join('\n');
}
