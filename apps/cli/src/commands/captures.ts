import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numberWithin } from '../options.ts';
import { ago, counted, table } from '../output.ts';

export interface Capture { id: string; deviceId: string; workload: string; bundle: string; prediction: string; score: number; margin: number; takenAt: string; receivedAt: string; digest: string; bytes: number; label: string | null }

interface Which { selector?: string; device?: string; workload?: string; label?: string; unlabelled?: boolean; limit?: string }

export function registerCaptures(program: Command): void {
  const capture = program.command('capture').description('pictures on which devices were not sure: look, say what they are, learn from them');
  const which = (command: Command) => command.option('-l, --selector <labels>', 'of devices that match').option('--device <id>').option('-w, --workload <name>').option('--label <label>', 'those labelled so');
  which(capture.command('ls').description('newest first')).option('--unlabelled', 'those that nobody has looked at').option('--limit <n>', 'at most', '50')
    .action(action(async ({ output, client }, options: Which) => {
      const { items } = await (await client()).get<{ items: Capture[] }>('/captures', { ...queryOf(options), limit: numberWithin('--limit', options.limit ?? '50', [1, 500], { whole: true }) });
      output.show(items, () => (items.length === 0 ? 'no captured pictures; devices capture when told to: reef device configure --capture 20' : table(['picture', 'device', 'workload', 'bundle', 'taken for', 'score', 'margin', 'received', 'is'], items.map((one) => [one.id, one.deviceId, one.workload, one.bundle.slice(0, 12), one.prediction, one.score.toFixed(2), one.margin.toFixed(2), ago(one.receivedAt), one.label]))));
    }));
  capture.command('get <id>').description('the picture itself').requiredOption('-o, --out <file>', 'where to').action(action(async ({ output, client }, id: string, options: { out: string }) => {
    const api = await client();
    const one = await api.get<Capture>(`/captures/${encodeURIComponent(id)}`);
    await api.download(`/captures/${encodeURIComponent(id)}/image`, options.out, one.digest);
    output.show({ ...one, file: options.out }, () => `${options.out}: taken for ${one.prediction}`);
  }));
  capture.command('label <id> [label]').description('say what it is; without a label, take it back').action(action(async ({ output, client }, id: string, label: string | undefined) => {
    const one = await (await client()).patch<Capture>(`/captures/${encodeURIComponent(id)}`, { label: label ?? null });
    output.show(one, () => `${one.id} ${one.label === null ? 'has no label' : `is ${one.label}`}`);
  }));
  capture.command('rm <id>').description('forget it').action(action(async ({ output, client }, id: string) => {
    await (await client()).delete(`/captures/${encodeURIComponent(id)}`);
    output.show({ removed: id }, () => `${id} forgotten`);
  }));
  which(capture.command('export <folder>').description('the labelled ones, a folder per label, as `reef train` reads them')).action(action(async ({ output, client }, folder: string, options: Which) => {
    const labels = await exportCaptures(await client(), folder, options);
    const total = Object.values(labels).reduce((sum, count) => sum + count, 0);
    output.show({ folder, pictures: total, labels }, () => `${counted(total, 'picture')} in ${folder}: ${Object.entries(labels).map(([label, count]) => `${label} ${count}`).join(', ')}`);
  }));
}

/** @returns pictures per label. @throws ReefError `capture.none_labelled` */
export async function exportCaptures(api: Client, folder: string, which: Which): Promise<Record<string, number>> {
  const items = await api.all<Capture>('/captures', queryOf({ ...which, label: which.label ?? '*' }));
  if (items.length === 0) throw new ReefError('capture.none_labelled', 'not_found', 'No captured picture that matches has a label. `reef capture ls --unlabelled` shows what waits, `reef capture label ID LABEL` says what it is.');
  const labels: Record<string, number> = {};
  for (const one of items) {
    const to = join(folder, one.label!);
    await mkdir(to, { recursive: true });
    const file = join(to, `${one.id}.jpg`);
    await api.download(`/captures/${one.id}/image`, file, one.digest).catch(async (error: unknown) => {
      await rm(file, { force: true });
      throw error;
    });
    labels[one.label!] = (labels[one.label!] ?? 0) + 1;
  }
  return labels;
}

function queryOf({ selector, device, workload, label, unlabelled }: Which): Record<string, string | undefined> {
  return { selector, device, workload, label: unlabelled ? '-' : label };
}
