import type { Command } from 'commander';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { ago, table, tone, type Output } from '../output.ts';

export interface JobView {
  id: string; version: string; model: string; state: string; createdAt: string; error: { code: string; message: string } | null;
  steps: { name: string; state: string; percent: number | null; etaS: number | null; message: string | null; startedAt: string | null; endedAt: string | null; error: { code: string; message: string } | null }[];
}

const settled = new Set(['SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT']);
const done = new Set(['SUCCEEDED', 'CACHED', 'SKIPPED', 'FAILED', 'CANCELED', 'TIMED_OUT']);

export function registerJobs(program: Command): void {
  const job = program.command('job').description('conversion and compile jobs');
  job.command('ls').description('newest first').option('--state <state>').action(action(async ({ output, client }, options: { state?: string }) => {
    const { items } = await (await client()).get<{ items: JobView[] }>('/jobs', { limit: 50, state: options.state });
    output.show(items, () => table(['job', 'version', 'state', 'created', 'error'], items.map((one) => [one.id, one.version, tone(one.state), ago(one.createdAt), one.error?.code])));
  }));
  job.command('show <id>').description('its steps').action(action(async ({ output, client }, id: string) => {
    const one = await (await client()).get<JobView>(`/jobs/${encodeURIComponent(id)}`);
    output.show(one, () => stepsText(one));
  }));
  job.command('watch <id>').description('follow it to its end').action(action(async ({ output, client }, id: string) => {
    const one = await followJob(await client(), output, id);
    return one.state === 'SUCCEEDED' ? 0 : 1;
  }));
  for (const verb of ['cancel', 'retry'] as const) {
    job.command(`${verb} <id>`).description(verb === 'cancel' ? 'stop it; nothing is published' : 'run again what did not succeed').action(action(async ({ output, client }, id: string) => {
      const one = await (await client()).post<JobView>(`/jobs/${encodeURIComponent(id)}/${verb}`);
      output.show(one, () => `${one.id} ${tone(one.state)}`);
    }));
  }
  job.command('log <id>').description('everything its steps said').action(action(async ({ output, client }, id: string) => {
    const { lines } = await (await client()).get<{ lines: { at: string; step: string; stream: string; text: string }[] }>(`/jobs/${encodeURIComponent(id)}/log`, { limit: 10_000 });
    output.show(lines, () => lines.map((line) => `${line.at.slice(11, 19)} ${line.step.padEnd(8)} ${line.text}`).join('\n'));
  }));
}

/** Prints each step as it ends, with a bar for the one that runs. */
export async function followJob(api: Client, output: Output, id: string): Promise<JobView> {
  const told = new Set<string>();
  let bar: ReturnType<Output['bar']> | undefined;
  let barOf = '';
  const job = await api.follow<JobView>(`subscription { jobChanged(id: ${JSON.stringify(id)}) { id } }`, async () => {
    const now = await api.get<JobView>(`/jobs/${encodeURIComponent(id)}`);
    for (const step of now.steps) {
      if (done.has(step.state) && !told.has(step.name)) {
        if (barOf === step.name) { bar?.done(); bar = undefined; barOf = ''; }
        told.add(step.name);
        output.step({ event: 'step', ...step }, `  ${step.name.padEnd(8)} ${tone(step.state)}  ${whatOf(step)}`);
      }
    }
    const running = now.steps.find((step) => step.state === 'RUNNING');
    if (running && barOf !== running.name) {
      bar?.done();
      bar = output.bar(running.name);
      barOf = running.name;
    }
    if (running) bar?.update(running.percent ?? 0, [running.message, running.etaS === null ? '' : `about ${Math.ceil(running.etaS)} s left`].filter(Boolean).join(', '));
    return settled.has(now.state) ? now : undefined;
  });
  bar?.done();
  return job;
}

function stepsText(job: JobView): string {
  return [`${job.version} ${tone(job.state)}`, table(['step', 'state', 'percent', 'what'], job.steps.map((step) => [step.name, tone(step.state), step.percent === null ? null : Math.round(step.percent), whatOf(step)]))].join('\n\n');
}

/** Why it ended as it did; of one that went well how long it took, and not where it was last. */
function whatOf(step: JobView['steps'][number]): string {
  if (step.error) return `${step.error.message} (${step.error.code})`;
  if (step.state === 'SUCCEEDED' && step.startedAt && step.endedAt) return `${((Date.parse(step.endedAt) - Date.parse(step.startedAt)) / 1_000).toFixed(1)} s`;
  return step.state === 'SUCCEEDED' || step.state === 'CACHED' ? '' : step.message ?? '';
}
