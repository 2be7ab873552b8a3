import type { Command } from 'commander';
import { action } from '../context.ts';
import { whileOf, type WhileOptions } from '../options.ts';
import { ago, counted, table, untilText } from '../output.ts';

interface FreezeView { id: string; selector: string; until: string; reason: string; createdAt: string; createdBy: string; liftedAt: string | null; liftedBy: string | null; active: boolean; devices: number }

export function registerFreezes(program: Command): void {
  const freeze = program.command('freeze').description('no rollout tells these devices anything new for a while; the way back is never frozen')
    .option('-l, --selector <labels>', 'which devices').option('--all', 'every device').option('--until <time>', '2026-12-24T00:00:00+01:00, or 12h, 3d from now').option('--reason <text>', 'shown to whoever waits')
    .addHelpText('after', '\nExamples:\n  reef freeze --selector site=lyon --until 3d --reason "inventory"\n  reef freeze ls\n  reef unfreeze FREEZE')
    .action(action(async ({ output, client }, options: WhileOptions) => {
      const held = whileOf('freeze', options);
      const made = await (await client()).post<FreezeView>('/freezes', held);
      output.show(made, () => `freeze ${made.id}: ${counted(made.devices, 'device')} until ${made.until}`);
    }));
  freeze.command('ls').description('those that hold now').option('--past', 'and those that are over').action(action(async ({ output, client }, options: { past?: boolean }) => {
    const { items } = await (await client()).get<{ items: FreezeView[] }>('/freezes', { all: options.past });
    output.show(items, () => table(['freeze', 'devices', 'matching', 'until', 'reason', 'by'], items.map((one) => [
      one.id, one.selector || 'all', one.devices, untilText(one), one.reason, `${one.createdBy}, ${ago(one.createdAt)}`,
    ])));
  }));
  program.command('unfreeze <id>').description('end a freeze now; rollouts that wait for it go on').action(action(async ({ output, client }, id: string) => {
    const lifted = await (await client()).delete<FreezeView>(`/freezes/${encodeURIComponent(id)}`);
    output.show(lifted, () => `${counted(lifted.devices, 'device')} (${lifted.selector || 'all'}) no longer frozen by it`);
  }));
}
