import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { action } from '../context.ts';
import { bytes, table } from '../output.ts';

interface Collected { dryRun: boolean; before: string; objects: number; bytes: number; roles: { role: string; objects: number; bytes: number }[]; more: boolean }

const unitDays: Record<string, number> = { h: 1 / 24, d: 1, w: 7 };

export function registerGc(program: Command): void {
  program.command('gc')
    .description('remove stored files that no version, job, device or rollout refers to')
    .option('--older-than <age>', 'only what was last used before that: 12h, 30d, 8w; never less than a day', '30d')
    .option('--dry-run', 'only say what would go')
    .addHelpText('after', '\nExample:\n  reef gc --dry-run --older-than 8w')
    .action(action(async ({ output, client }, options: { olderThan: string; dryRun?: boolean }) => {
      const [, number, unit] = /^(\d+(?:\.\d+)?)([hdw])$/.exec(options.olderThan) ?? [];
      if (number === undefined) throw new ReefError('option.invalid', 'invalid', `--older-than takes an age such as 12h, 30d or 8w, not "${options.olderThan}".`);
      const done = await (await client()).post<Collected>('/gc', { dryRun: options.dryRun ?? false, olderThanDays: Number(number) * unitDays[unit!]! });
      output.show(done, () => [
        `${done.objects} ${done.objects === 1 ? 'file' : 'files'}, ${bytes(done.bytes)}, not used since ${done.before.slice(0, 16).replace('T', ' ')} UTC: ${done.dryRun ? 'would be removed' : 'removed'}`,
        ...(done.roles.length > 0 ? [table(['role', 'files', 'size'], done.roles.map((one) => [one.role, one.objects, bytes(one.bytes)]))] : []),
        ...(done.more ? ['There is more: run it again.'] : []),
      ].join('\n\n'));
    }));
}
