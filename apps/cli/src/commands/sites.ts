import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { action } from '../context.ts';
import { numberWithin } from '../options.ts';
import { bytes, counted, table } from '../output.ts';
import { bandwidthOf } from './rollout-options.ts';

interface SiteView { site: string; maxInProgress: number | null; bytesPerSecond: number | null; of: string | null; devices: number; inProgress: number }

export function registerSites(program: Command): void {
  const site = program.command('site').description('what the links of sites (label site) bear, for all rollouts together')
    .addHelpText('after', '\nExamples:\n  reef site limit lyon --concurrency 5 --rate 2MB\n  reef site limit "*" --rate 500k        # every site that has no limit of its own\n  reef site unlimit lyon');
  site.command('ls').description('sites, their devices, what is on its way there and what they are limited to').action(action(async ({ output, client }) => {
    const { items } = await (await client()).get<{ items: SiteView[] }>('/sites');
    output.show(items, () => table(['site', 'devices', 'on their way', 'at once', 'a second', 'limit of'], items.map((one) => [one.site, one.devices, one.inProgress, one.maxInProgress, one.bytesPerSecond === null ? null : bytes(one.bytesPerSecond), one.of])));
  }));
  site.command('limit <site>').description('rollouts tell devices there no faster than this, together').option('--concurrency <n>', 'devices at once that were told and have not answered').option('--rate <bytes>', 'bytes a second that its link has for bundles, such as 500k or 2MB')
    .action(action(async ({ output, client }, name: string, options: { concurrency?: string; rate?: string }) => {
      if (options.concurrency === undefined && options.rate === undefined) throw new ReefError('option.invalid', 'invalid', 'Say what the site bears: --concurrency N, --rate BYTES, or both.');
      const body = { maxInProgress: options.concurrency === undefined ? null : numberWithin('--concurrency', options.concurrency, [1, 1_000_000], { whole: true }), bytesPerSecond: options.rate === undefined ? null : bandwidthOf('--rate', options.rate) };
      const one = await (await client()).put<SiteView>(`/sites/${encodeURIComponent(name)}/limit`, body);
      output.show(one, () => `${one.site === '*' ? 'every site without a limit of its own' : `site ${one.site}, ${counted(one.devices, 'device')}`}: ${limitText(one)}, whatever rollouts tell there`);
    }));
  site.command('unlimit <site>').description('take its limit away').action(action(async ({ output, client }, name: string) => {
    await (await client()).delete<null>(`/sites/${encodeURIComponent(name)}/limit`);
    output.show({ site: name }, () => `${name === '*' ? 'sites without a limit of their own are' : `site ${name} is`} no longer limited by it`);
  }));
}

function limitText({ maxInProgress, bytesPerSecond }: SiteView): string {
  return [...(maxInProgress === null ? [] : [`${maxInProgress} at once`]), ...(bytesPerSecond === null ? [] : [`${bytes(bytesPerSecond)} a second`])].join(', ');
}
