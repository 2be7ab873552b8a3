import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { parseDataBudget, type DataBudget } from '@reefkeeper/protocol';
import type { Client } from '../client.ts';
import { action, keptCredentials } from '../context.ts';
import { numberOf, numberWithin } from '../options.ts';
import { alertTable, type AlertView } from './alerts.ts';
import { ago, bytes, counted, facts, labelsText, memory, optional, table, tone } from '../output.ts';
import { nameOf, registerSeries, versionsOf } from './series.ts';

interface Workload { running: string | null; variant: string | null; backend: string | null; device?: string | null; fault?: { bundle: string; failure: { code: string; message: string } } | null; execution: { state: string; step: string | null; failure: { code: string; message: string } | null; notes?: { code: string; message: string }[] } | null; learning?: { command: string; step: string; percent: number } }
export interface DeviceView {
  id: string; labels: Record<string, string>; online: boolean; lastSeenAt: string | null; enrolledAt: string;
  capabilities: { hostClass: string; edgetpus: { path: string }[]; edgetpuRuntime: number | null; memoryBytes?: number; agentVersion: string; release?: string; tfliteVersion: string | null } | null;
  desired: { revision: number; config: { link?: string | null; dataBudget?: DataBudget | null }; own: object; rules: string[]; workloads: Record<string, { bundle: string; variant: string }> };
  reported: { health: string; conditions: string[]; observedRevision: number | null; workloads: Record<string, Workload> } | null;
  pins: { workload: string; reason: string; pinnedBy: string; pinnedAt: string }[];
}

const askS = 15;

export function registerDevices(program: Command): void {
  const device = program.command('device').description('the fleet');
  device.command('ls').description('list devices').option('-l, --selector <labels>', 'such as site=lyon,line in (a,b)').option('--online', 'only those connected now').option('--degraded', 'only those that are not well').option('--id <part>', 'only those with this in their id')
    .action(action(async ({ output, client }, options: { selector?: string; online?: boolean; degraded?: boolean; id?: string }) => {
      const api = await client();
      const items = await api.all<DeviceView>('/devices', { selector: options.selector, online: options.online, id: options.id, health: options.degraded ? 'DEGRADED' : undefined });
      const names = await versionsOf(api, output.json ? [] : items.flatMap(({ reported }) => Object.values(reported?.workloads ?? {}).map(({ running }) => running)));
      output.show(items, () => table(['device', 'presence', 'health', 'host', 'labels', 'runs'], items.map((one) => [
        one.id, one.online ? tone('online') : `${tone('offline')} ${ago(one.lastSeenAt)}`, one.reported && tone(one.reported.health), one.capabilities?.hostClass,
        labelsText(one.labels),
        Object.entries(one.reported?.workloads ?? {}).map(([name, work]) => `${name}: ${nameOf(names, work.running) ?? 'nothing'}${work.backend ? ` on ${work.backend}` : ''}`).join('; '),
      ])));
    }));
  device.command('show <id>').description('one device').action(action(async ({ output, client }, id: string) => {
    const api = await client();
    const one = await api.get<DeviceView>(`/devices/${encodeURIComponent(id)}`);
    const alerts = output.json ? [] : (await api.get<{ items: AlertView[] }>('/alerts', { device: id })).items;
    const names = await versionsOf(api, output.json ? [] : [...Object.values(one.desired.workloads).map(({ bundle }) => bundle), ...Object.values(one.reported?.workloads ?? {}).map(({ running }) => running)]);
    output.show(one, () => [
      facts([
        ['device', one.id], ['presence', `${tone(one.online ? 'online' : 'offline')}, seen ${ago(one.lastSeenAt)}`], ['health', one.reported ? `${tone(one.reported.health)} ${one.reported.conditions.join(', ')}` : 'no report yet'],
        ['labels', labelsText(one.labels)], ['host', one.capabilities && `${one.capabilities.hostClass}${one.capabilities.memoryBytes ? `, ${memory(one.capabilities.memoryBytes)} memory` : ''}`],
        ['Edge TPU', one.capabilities ? `${one.capabilities.edgetpus.length || 'none'}${one.capabilities.edgetpuRuntime === null ? '' : `, runtime ${one.capabilities.edgetpuRuntime}`}` : null],
        ['downloads', linkText(one.desired.config)], ...optional('configured by', one.desired.rules.length > 0 ? `${one.desired.rules.join(', ')}${Object.keys(one.desired.own).length > 0 ? '; its own settings go before' : ''}` : null), ['agent', one.capabilities && `${one.capabilities.agentVersion}${one.capabilities.release ? `, ${one.capabilities.release === 'factory' ? 'as its package brought it' : `release ${one.capabilities.release.slice(0, 12)}`}` : ''}`], ['revision', `${one.desired.revision} wanted, ${one.reported?.observedRevision ?? '-'} taken in`],
        ...one.pins.map((pin): [string, string] => ['pinned', `${pin.workload || 'every workload'}: ${pin.reason} (${pin.pinnedBy}, ${ago(pin.pinnedAt)})`]),
      ]),
      table(['workload', 'wanted', 'runs', 'variant', 'last execution'], Object.keys({ ...one.desired.workloads, ...one.reported?.workloads }).map((name) => {
        const work = one.reported?.workloads[name];
        return [name, nameOf(names, one.desired.workloads[name]?.bundle), nameOf(names, work?.running), work?.variant && `${work.variant} on ${work.device ?? work.backend}`, work?.execution && `${tone(work.execution.state)} ${work.execution.step ?? ''} ${[work.execution.failure, ...(work.execution.notes ?? [])].map((one) => one?.message ?? '').join(' ')}${work.fault ? `; left ${work.fault.bundle.slice(0, 12)} later: ${work.fault.failure.code}, ${work.fault.failure.message}` : ''}`];
      })),
      ...(alerts.length > 0 ? [alertTable(alerts)] : []),
    ].join('\n\n'));
  }));
  registerSeries(device, 'device');
  device.command('label <id> <labels...>').description('replace its labels, as key=value').action(action(async ({ output, client }, id: string, pairs: string[]) => {
    const one = await (await client()).patch<DeviceView>(`/devices/${encodeURIComponent(id)}`, { labels: labelsOf(pairs) });
    output.show(one, () => `${one.id}: ${labelsText(one.labels)}`);
  }));
  device.command('pin <id>').description('rollouts leave the device alone; what it was told before goes on, and so does the way back')
    .option('-w, --workload <name>', 'only this one; every workload where absent').requiredOption('--reason <text>', 'shown to whoever plans a rollout')
    .action(action(async ({ output, client }, id: string, options: { workload?: string; reason: string }) => {
      const one = await (await client()).put<DeviceView>(`/devices/${encodeURIComponent(id)}/pin`, { workload: options.workload, reason: options.reason });
      output.show(one, () => `${one.id} keeps what it runs: ${options.workload ?? 'every workload'}`);
    }));
  device.command('unpin <id>').description('rollouts may have it again').option('-w, --workload <name>', 'the pin of this workload')
    .action(action(async ({ output, client }, id: string, options: { workload?: string }) => {
      const one = await (await client()).delete<DeviceView>(`/devices/${encodeURIComponent(id)}/pin${options.workload ? `?workload=${encodeURIComponent(options.workload)}` : ''}`);
      output.show(one, () => (one.pins.length === 0 ? `${one.id} is no longer pinned` : `${one.id} stays pinned for ${one.pins.map((pin) => pin.workload || 'every workload').join(', ')}`));
    }));
  device.command('retire <id>').description('take a device out of service; its certificate stops working').option('--reason <text>').action(action(async ({ output, client }, id: string, options: { reason?: string }) => {
    await (await client()).delete(`/devices/${encodeURIComponent(id)}${options.reason ? `?reason=${encodeURIComponent(options.reason)}` : ''}`);
    output.show({ id, retired: true }, () => `${id} is out of service`);
  }));
  device.command('enroll').alias('token').description('a one-time enrolment token, with the line to run on the device')
    .option('--id <id>', 'only for this device').option('--label <key=value...>', 'labels the device gets').option('--uses <n>', 'how many devices may use it', '1').option('--ttl <seconds>', 'how long it is good', '3600')
    .action(action(async ({ output, client, options: { dir } }, options: { id?: string; label?: string[]; uses: string; ttl: string }) => {
      const api = await client();
      const made = await api.post<{ token: string; expiresAt: string; gatewayUrl?: string; install?: string | null }>('/enrolment-tokens', { ...(options.id ? { deviceId: options.id } : {}), labels: labelsOf(options.label ?? []), uses: numberOf('--uses', options.uses), ttlS: numberOf('--ttl', options.ttl) });
      const kept = await keptCredentials(dir);
      const gateway = made.gatewayUrl ?? (kept?.url === api.url ? kept.gatewayUrl : undefined) ?? `https://${new URL(api.url).hostname}:8443`;
      output.show({ ...made, gatewayUrl: gateway }, () => [
        made.token, '', `On the device, before ${made.expiresAt}:`,
        ...(made.install ? [`  ${made.install}`, '', 'or, where the agent is installed already:'] : []),
        `  reef-agent enrol --gateway ${gateway} --token ${made.token}`,
        ...(made.install ? [] : ['  reef-agent run', '', 'This controller has no packages for devices, which would make it one line: docs/install.md.']),
      ].join('\n'));
    }));
  device.command('ping <id>').description('ask a device for a sign of life').action(action(async ({ output, client }, id: string) => {
    const { result, tookMs } = await ask(await client(), id, 'ping');
    const { host, edgetpus } = (result.temperaturesC ?? { host: null, edgetpus: {} }) as { host: number | null; edgetpus: Record<string, number | null> };
    const warm = Object.entries({ processor: host, ...edgetpus }).flatMap(([what, celsius]) => (celsius === null ? [] : [`${what} ${celsius.toFixed(1)} C`]));
    output.show({ device: id, tookMs, ...result }, () => `${id} answered within ${tookMs} ms${warm.length > 0 ? `; ${warm.join(', ')}` : ''}`);
  }));
  device.command('bench <id>').description('how fast a workload\'s model runs on a device: percentiles of one inference, and how many a second').option('-w, --workload <name>', 'this one; otherwise the first').option('--runs <count>', 'inferences to run, at most 1000', '50')
    .action(action(async ({ output, client }, id: string, options: { workload?: string; runs: string }) => {
      const { result } = await ask(await client(), id, 'bench', { ...(options.workload ? { workload: options.workload } : {}), runs: numberOf('--runs', options.runs) }, 60);
      const { segments = [], ...whole } = result as Partial<Bench> & { workload: string; runs: number; segments?: (Bench & { edgetpu: string | null })[] };
      const row = (what: string, one: Partial<Bench>) => [what, ...(['p50Us', 'p95Us', 'p99Us', 'maxUs'] as const).map((name) => `${((one[name] ?? 0) / 1_000).toFixed(1)} ms`)];
      output.show({ device: id, ...result }, () => [
        `${whole.workload} on ${id}: ${whole.runs} inferences${whole.perSecond === undefined ? '' : `, ${whole.perSecond} a second`}`,
        table(['', 'p50', 'p95', 'p99', 'max'], [row('model', whole), ...segments.map((one, at) => row(`segment ${at + 1} on ${one.edgetpu ?? 'the CPU'}`, one))]),
      ].join('\n'));
    }));
  configOptions(device.command('configure [id]').description('what its link costs, how much of it downloads and telemetry may take, which pictures it captures; of one device, or of all that match now (for those that come later: reef config set)').option('-l, --selector <labels>', 'such as site=lyon'))
    .option('--hand-back <setting...>', 'say nothing of it on the device any more, so that rules (reef config ls) or the defaults decide: link, data-budget, telemetry-budget, capture')
    .addHelpText('after', '\nExample:\n  reef device configure --selector link=lte --link metered --data-budget 20MB/day')
    .action(action(async ({ output, client }, id: string | undefined, options: { selector?: string; handBack?: string[] } & ConfigureOptions) => {
      if ((id === undefined) === (options.selector === undefined)) throw new ReefError('option.invalid', 'invalid', 'Name a device, or which ones with --selector.');
      const handBack = options.handBack?.map(settingOf) ?? [];
      const config = configOf(options, handBack.length > 0);
      const api = await client();
      const { devices } = id === undefined ? await api.post<{ devices: number }>('/devices/configure', { selector: options.selector, config, handBack }) : (await api.patch(`/devices/${encodeURIComponent(id)}`, { config, handBack }), { devices: 1 });
      output.show({ devices, config }, () => `${counted(devices, 'device')} configured; each takes it in when it is connected`);
    }));
  device.command('allow-download <id>').description('fetch what is wanted now although it is over the data budget').option('-w, --workload <name>', 'only this one')
    .action(action(async ({ output, client }, id: string, options: { workload?: string }) => {
      const { result } = await ask(await client(), id, 'allow-download', options.workload ? { workload: options.workload } : {});
      output.show({ device: id, ...result }, () => `${id} fetches what is wanted for ${(result.allowed as string[]).join(', ') || 'nothing: nothing is wanted there'}`);
    }));
}

interface Bench { p50Us: number; p95Us: number; p99Us: number; maxUs: number; perSecond?: number }

/** @throws ReefError `device.refused`, `device.silent` */
async function ask(api: Client, id: string, kind: string, args: Record<string, unknown> = {}, withinS = askS): Promise<{ result: Record<string, unknown>; tookMs: number }> {
  const begin = Date.now();
  const sent = await api.post<{ id: string }>(`/devices/${encodeURIComponent(id)}/commands`, { kind, args, ttlS: withinS });
  for (;;) {
    const now = await api.get<{ state: string; answer: { result: Record<string, unknown>; failure: { message: string } | null } | null }>(`/devices/${encodeURIComponent(id)}/commands/${sent.id}`);
    const tookMs = Date.now() - begin;
    if (now.state === 'SUCCEEDED') return { result: now.answer?.result ?? {}, tookMs };
    if (tookMs > withinS * 1_000) throw new ReefError('device.silent', 'unavailable', `${id} did not answer within ${withinS} s. \`reef device show ${id}\` says when it was last seen.`);
    if (now.state === 'FAILED') throw new ReefError('device.refused', 'unavailable', `${id} refused: ${now.answer?.failure?.message ?? 'without a reason'}`);
    await sleep(50);
  }
}

function linkText({ link, dataBudget }: DeviceView['desired']['config']): string {
  return link || dataBudget ? [link ?? 'link as the device says', ...(dataBudget ? [`at most ${bytes(dataBudget.bytes)} a ${dataBudget.per}${link === 'unmetered' ? ', were it metered' : ' where it is metered'}`] : [])].join(', ') : 'as the device says';
}

/** What of a device can be configured, for one or by a rule. */
export function configOptions(command: Command): Command {
  return command
    .option('--link <kind>', 'metered, unmetered, or own: as the device\'s own settings say').option('--data-budget <amount>', 'for downloads over a metered link: 20MB/day, 500MB/month, or own').option('--telemetry-budget <amount>', 'bytes of telemetry in any hour, such as 64KB; windows are made longer to keep it; all where it is to be lifted')
    .option('--capture <count>', 'send up to so many pictures an hour on which the model is not sure, or off').option('--capture-below <margin>', 'not sure: the two best scores are no further apart', '0.2').option('--capture-mask <part...>', 'left,top,width,height as shares of the picture, made black on the device');
}

const settings: Record<string, string> = { link: 'link', 'data-budget': 'dataBudget', 'telemetry-budget': 'telemetryBytesPerHour', capture: 'capture' };

function settingOf(word: string): string {
  const found = settings[word];
  if (!found) throw new ReefError('option.invalid', 'invalid', `--hand-back takes ${Object.keys(settings).join(', ')}; not "${word}".`);
  return found;
}

export interface ConfigureOptions { link?: string; dataBudget?: string; telemetryBudget?: string; capture?: string; captureBelow?: string; captureMask?: string[] }

/** @throws ReefError `option.invalid` */
export function configOf({ link, dataBudget, telemetryBudget, capture, captureBelow, captureMask }: ConfigureOptions, mayBeNone = false): Record<string, unknown> {
  if (!mayBeNone && link === undefined && dataBudget === undefined && telemetryBudget === undefined && capture === undefined) throw new ReefError('option.invalid', 'invalid', 'Say what to change: --link, --data-budget, --telemetry-budget, --capture.');
  if (link !== undefined && !['metered', 'unmetered', 'own'].includes(link)) throw new ReefError('option.invalid', 'invalid', `--link takes metered, unmetered or own, not "${link}".`);
  return { ...(link === undefined ? {} : { link: link === 'own' ? null : link }), ...(dataBudget === undefined ? {} : { dataBudget: dataBudget === 'own' ? null : budgetOf(dataBudget) }), ...(telemetryBudget === undefined ? {} : { telemetryBytesPerHour: telemetryBudget === 'all' ? null : hourlyBytesOf(telemetryBudget) }), ...(capture === undefined ? {} : { capture: capture === 'off' ? null : captureOf(capture, captureBelow, captureMask) }) };
}

function captureOf(perHour: string, below: string | undefined, masks: string[] = []): Record<string, unknown> {
  return {
    perHour: numberWithin('--capture', perHour, [1, 3_600], { whole: true }), uncertainBelow: numberWithin('--capture-below', below ?? '0.2', [0, 1]),
    masks: masks.map((text) => {
      const parts = text.split(',').map(Number);
      if (parts.length !== 4 || !parts.every((part) => part >= 0 && part <= 1)) throw new ReefError('option.invalid', 'invalid', `--capture-mask takes left,top,width,height from 0 to 1, not "${text}".`);
      const [left, top, width, height] = parts;
      return { left, top, width, height };
    }),
  };
}

function hourlyBytesOf(text: string): number {
  const [, amount, unit = ''] = /^([\d.]+)\s*(|K|KB|KIB|M|MB|MIB)$/i.exec(text) ?? [];
  const bytes = Math.round(Number(amount) * (unit === '' ? 1 : /^k/i.test(unit) ? (/i/i.test(unit) ? 1_024 : 1_000) : /i/i.test(unit) ? 1_048_576 : 1_000_000));
  if (!(bytes >= 16 * 1024)) throw new ReefError('option.invalid', 'invalid', `--telemetry-budget takes an amount of 16 KiB or more, such as 64KB, not "${text}".`);
  return bytes;
}

function budgetOf(text: string): DataBudget {
  const budget = parseDataBudget(text);
  if (!budget) throw new ReefError('option.invalid', 'invalid', `--data-budget takes an amount per day or month, such as 20MB/day, not "${text}".`);
  return budget;
}

function labelsOf(pairs: string[]): Record<string, string> {
  return Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf('=');
    if (at < 1) throw new ReefError('option.invalid', 'invalid', `"${pair}" is not a label; write key=value.`);
    return [pair.slice(0, at), pair.slice(at + 1)];
  }));
}
