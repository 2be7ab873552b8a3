import type { Command } from 'commander';
import { action } from '../context.ts';
import { numberWithin } from '../options.ts';
import { ago, bytes, counted, table } from '../output.ts';
import { configOf, configOptions, type ConfigureOptions } from './devices.ts';

interface RuleView { name: string; selector: string; priority: number; devices: number; setAt: string; setBy: string; config: { link?: string | null; dataBudget?: { bytes: number; per: string } | null; telemetryBytesPerHour?: number | null; capture?: { perHour: number } | null } & Record<string, unknown> }

export function registerConfigRules(program: Command): void {
  const config = program.command('config').description('configuration by selector that is kept: devices that are enrolled or relabelled later get it, too')
    .addHelpText('after', '\nWhat a device is told, setting by setting: its own (reef device configure), else that of the rule with the highest priority that matches (of equals, the first by name), else the default.\n\nExamples:\n  reef config set lte --selector link=lte --link metered --data-budget 20MB/day\n  reef config set lyon-lte --selector link=lte,site=lyon --data-budget 50MB/day --priority 10\n  reef config ls\n  reef device configure cam-7 --hand-back data-budget     # the rules decide again');
  configOptions(config.command('set <name>').description('make or replace a rule').requiredOption('-l, --selector <labels>', 'which devices, now and later; "" is every one'))
    .option('--priority <n>', 'of several that match, the higher one wins', '0')
    .action(action(async ({ output, client }, name: string, options: ConfigureOptions & { selector: string; priority: string }) => {
      const body = { selector: options.selector, config: configOf(options), priority: numberWithin('--priority', options.priority, [-1_000, 1_000], { whole: true }) };
      const rule = await (await client()).put<RuleView & { changed: number }>(`/config-rules/${encodeURIComponent(name)}`, body);
      output.show(rule, () => `${rule.name}: ${configText(rule.config)}, for ${counted(rule.devices, 'device')} now (${rule.selector || 'all'}), of which ${rule.changed} are told something new, and for those that come to match`);
    }));
  config.command('ls').description('rules, those that win first').action(action(async ({ output, client }) => {
    const { items } = await (await client()).get<{ items: RuleView[] }>('/config-rules');
    output.show(items, () => table(['rule', 'priority', 'devices', 'matching', 'configures', 'by'], items.map((one) => [one.name, one.priority, one.devices, one.selector || 'all', configText(one.config), `${one.setBy}, ${ago(one.setAt)}`])));
  }));
  config.command('rm <name>').description('remove a rule; its devices go by the other rules, or the defaults').action(action(async ({ output, client }, name: string) => {
    const { changed } = await (await client()).delete<{ changed: number }>(`/config-rules/${encodeURIComponent(name)}`);
    output.show({ rule: name, changed }, () => `${name} is removed; ${counted(changed, 'device')} told`);
  }));
}

/** `link metered, data 20.0 MB a day, telemetry 64.0 kB an hour, 20 pictures an hour` */
function configText({ link, dataBudget, telemetryBytesPerHour, capture, ...more }: RuleView['config']): string {
  return [
    ...(link === undefined ? [] : [`link ${link ?? 'as the device says'}`]), ...(dataBudget === undefined ? [] : [dataBudget ? `data ${bytes(dataBudget.bytes)} a ${dataBudget.per}` : 'data as the device says']),
    ...(telemetryBytesPerHour === undefined ? [] : [telemetryBytesPerHour === null ? 'all telemetry' : `telemetry ${bytes(telemetryBytesPerHour)} an hour`]), ...(capture === undefined ? [] : [capture ? `${capture.perHour} pictures an hour` : 'no pictures']),
    ...Object.entries(more).map(([name, value]) => `${name} ${JSON.stringify(value)}`),
  ].join(', ');
}
