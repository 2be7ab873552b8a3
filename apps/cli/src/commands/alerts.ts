import type { Command } from 'commander';
import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numberWithin, whileOf, type WhileOptions } from '../options.ts';
import { ago, counted, facts, optional, table, tone, untilText, type Output } from '../output.ts';

export interface AlertView {
  id: string; kind: string; subject: string; device: string | null; workload: string | null; rollout: string | null; severity: string; state: string; since: string; openedAt: string; lastSeenAt: string; goneSince: string | null; closedAt: string | null;
  times: number; numbers: Record<string, unknown>; summary: string; advice: string; acknowledgedAt: string | null; acknowledgedBy: string | null; note: string | null; silenced: boolean;
}
interface SilenceView { id: string; selector: string; kinds: string[]; until: string; reason: string; active: boolean; alerts: number; createdAt: string; createdBy: string; liftedAt: string | null; liftedBy: string | null }
interface Which { selector?: string; device?: string; kind?: string }

const everyState = 'OPEN,ACKNOWLEDGED,CLOSED';

export function registerAlerts(program: Command): void {
  const alert = program.command('alert').description('conditions that somebody may have to look at; they open and close by themselves');
  const which = (command: Command) => command.option('-l, --selector <labels>', 'about devices that match').option('--device <id>').option('--kind <kind>', 'as in docs/alerts.md, such as device.offline');
  which(alert.command('ls').description('those that are not closed, newest first')).option('--all', 'closed ones, too').option('--limit <n>', 'at most', '100')
    .action(action(async ({ output, client }, options: Which & { all?: boolean; limit: string }) => {
      const { items, nextCursor } = await (await client()).get<{ items: AlertView[]; nextCursor: string | null }>('/alerts', { ...queryOf(options), state: options.all ? everyState : undefined, limit: numberWithin('--limit', options.limit, [1, 1_000], { whole: true }) });
      output.show(items, () => (items.length === 0 ? `no alert${options.all ? '' : ' is open'}` : [alertTable(items), ...(nextCursor ? ['', `and more: --limit, or narrow it down with --selector, --device, --kind`] : [])].join('\n')));
    }));
  alert.command('show <id>').description('what it is, since when, the numbers, and what to do').action(action(async ({ output, client }, id: string) => {
    const one = await (await client()).get<AlertView>(`/alerts/${encodeURIComponent(id)}`);
    output.show(one, () => alertText(one));
  }));
  which(alert.command('ack [id]').description('say that you know, and what you do about it: of one, or of all open ones that match')).option('--all', 'every open one').option('--note <text>', 'shown to others', '')
    .addHelpText('after', '\nExamples:\n  reef alert ack 0f8fad5b-d9cb-469f-a165-70867728950e --note "new cable ordered"\n  reef alert ack -l site=lyon --kind device.offline --note "power cut"')
    .action(action(async ({ output, client }, id: string | undefined, { note, all, ...options }: Which & { note: string; all?: boolean }) => {
      const some = options.selector !== undefined || options.device !== undefined || options.kind !== undefined;
      if ([id !== undefined, some, all === true].filter(Boolean).length !== 1) throw new ReefError('option.invalid', 'invalid', 'Say which: the id of one alert, or --selector, --device, --kind, or --all.');
      if (id !== undefined) {
        const one = await (await client()).post<AlertView>(`/alerts/${encodeURIComponent(id)}/acknowledge`, { note });
        return output.show(one, () => `${one.kind} of ${one.subject} acknowledged; it closes by itself`);
      }
      const done = await (await client()).post<{ acknowledged: number }>('/alerts/acknowledge', { note, ...(all ? { all } : queryOf(options)) });
      output.show(done, () => (done.acknowledged === 0 ? 'no open alert matches' : `${counted(done.acknowledged, 'alert')} acknowledged; they close by themselves`));
    }));
  which(alert.command('watch').description('print each as it opens, is acknowledged or closes, until stopped')).action(action(async ({ output, client }, options: Which) => watchAlerts(await client(), output, options)));
  alert.command('silence').description('nobody is told of alerts about these devices for a while: maintenance. They open and close as ever')
    .option('-l, --selector <labels>', 'which devices').option('--all', 'every device').option('--kind <kind...>', 'only these kinds').option('--until <time>', '2026-12-24T00:00:00+01:00, or 12h, 3d from now').option('--reason <text>', 'shown to others')
    .addHelpText('after', '\nExample:\n  reef alert silence --selector site=lyon --until 2h --reason "new switch"')
    .action(action(async ({ output, client }, options: WhileOptions & { kind?: string[] }) => {
      const held = whileOf('silence', options);
      const made = await (await client()).post<SilenceView>('/silences', { ...held, kinds: options.kind ?? [] });
      output.show(made, () => `silence ${made.id} until ${made.until}; it keeps ${counted(made.alerts, 'open alert')} quiet now`);
    }));
  alert.command('silences').description('those that hold now').option('--past', 'and those that are over').action(action(async ({ output, client }, options: { past?: boolean }) => {
    const { items } = await (await client()).get<{ items: SilenceView[] }>('/silences', { all: options.past });
    output.show(items, () => table(['silence', 'devices', 'kinds', 'until', 'reason', 'keeps quiet', 'by'], items.map((one) => [
      one.id, one.selector || 'all', one.kinds.join(', ') || 'all', untilText(one), one.reason, one.alerts, `${one.createdBy}, ${ago(one.createdAt)}`,
    ])));
  }));
  alert.command('unsilence <id>').description('end a silence now; what is still open is told then').action(action(async ({ output, client }, id: string) => {
    const lifted = await (await client()).delete<SilenceView>(`/silences/${encodeURIComponent(id)}`);
    output.show(lifted, () => `${lifted.selector || 'all'}: no longer silenced by it`);
  }));
}

/** Each change once; what is open at the start comes first. */
async function watchAlerts(api: Client, output: Output, which: Which): Promise<void> {
  let seen = new Map<string, AlertView>();
  await api.follow<never>(`subscription { alertChanged${which.device ? `(device: ${JSON.stringify(which.device)})` : ''} { id } }`, async () => {
    const open = new Map((await api.all<AlertView>('/alerts', { ...queryOf(which) })).map((one) => [one.id, one]));
    // What is gone from the list has closed.
    const closed = await Promise.all([...seen.keys()].filter((id) => !open.has(id)).map((id) => api.get<AlertView>(`/alerts/${id}`)));
    for (const one of [...open.values()].toReversed()) if (seen.get(one.id)?.state !== one.state) output.step({ event: one.state === 'OPEN' ? 'opened' : 'acknowledged', ...one }, lineOf(one));
    for (const one of closed) output.step({ event: 'closed', ...one }, lineOf(one));
    seen = open;
    return undefined;
  });
}

const lineOf = (one: AlertView): string => `${colours.dim((one.closedAt ?? one.acknowledgedAt ?? one.openedAt).slice(11, 19))} ${tone(one.state)} ${tone(one.severity)} ${one.kind} ${one.summary}${one.note ? ` (${one.acknowledgedBy}: ${one.note})` : ''}`;

const queryOf = ({ selector, device, kind }: Which): Record<string, string | undefined> => ({ selector, device, kind });

export function alertTable(items: readonly AlertView[]): string {
  return table(['alert', 'kind', 'state', 'about', 'what', 'since'], items.map((one) => [
    one.id, `${tone(one.severity)} ${one.kind}`, `${tone(one.state)}${one.silenced ? ', silenced' : ''}${one.note ? `: ${one.note}` : ''}`, one.subject, one.summary, one.closedAt ? `${ago(one.since)}, closed ${ago(one.closedAt)}` : ago(one.since),
  ]));
}

export function alertText(one: AlertView): string {
  return [
    facts([
      ['alert', one.id], ['kind', `${one.kind}, ${tone(one.severity)}`], ['about', one.subject], ['state', `${tone(one.state)}${one.silenced ? ', silenced' : ''}`],
      ['since', `${one.since}, ${ago(one.since)}`], ['last seen', ago(one.lastSeenAt)], ...optional('gone', one.goneSince && !one.closedAt ? `${ago(one.goneSince)}; it closes when that lasts` : null), ...optional('closed', one.closedAt),
      ...optional('times', one.times > 1 ? `${one.times} in a row` : null), ...optional('known to', one.acknowledgedBy && `${one.acknowledgedBy}, ${ago(one.acknowledgedAt)}${one.note ? `: ${one.note}` : ''}`),
      ...Object.entries(one.numbers).flatMap(([name, value]): [string, string][] => (value === null ? [] : [[name, typeof value === 'object' ? (Array.isArray(value) ? value.join(', ') : JSON.stringify(value)) : typeof value === 'number' ? String(Number(value.toPrecision(4))) : String(value)]])),
    ]),
    `${one.summary}\n${one.advice}`,
  ].join('\n\n');
}
