import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { segmentsOf, unverifiedManifest } from '@reefkeeper/bundle';
import { compiledModel } from '../../../test/support/compiled.ts';
import { genericFailure, goodReport, isAlive, standInCompiler, type CompilerAct, type StandIn } from '../../../test/support/stand-in-compiler.ts';
import { findCompiler } from './compiler.ts';
import { openPipelineWorld, smallNet, type PipelineWorld } from './pipeline-world.fixture.ts';

let world: PipelineWorld;
let compilers = 0;

beforeAll(async () => { world = await openPipelineWorld(); });
afterEach(async () => { await world.stop(); });
afterAll(async () => { await world.close(); });

const fails: CompilerAct = { does: 'fail', stdout: genericFailure, exitCode: 1 };
const succeeds = (shape: Parameters<typeof compiledModel>[0] = {}): CompilerAct => ({ does: 'succeed', outputs: compiledModel(shape) });

/** One worker with a compiler that behaves by script. */
async function compiler(...acts: CompilerAct[]): Promise<StandIn> {
  compilers += 1;
  const made = await standInCompiler(world.dir, `edgetpu_compiler-${compilers}`, acts);
  world.start(made.path);
  return made;
}

async function until(what: () => boolean | Promise<boolean>, limitMs = 15_000): Promise<void> {
  for (const end = Date.now() + limitMs; !(await what()); await sleep(20)) if (Date.now() > end) throw new Error(`never came: ${what}`);
}

describe('case 1: a compiler without a reason', () => {
  it('fails the job with a stable code and everything that was said, and is not asked the same again by itself', async () => {
    const stand = await compiler(fails, fails, { ...fails, stderr: 'the very last words\n' }, succeeds());
    const id = await world.push('silent', smallNet(5));
    const failed = await world.settled(id);
    expect(failed).toMatchObject({ state: 'FAILED', error: { code: 'compile.internal', step: 'compile' } });
    expect(await world.registry.versionByRef('silent@1')).toMatchObject({ state: 'FAILED', bundleDigest: null, variants: [] });

    const attempts = await world.jobs.attempts(id);
    expect(attempts).toHaveLength(3);
    expect(stand.runs()).toHaveLength(3);
    const { output } = failed.steps.find((step) => step.name === 'convert')! as { output: { model: { digest: string } } };
    for (const one of attempts) {
      expect(one).toMatchObject({ result: 'compile.internal', exitCode: 1, signal: null, compilerVersion: '16.0.384591198', inputs: [output.model.digest], outputs: [] });
      expect(one.flags).toEqual(['--show_operations', '--timeout_sec', '600']);
      expect(one.durationMs).toBeGreaterThan(0);
    }
    expect(attempts.map(({ final }) => final)).toEqual([false, false, true]);
    const log = await world.text(attempts[2]!.logDigest!);
    expect(log).toContain(genericFailure);
    expect(log).toContain('the very last words');
    expect(log).toContain('exit code 1');
    expect(await world.registry.artifact(attempts[2]!.logDigest!)).toMatchObject({ role: 'compile-log', mediaType: expect.stringContaining('text/plain') as string });
    // Equal words are stored once.
    expect(attempts[0]!.logDigest).toBe(attempts[1]!.logDigest);

    // Neither a retry nor another version of the same bytes runs the compiler again.
    await world.jobs.retry(id);
    const again = await world.settled(id);
    expect(again).toMatchObject({ state: 'FAILED', error: { code: 'compile.internal', message: expect.stringMatching(/not run again.*--force/s) as string, detail: { known: true } } });
    const other = await world.settled(await world.push('silent-too', smallNet(5)));
    expect(other.error).toMatchObject({ code: 'compile.internal', detail: { known: true, job: id } });
    expect(stand.runs()).toHaveLength(3);
    // Other flags are another question.
    const flagged = await world.settled(await world.push('silent-flagged', smallNet(5), { compile: { searchDelegate: true } }));
    expect(flagged.state).toBe('SUCCEEDED');
    expect(stand.runs()).toHaveLength(4);

    // A forced retry asks again.
    await world.jobs.retry(id, { force: true });
    expect((await world.settled(id)).state).toBe('SUCCEEDED');
    expect(stand.runs().length).toBeGreaterThan(4);
    // And what it found holds for the next one.
    expect((await world.settled(await world.push('silent-after', smallNet(5)))).state).toBe('SUCCEEDED');
  });

  it.each<[string, CompilerAct, string, number]>([
    ['that says no is believed at once', { does: 'fail', stdout: genericFailure.replace('Compilation child', 'Invalid model: model.tflite\nModel not quantized\nCompilation child'), exitCode: 1 }, 'compile.not_quantized', 1],
    ['that crashes is tried again', { does: 'fail', stdout: 'Edge TPU Compiler version 16.0.384591198\n', stderr: 'Segmentation fault\n', exitCode: 139 }, 'compile.crashed', 3],
    ['whose exit code is 0 but that leaves no file', { does: 'succeed', outputs: [], report: goodReport(1) }, 'compile.output_missing', 3],
    ['whose file is damaged', { does: 'succeed', outputs: compiledModel().subarray(0, 900), report: goodReport(1) }, 'compile.output_missing', 3],
    ['that does not say that it succeeded', { does: 'succeed', outputs: compiledModel(), report: goodReport(1).replace('Compilation succeeded! ', '') }, 'compile.incomplete', 3],
    ['that maps nothing', { does: 'succeed', outputs: compiledModel(), report: goodReport(1).replace('subgraphs: 1', 'subgraphs: 0') }, 'compile.nothing_mapped', 1],
    ['whose file holds nothing for the chip', { does: 'succeed', outputs: Buffer.from(smallNet()), report: goodReport(1) }, 'compile.nothing_mapped', 1],
  ])('one %s', async (what, act, code, runs) => {
    const stand = await compiler(act);
    // Other bytes each time: what one of them learnt must not answer for the next.
    const job = await world.settled(await world.push('refused', smallNet(20 + compilers), { notes: what }));
    expect(job).toMatchObject({ state: 'FAILED', error: { code, step: 'compile' } });
    expect(stand.runs()).toHaveLength(runs);
  });

  it('a failure of the machine is not held against the model', async () => {
    const stand = await compiler({ does: 'fail', exitCode: 137 }, { does: 'fail', exitCode: 137 }, { does: 'fail', exitCode: 137 }, succeeds());
    const id = await world.push('killed', smallNet(6));
    expect(await world.settled(id)).toMatchObject({ state: 'FAILED', error: { code: 'compile.killed' } });
    await world.jobs.retry(id);
    expect((await world.settled(id)).state).toBe('SUCCEEDED');
    expect((await world.registry.versionByRef('killed')).hold).toBeNull();
    expect(stand.runs()).toHaveLength(4);
  });

  it('-m with an old runtime: a file for a newer one is none', async () => {
    const stand = await compiler(succeeds({ minRuntime: 14 }));
    const job = await world.settled(await world.push('ignored', smallNet(7), { runtimes: [12] }));
    expect(job.error).toMatchObject({ code: 'compile.runtime_ignored' });
    expect(stand.runs()[0]).toEqual(expect.arrayContaining(['--min_runtime_version', '12']));
  });
});

describe('case 2: a compiler that flips', () => {
  it('succeeds within the allowed attempts; equal bytes from a second compile clear it', async () => {
    const stand = await compiler(fails, fails, succeeds());
    const id = await world.push('flips', smallNet(8));
    expect(await world.settled(id)).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect((await world.jobs.attempts(id)).map(({ result }) => result)).toEqual(['compile.internal', 'compile.internal', 'ok', 'ok']);
    expect(stand.runs()).toHaveLength(4);
    expect(await world.registry.versionByRef('flips')).toMatchObject({ state: 'READY', hold: null, variants: [{ name: 'cpu-int8' }, { name: 'edgetpu-14' }] });
  });

  it.each<[string, CompilerAct, RegExp]>([
    ['other bytes', succeeds({ token: 0x7777n }), /other bytes/],
    ['a failure', fails, /failed again/],
  ])('a second compile that gives %s marks it until a person confirms', async (_what, second, why) => {
    await compiler(fails, fails, succeeds(), second);
    const id = await world.push('unsure', smallNet(30 + compilers));
    expect(await world.settled(id)).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(await world.jobs.attempts(id)).toHaveLength(4);
    const version = await world.registry.versionByRef('unsure');
    expect(version).toMatchObject({ state: 'READY', hold: { code: 'compile.nondeterministic', message: expect.stringMatching(why) as string, variants: ['edgetpu-14'] }, confirmedAt: null });
    expect(version.variants[1]!.details).toMatchObject({ nondeterministic: expect.stringMatching(why) as string, minRuntime: 14 });

    const confirmed = await world.registry.confirm(`unsure@${version.version}`, 'anna');
    expect(confirmed).toMatchObject({ confirmedBy: 'anna', confirmedAt: expect.any(Date) as Date });
    expect(await world.registry.confirm(`unsure@${version.version}`, 'ben')).toMatchObject({ confirmedBy: 'anna', confirmedAt: confirmed.confirmedAt });
  });

  it('a marked result is not taken from the cache: the next build may clear it', async () => {
    await compiler(fails, succeeds({ token: 1n }), succeeds({ token: 2n }), succeeds({ token: 1n }));
    expect((await world.settled(await world.push('cleared', smallNet(9)))).state).toBe('SUCCEEDED');
    expect((await world.registry.versionByRef('cleared@1')).hold).not.toBeNull();
    const second = await world.settled(await world.push('cleared', smallNet(9)));
    expect(second.steps.find((step) => step.name === 'compile')!.state).toBe('SUCCEEDED');
    expect((await world.registry.versionByRef('cleared@2')).hold).toBeNull();
    await expect(world.registry.confirm('cleared@2', 'anna')).rejects.toMatchObject({ code: 'version.not_held' });
  });
});

describe('case 3: a compiler that hangs, with a child', () => {
  it('ends as a group at the limit; the job is TIMED_OUT and the slot is free at once', async () => {
    const stand = await compiler({ does: 'hang' }, succeeds());
    const id = await world.push('hangs', smallNet(10), { compile: { timeoutS: 1 } });
    const next = await world.push('next', smallNet(11));
    await until(() => stand.hanging().length === 2);
    expect(stand.hanging().map(isAlive)).toEqual([true, true]);
    const job = await world.settled(id);
    expect(job).toMatchObject({ state: 'TIMED_OUT', error: { code: 'compile.timed_out', step: 'compile', message: expect.stringContaining('--compile-timeout') as string } });
    expect(job.steps.find((step) => step.name === 'compile')!.state).toBe('TIMED_OUT');
    await until(() => !stand.hanging().some(isAlive), 2_000);
    expect(await world.jobs.attempts(id)).toMatchObject([{ result: 'compile.timed_out', final: false }]);
    expect((await world.registry.versionByRef('hangs@1')).state).toBe('FAILED');
    // The one slot is the next job's: its steps need far less than the 5 s that they may wait.
    const after = await world.settled(next);
    expect(after.state).toBe('SUCCEEDED');
    const compiling = after.steps.find((step) => step.name === 'compile')!;
    expect(compiling.startedAt!.getTime() - job.endedAt!.getTime()).toBeLessThan(5_000);
  });

  it('dies with all it started when the job is canceled', async () => {
    const stand = await compiler({ does: 'hang' });
    const id = await world.push('endless', smallNet(12));
    await until(() => stand.hanging().length === 2);
    const asked = Date.now();
    await world.jobs.cancel(id);
    expect((await world.settled(id)).state).toBe('CANCELED');
    expect(Date.now() - asked).toBeLessThan(2_000);
    await until(() => !stand.hanging().some(isAlive), 2_000);
    expect(await world.jobs.attempts(id)).toMatchObject([{ result: 'stopped', final: false }]);
  });

  it('does not outlive a worker that stops, and the job is taken up by the next', async () => {
    const stand = await compiler({ does: 'hang' }, succeeds());
    const id = await world.push('restarted', smallNet(13));
    await until(() => stand.hanging().length === 2);
    await world.stop();
    await until(() => !stand.hanging().some(isAlive), 2_000);
    expect((await world.jobs.find(id)).owner).toBeNull();
    world.start(stand.path);
    await world.database.db.query("UPDATE jobs SET changed_at = now() - interval '1 minute' WHERE id = $1", [id]);
    await world.jobs.sweep();
    expect((await world.settled(id)).state).toBe('SUCCEEDED');
    expect((await world.jobs.attempts(id)).map(({ result }) => result)).toEqual(['stopped', 'ok']);
    expect(await readdir(join(world.dir, 'work'))).toEqual([]);
  });

  it('does not outlive a worker that is killed', async () => {
    const stand = await standInCompiler(world.dir, 'orphan', [{ does: 'hang' }]);
    const cwd = join(world.dir, 'killed-worker');
    await mkdir(cwd);
    const program = `import { runGroup } from ${JSON.stringify(join(import.meta.dirname, 'process-group.ts'))};
await runGroup([${JSON.stringify(stand.path)}, 'model.tflite'], { cwd: ${JSON.stringify(cwd)}, signal: new AbortController().signal, timeoutMs: 600_000 });`;
    await writeFile(join(world.dir, 'worker.mts'), program);
    const worker = spawn(process.execPath, [join(world.dir, 'worker.mts')], { stdio: 'inherit' });
    await until(() => stand.hanging().length === 2 || worker.exitCode !== null);
    expect(stand.hanging().map(isAlive)).toEqual([true, true]);
    worker.kill('SIGKILL');
    await once(worker, 'exit');
    await until(() => !stand.hanging().some(isAlive), 5_000);
  });
});

describe('several runtimes', () => {
  const tooLarge: CompilerAct = { does: 'fail', stdout: genericFailure.replace('Compilation child', 'Compilation failed: Compilation failed due to large activation tensors in model.\nCompilation child'), exitCode: 1 };

  it('become a variant each; one that fails does not sink the others, and is listed with its reason', async () => {
    const stand = await compiler(succeeds({ minRuntime: 13 }), tooLarge, succeeds({ minRuntime: 13 }));
    expect(await world.settled(await world.push('fan', smallNet(15), { runtimes: [13, 14] }))).toMatchObject({ state: 'SUCCEEDED' });
    const version = await world.registry.versionByRef('fan');
    expect(version.variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-13']);
    expect(version.failedVariants).toMatchObject([{ name: 'edgetpu-14', minRuntime: 14, code: 'compile.large_activations', message: expect.any(String) as string }]);
    expect(stand.runs().map((args) => args[args.indexOf('--min_runtime_version') + 1])).toEqual(['13', '14']);
    // What is missing is wanted again by the next build, what is known to fail is not run.
    expect(await world.settled(await world.push('fan', smallNet(15), { runtimes: [13, 14] }))).toMatchObject({ state: 'SUCCEEDED' });
    expect((await world.registry.versionByRef('fan@2')).failedVariants).toMatchObject([{ name: 'edgetpu-14', message: expect.stringContaining('not run again') as string }]);
    expect(stand.runs()).toHaveLength(3);
  });

  it('that all fail are a failed job, and nothing is published', async () => {
    await compiler(tooLarge);
    expect(await world.settled(await world.push('sunk', smallNet(16), { runtimes: [13, 14] }))).toMatchObject({ state: 'FAILED', error: { code: 'compile.large_activations' } });
    expect(await world.registry.versionByRef('sunk@1')).toMatchObject({ state: 'FAILED', variants: [], failedVariants: [] });
  });
});

describe('flags', () => {
  it('segments are a variant for devices with as many Edge TPUs, which may have them', async () => {
    const segments = [compiledModel({ parameterBytes: 1_000 }), compiledModel({ parameterBytes: 2_000 })];
    const stand = await compiler({ does: 'succeed', outputs: segments });
    expect(await world.settled(await world.push('cut', smallNet(17), { compile: { numSegments: 2 } }))).toMatchObject({ state: 'SUCCEEDED' });
    const version = await world.registry.versionByRef('cut');
    expect(version.variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-14', 'edgetpu-14-x2']);
    const { variants } = unverifiedManifest(JSON.parse((await world.registry.envelopeOf(version.bundleDigest!)).toString('utf8')));
    expect(segmentsOf(variants.find(({ name }) => name === 'edgetpu-14-x2')!).map(({ bytes }) => bytes)).toEqual(segments.map(({ length }) => length));
    expect(version.pipelines).toMatchObject([{ minRuntime: 14, nondeterministic: null, segments: [{ bytes: segments[0]!.length, details: { onChipBytes: 1_000 } }, { details: { onChipBytes: 2_000 } }] }]);
    expect(version.pipelines[0]!.segments[0]!.details.tokens).toEqual(version.pipelines[0]!.segments[1]!.details.tokens);
    for (const { digest } of version.pipelines[0]!.segments) expect([await world.objects.has(digest), await world.registry.openToDevices(digest)]).toEqual([true, true]);
    expect(stand.runs()[0]).toEqual(expect.arrayContaining(['--num_segments', '2']));
    // Compiled whole as well: not every device has two.
    expect(stand.runs()[1]).not.toContain('--num_segments');
    expect(version.variants.find(({ name }) => name === 'edgetpu-14-x2')).toMatchObject({ bytes: segments[0]!.length, details: { onChipBytes: 3_000, moreSegments: [{ bytes: segments[1]!.length }] } });
  });

  it('a missing segment is no success', async () => {
    await compiler({ does: 'succeed', outputs: [compiledModel()] });
    expect(await world.settled(await world.push('half-cut', smallNet(18), { compile: { numSegments: 2 } }))).toMatchObject({ state: 'SUCCEEDED' });
    expect(await world.registry.versionByRef('half-cut')).toMatchObject({ pipelines: [], failedVariants: [{ name: 'edgetpu-x2', code: 'compile.output_missing' }] });
  });

  it('reach the command line', async () => {
    const stand = await compiler(succeeds());
    const compile = { intermediateTensors: ['a/b', 'c'], multipleSubgraphs: true, searchDelegate: true, delegateSearchStep: 3, timeoutS: 77 };
    expect(await world.settled(await world.push('flags', smallNet(19), { compile }))).toMatchObject({ state: 'SUCCEEDED' });
    expect(stand.runs()[0]!.slice(0, -3)).toEqual(['--show_operations', '--intermediate_tensors', 'a/b,c', '--enable_multiple_subgraphs', '--search_delegate', '--delegate_search_step', '3', '--timeout_sec', '77']);
  });
});

describe('co-compilation', () => {
  it('gives new versions files of one run, whichever job comes first', async () => {
    world.start();
    for (const [model, classes] of [['eyes', 41], ['ears', 42]] as const) expect(await world.settled(await world.push(model, smallNet(classes)))).toMatchObject({ state: 'SUCCEEDED' });
    await world.stop();
    const pair = (token: bigint): CompilerAct => ({ does: 'succeed', outputs: [compiledModel({ token, classes: 41 }), compiledModel({ token, classes: 42 })] });
    // Were each job to take what its own run made, their tokens would differ.
    const stand = await standInCompiler(world.dir, 'together', [pair(0xaaan), pair(0xbbbn)]);
    world.start(stand.path, 2);
    const made = await world.jobs.cocompile(['eyes@1', 'ears@1'], { runtime: 14 }, 'anna');
    expect(made.map(({ version }) => `${version.model}@${version.version}`)).toEqual(['eyes@2', 'ears@2']);
    for (const { job } of made) expect(await world.settled(job.id)).toMatchObject({ state: 'SUCCEEDED', error: null });
    const [eyes, ears] = [await world.registry.versionByRef('eyes@2'), await world.registry.versionByRef('ears@2')];
    const tpu = (version: typeof eyes) => version.variants.find(({ name }) => name === 'edgetpu-14')!;
    expect(tpu(eyes).details!.tokens).toEqual(tpu(ears).details!.tokens);
    expect(tpu(eyes).digest).not.toBe(tpu(ears).digest);
    expect(eyes.variants[0]!.digest).toBe((await world.registry.versionByRef('eyes@1')).variants[0]!.digest);
    expect(stand.runs()[0]!.slice(-2).map((path) => path.split('/').at(-1))).toEqual(['model-0.tflite', 'model-1.tflite']);
    // The same again compiles nothing.
    const runs = stand.runs().length;
    for (const { job } of await world.jobs.cocompile(['eyes@1', 'ears@1'], { runtime: 14 })) expect((await world.settled(job.id)).state).toBe('SUCCEEDED');
    expect(stand.runs()).toHaveLength(runs);
    await expect(world.jobs.cocompile(['eyes@1', 'eyes@2'])).rejects.toMatchObject({ code: 'cocompile.version_unusable' });
    await expect(world.jobs.cocompile(['eyes@1', 'nose@1'])).rejects.toMatchObject({ code: 'version.missing' });
  });

  it('is no success when the files do not share the chip', async () => {
    world.start();
    for (const [model, classes] of [['left', 43], ['right', 44]] as const) await world.settled(await world.push(model, smallNet(classes)));
    await world.stop();
    await compiler({ does: 'succeed', outputs: [compiledModel({ token: 1n }), compiledModel({ token: 2n })] });
    for (const { job } of await world.jobs.cocompile(['left', 'right'])) expect(await world.settled(job.id)).toMatchObject({ state: 'FAILED', error: { code: 'compile.not_together' } });
  });
});

describe('the command', () => {
  it('is a path, words, or a JSON list of words', async () => {
    const tool = join(world.dir, 'with space', 'tool');
    await mkdir(join(world.dir, 'with space'));
    await writeFile(tool, '#!/bin/sh\n', { mode: 0o755 });
    expect(await findCompiler(tool)).toEqual([tool]);
    expect(await findCompiler('sh -c  true')).toEqual([expect.stringMatching(/\/sh$/), '-c', 'true']);
    expect(await findCompiler(JSON.stringify([tool, 'a b', '{dir}']))).toEqual([tool, 'a b', '{dir}']);
    expect(await findCompiler(undefined, '')).toBeNull();
    for (const wrong of ['/nowhere/edgetpu_compiler', '[1]', '[', `${world.dir} x`]) await expect(findCompiler(wrong)).rejects.toMatchObject({ code: 'compile.not_started' });
  });

  it('may have arguments, in which the working folder stands', async () => {
    const stand = await standInCompiler(world.dir, 'contained', [succeeds()]);
    // As docker would: it sees only the folder that it is given.
    const container = join(world.dir, 'container');
    await writeFile(container, `#!/bin/sh\ntest "$1" = run && test "$2" = -v || exit 9\ncd "\${3%%:*}" || exit 9\necho "$3 $4" >> ${container}.seen\nshift 4\nexec "$@"\n`, { mode: 0o755 });
    world.start(`${container} run -v {dir}:{dir} {uid}:{gid} ${stand.path}`);
    expect((await world.settled(await world.push('contained', smallNet(14)))).state).toBe('SUCCEEDED');
    const [args] = stand.runs();
    const dir = args![args!.indexOf('--out_dir') + 1]!;
    expect(args!.at(-1)).toBe(join(dir, 'model.tflite'));
    expect(existsSync(`${container}.seen`)).toBe(true);
  });
});
