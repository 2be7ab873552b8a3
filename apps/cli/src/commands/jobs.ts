import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { ago, table, tone, type Output } from '../output.ts';
import type { Training, VertexTraining } from './train.ts';

export interface JobView {
  id: string; version: string; model: string; state: string; priority: number; createdAt: string; error: { code: string; message: string } | null; training: Training | VertexTraining | null;
  steps: { name: string; state: string; percent: number | null; etaS: number | null; message: string | null; startedAt: string | null; endedAt: string | null; error: { code: string; message: string } | null }[];
}

interface AttemptView {
  id: number; compilerVersion: string | null; flags: string[]; startedAt: string; durationMs: number | null; exitCode: number | null; signal: string | null; result: string | null; message: string | null; logDigest: string | null;
}

interface LogLine { n: number; at: string; step: string; stream: string; text: string }

const settled = new Set(['SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT']);
const done = new Set(['SUCCEEDED', 'CACHED', 'SKIPPED', 'FAILED', 'CANCELED', 'TIMED_OUT']);

export function registerJobs(program: Command): void {
  const job = program.command('job').description('conversion and compile jobs');
  job.command('ls').description('newest first').option('--state <state>').action(action(async ({ output, client }, options: { state?: string }) => {
    const { items } = await (await client()).get<{ items: JobView[] }>('/jobs', { limit: 50, state: options.state });
    output.show(items, () => table(['job', 'version', 'state', 'priority', 'created', 'cached', 'error'], items.map((one) => [
      one.id, one.version, tone(one.state), one.priority || null, ago(one.createdAt), one.steps.filter((step) => step.state === 'CACHED').length || null, one.error?.code,
    ])));
  }));
  job.command('show <id>').description('its steps').action(action(async ({ output, client }, id: string) => {
    const one = await (await client()).get<JobView>(`/jobs/${encodeURIComponent(id)}`);
    output.show(one, () => stepsText(one));
  }));
  job.command('watch <id>').description('follow it to its end').action(action(async ({ output, client }, id: string) => {
    const one = await followJob(await client(), output, id);
    return one.state === 'SUCCEEDED' ? 0 : 1;
  }));
  job.command('cancel <id>').description('stop it; nothing is published').action(action(async ({ output, client }, id: string) => {
    const one = await (await client()).post<JobView>(`/jobs/${encodeURIComponent(id)}/cancel`);
    output.show(one, () => `${one.id} ${tone(one.state)}`);
  }));
  job.command('retry <id>').description('run again what did not succeed').option('--force', 'run the compiler although it is known to fail on these bytes').action(action(async ({ output, client }, id: string, options: { force?: boolean }) => {
    const one = await (await client()).post<JobView>(`/jobs/${encodeURIComponent(id)}/retry`, { force: options.force ?? false });
    output.show(one, () => `${one.id} ${tone(one.state)}`);
  }));
  job.command('attempts <id>').description('every run of the compiler: flags, how it ended, and all it printed')
    .option('--output <number>', 'print what this run printed')
    .addHelpText('after', '\nExample:\n  reef job attempts JOB\n  reef job attempts JOB --output 2')
    .action(action(async ({ output, client }, id: string, options: { output?: string }) => {
      const api = await client();
      const { items } = await api.get<{ items: AttemptView[] }>(`/jobs/${encodeURIComponent(id)}/attempts`);
      if (options.output === undefined) {
        output.show(items, () => table(['run', 'started', 'took', 'exit', 'result', 'compiler', 'flags'], items.map((one, at) => [
          at + 1, ago(one.startedAt), one.durationMs === null ? null : `${(one.durationMs / 1_000).toFixed(1)} s`, one.signal ?? one.exitCode, one.result ?? 'no answer', one.compilerVersion, one.flags.join(' '),
        ])));
        return;
      }
      const chosen = items[Number(options.output) - 1];
      if (!chosen?.logDigest) throw new ReefError('attempt.missing', 'not_found', `The job has no output of a run ${options.output}; reef job attempts ${id} lists its ${items.length}.`);
      const text = await api.text(`/artifacts/${chosen.logDigest}`);
      output.show({ ...chosen, text }, () => text.trimEnd());
    }));
  job.command('log <id>').description('everything its steps said').option('-f, --follow', 'go on until the job has ended').action(action(async ({ output, client }, id: string, options: { follow?: boolean }) => {
    const api = await client();
    const linesAfter = async (after: number) => (await api.get<{ lines: LogLine[] }>(`/jobs/${encodeURIComponent(id)}/log`, { after, limit: 10_000 })).lines;
    if (!options.follow) {
      const lines = await linesAfter(0);
      output.show(lines, () => lines.map(lineText).join('\n'));
      return 0;
    }
    let last = 0;
    const ended = await api.follow<JobView>(`subscription { jobLog(id: ${JSON.stringify(id)}) { n } }`, async () => {
      // Read before the lines: what a job wrote before it ended is then seen in any case.
      const job = await api.get<JobView>(`/jobs/${encodeURIComponent(id)}`);
      for (let lines = await linesAfter(last); lines.length > 0; lines = await linesAfter(last)) {
        for (const line of lines) output.step({ event: 'line', ...line }, lineText(line));
        last = lines.at(-1)!.n;
      }
      return settled.has(job.state) ? job : undefined;
    });
    return ended.state === 'SUCCEEDED' ? 0 : 1;
  }));
}

function lineText({ at, step, text }: LogLine): string {
  return `${at.slice(11, 19)} ${step.padEnd(8)} ${text}`;
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
  return step.state === 'SUCCEEDED' ? '' : step.message ?? '';
}
