import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { segmentsOf } from '@reefkeeper/bundle';
import { cutModel, readModel } from '@reefkeeper/edgetpu';
import { Sketch } from '@reefkeeper/protocol';
import { buildFakeEdgeTpu, canBuildFakeEdgeTpu } from '../../../libs/inference/src/fake-edgetpu.fixture.ts';
import { compiledModel } from '../../../test/support/compiled.ts';
import { freshDevice } from '../../../test/support/device.ts';
import { colourFrames, eventually, type Fleet } from '../../../test/support/fleet.ts';
import { publishForTpu } from '../../../test/support/tpu-bundle.ts';
import { TpuHealth } from './tpu-health.ts';

const device = 'reef-p';
const window = { telemetryWindowS: 1 };
const [one, two, three] = [1, 2, 3].map((at) => ({ type: 'usb' as const, path: `/sys/bus/usb/devices/${at}-1` })) as [Usb, Usb, Usb];
type Usb = { type: 'usb'; path: string };

describe.skipIf(!canBuildFakeEdgeTpu)('a model in segments, each on an Edge TPU of its own (needs gcc)', () => {
  const tpus = canBuildFakeEdgeTpu ? buildFakeEdgeTpu() : { library: '', plug: () => {}, remove: () => {} };
  afterAll(() => tpus.remove());

  const made = freshDevice(device);
  let fleet: Fleet;
  let dir: string;
  beforeEach(async () => {
    ({ fleet, dir } = made);
    await colourFrames(join(dir, 'frames'));
  });

  async function start(env: Record<string, string> = {}): Promise<void> {
    await made.start({ FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '100', REEF_EDGETPU_LIBRARY: tpus.library, REEF_PROBE_MAX_S: '0.2', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off', ...env }, { health: new TpuHealth(), aftercare: { tickMs: 200 } });
  }
  const cut = (bundle: string, policy: object = {}) => ({ bundle, variant: 'edgetpu-14-x2', policy: { observeS: 0, ...policy } });
  const settled = (revision: number, workload = 'classifier') => fleet.reportWhere(({ workloads }) => workloads[workload]?.execution?.revision === revision && !['IN_PROGRESS', 'QUEUED'].includes(workloads[workload].execution.state), 60_000);
  const bench = async (id: string) => {
    await fleet.command(device, { id, kind: 'bench', args: { workload: 'classifier', runs: 20 } });
    return (await eventually(() => fleet.results.find((result) => result.id === id))).result as { p50Us: number; perSecond: number; segments?: { edgetpu: string; p50Us: number }[] };
  };

  it('answers as the whole model does, from real files of TensorFlow Lite', async () => {
    tpus.plug(one, two);
    await start();
    const parts = (model: Buffer): { digest: string; bytes: number }[] => {
      const read = readModel(model);
      return [{ to: 2 }, { from: 2 }].map((range) => fleet.put(Buffer.from(cutModel(read, range))));
    };
    // Its self-test is the whole model's: the same answers, to the step.
    const { bundle, manifest } = fleet.publish(1, { ballast: 3, alter: (whole) => {
      const [file, ...moreSegments] = parts(fleet.blobs.get(whole.variants[0]!.file.digest)!);
      return { ...whole, variants: [...whole.variants, { name: 'edgetpu-14-x2', kind: 'edgetpu', minRuntime: 14, file: file!, moreSegments }] };
    } });
    await fleet.want(device, 1, { classifier: cut(bundle) }, window);
    expect(await settled(1)).toMatchObject({ health: 'HEALTHY', workloads: { classifier: { running: bundle, variant: 'edgetpu-14-x2', backend: 'edgetpu', execution: { state: 'SUCCEEDED' } } } });
    expect((await fleet.reportWhere(({ workloads }) => !!workloads.classifier?.device)).workloads.classifier!.device).toBe(`${one.path}, ${two.path}`);
    const served = await eventually(() => fleet.windows.find(({ inferences, labelled }) => inferences > 10 && labelled > 10));
    expect(served).toMatchObject({ bundle, variant: 'edgetpu-14-x2', errors: {}, correct: served.labelled });
    const stored = await readdir(join(dir, 'store/blobs'));
    for (const { digest } of segmentsOf(manifest.variants[1]!)) expect(stored).toContain(digest);
    expect((await bench('b1')).segments).toMatchObject([{ edgetpu: one.path, p50Us: expect.any(Number) }, { edgetpu: two.path, p50Us: expect.any(Number) }]);
  });

  it('works on the next frame while the one before is in the next segment', async () => {
    tpus.plug({ ...one, mood: 'slow' }, { ...two, mood: 'slow' });
    await start();
    const { bundle } = publishForTpu(fleet, 1, { segments: [] });
    await fleet.want(device, 1, { classifier: cut(bundle) }, window);
    expect(await settled(1)).toMatchObject({ workloads: { classifier: { execution: { state: 'SUCCEEDED' } } } });
    // 100 ms a frame, a frame every 50 ms.
    const full = await eventually(() => fleet.windows.find(({ durationMs, inferences }) => durationMs > 500 && (1_000 * inferences) / durationMs > 14));
    expect(full).toMatchObject({ errors: {} });
    const p50Ms = (stage: string) => Sketch.fromBase64(full.latency[stage]!).quantile(0.5)! / 1_000;
    for (const segment of ['segment1', 'segment2']) expect(p50Ms(segment)).toBeGreaterThan(45);
    expect(p50Ms('invoke')).toBeGreaterThan(90);
  });

  it('shares Edge TPUs with others; without one of its own it falls back to the CPU, and comes back', async () => {
    tpus.plug(one, two);
    await start();
    const [pipeline, other] = [publishForTpu(fleet, 1, { segments: [], cpu: true }), publishForTpu(fleet, 2)];
    await fleet.want(device, 1, { classifier: cut(pipeline.bundle), other: { bundle: other.bundle, variant: 'edgetpu-14', policy: { observeS: 0 } } }, window);
    await settled(1);
    expect(await settled(1, 'other')).toMatchObject({ health: 'HEALTHY', workloads: { other: { backend: 'edgetpu' } } });
    tpus.plug(one);
    const ill = await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('NO_ACCELERATOR') && workloads.classifier?.backend === 'cpu', 60_000);
    expect(ill).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: pipeline.bundle, variant: 'cpu-int8' } } });
    await fleet.reportWhere(({ workloads }) => workloads.other?.device === one.path && workloads.classifier?.device === null);
    tpus.plug(one, three);
    const well = await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.backend === 'edgetpu' && workloads.classifier.device?.includes(three.path) === true, 60_000);
    expect(well.workloads).toMatchObject({ classifier: { variant: 'edgetpu-14-x2', execution: { revision: 1, state: 'SUCCEEDED' } }, other: { running: other.bundle } });
    expect(well.workloads.classifier!.device!.split(', ').sort()).toEqual([one.path, three.path]);
  });

  it('where an Edge TPU dies it is served whole from another, without the CPU, and back as a pipeline when it can: each question answered once', async () => {
    tpus.plug(one, two);
    const agent = await made.start({ REEF_EDGETPU_LIBRARY: tpus.library, REEF_PROBE_MAX_S: '0.2', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: '127.0.0.1:0', REEF_LOCAL_API_QUEUE: '512' }, { health: new TpuHealth({ failures: 1, withinMs: 600_000, firstOutMs: 1_500, maxOutMs: 1_500 }), aftercare: { tickMs: 200 } });
    const { bundle, golden } = publishForTpu(fleet, 1, { segments: [], whole: true });
    await fleet.want(device, 1, { classifier: cut(bundle, { cpuFallback: false }) }, window);
    expect(await settled(1)).toMatchObject({ health: 'HEALTHY', workloads: { classifier: { variant: 'edgetpu-14-x2' } } });

    const answers: { id: string; given: { status: number; id: string; variant: string | undefined; answer: string }[] }[] = [];
    const over = new AbortController();
    const asking = (async () => {
      const pending: Promise<void>[] = [];
      while (!over.signal.aborted) {
        const asked = { id: `${answers.length}`, given: [] as (typeof answers)[number]['given'] };
        answers.push(asked);
        pending.push((async () => {
          const response = await fetch(`${agent.localUrl}/v2/models/classifier/infer`, { method: 'POST', body: JSON.stringify({ id: asked.id, inputs: [{ name: 'picture', shape: [1, 8, 8, 3], datatype: 'UINT8', data: [...golden.input] }] }) });
          const body = await response.json() as { id: string; parameters?: { variant: string }; outputs?: { data: number[] }[] };
          asked.given.push({ status: response.status, id: body.id, variant: body.parameters?.variant, answer: body.outputs?.[0]?.data.join() ?? JSON.stringify(body) });
        })());
        await delay(30);
      }
      await Promise.all(pending);
    })();
    const wholeOn = ({ path }: Usb) => fleet.reportWhere(({ workloads }) => workloads.classifier?.variant === 'edgetpu-14' && workloads.classifier.device === path, 60_000);
    const pipelineOn = (...usbs: Usb[]) => fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.variant === 'edgetpu-14-x2' && usbs.every(({ path }) => workloads.classifier!.device?.includes(path)), 60_000);
    const answered = async (variant: string) => {
      const from = answers.length;
      await eventually(() => answers.slice(from).filter(({ given }) => given[0]?.variant === variant).length > 5);
    };
    const failedSince = (from: number) => answers.slice(from).filter(({ given }) => given.some(({ status }) => status !== 200));
    try {
      await answered('edgetpu-14-x2');
      expect(failedSince(0)).toEqual([]);
      // It opens, and does nothing any more: tried again and again, and left alone in between.
      tpus.plug(one, { ...two, mood: 'lost' });
      expect(await wholeOn(one)).toMatchObject({ health: 'DEGRADED', conditions: ['ACCELERATOR_FAILING', 'NO_ACCELERATOR'], workloads: { classifier: { running: bundle, backend: 'edgetpu', execution: { revision: 1, state: 'SUCCEEDED' } } } });
      await answered('edgetpu-14');
      const wholeFrom = answers.length;
      await delay(4_000);
      fleet.reports.length = 0;
      tpus.plug(one, two);
      await pipelineOn(one, two);
      await answered('edgetpu-14-x2');
      expect(failedSince(wholeFrom)).toEqual([]);
      // Pulled out, and another put in.
      tpus.plug(two);
      expect(await wholeOn(two)).toMatchObject({ health: 'DEGRADED', conditions: expect.arrayContaining(['NO_ACCELERATOR']) });
      await answered('edgetpu-14');
      const wholeAgainFrom = answers.length;
      tpus.plug(two, three);
      await pipelineOn(two, three);
      await answered('edgetpu-14-x2');
      expect(failedSince(wholeAgainFrom)).toEqual([]);
    } finally {
      over.abort();
      await asking;
    }
    expect(answers.filter(({ given }) => given.length !== 1)).toEqual([]);
    const good = answers.flatMap(({ id, given }) => given.filter(({ status }) => status === 200).map((one) => ({ asked: id, ...one })));
    expect(good.filter(({ asked, id }) => asked !== id)).toEqual([]);
    expect(new Set(good.map(({ answer }) => answer))).toEqual(new Set([[...golden.output].join()]));
    expect(good.map(({ variant }) => variant).filter((variant, at, all) => variant !== all[at - 1])).toEqual(['edgetpu-14-x2', 'edgetpu-14', 'edgetpu-14-x2', 'edgetpu-14', 'edgetpu-14-x2']);
    const counted = () => fleet.windows.reduce((sum, { inferences }) => sum + inferences, 0);
    await eventually(() => counted() === good.length, 10_000, () => `${counted()} counted, ${good.length} answered`);
  }, 120_000);

  it('one that gives wrong answers on the Edge TPUs that came is not served: what stands in goes on, says why, and looks for others', async () => {
    tpus.plug(one);
    await start();
    const { bundle } = publishForTpu(fleet, 1, { segments: [], whole: true });
    await fleet.want(device, 1, { classifier: cut(bundle) }, window);
    expect(await settled(1)).toMatchObject({ conditions: ['NO_ACCELERATOR'], workloads: { classifier: { variant: 'edgetpu-14' } } });
    tpus.plug(one, { ...two, mood: 'wrong' });
    expect(await fleet.reportWhere(({ conditions }) => conditions.join() === 'VARIANT_UNFIT', 60_000)).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: bundle, variant: 'edgetpu-14', device: one.path } } });
    tpus.plug(one, three);
    expect(await fleet.reportWhere(({ health, workloads }) => health === 'HEALTHY' && workloads.classifier?.variant === 'edgetpu-14-x2', 60_000)).toMatchObject({ conditions: [] });
  });

  it('is killed where one segment hangs, and started again as a whole', async () => {
    tpus.plug(one, two);
    await start({ REEF_HANG_FLOOR_MS: '200', REEF_HANG_CEILING_MS: '400' });
    const { bundle } = publishForTpu(fleet, 1, { segments: [] });
    await fleet.want(device, 1, { classifier: cut(bundle, { probationS: 0 }) }, window);
    await settled(1);
    await eventually(() => fleet.windows.some(({ inferences }) => inferences > 5));
    tpus.plug(one, { ...two, mood: 'hang' });
    await eventually(() => fleet.windows.some(({ errors }) => (errors['inference.hung'] ?? 0) > 0));
    tpus.plug(one, two);
    fleet.windows.length = 0;
    const again = await eventually(() => fleet.windows.find(({ inferences, errors }) => inferences > 5 && Object.keys(errors).length === 0), 60_000);
    expect(again).toMatchObject({ bundle, variant: 'edgetpu-14-x2' });
  });

  it('files that are no segments of one model are refused, and one Edge TPU is too few', async () => {
    tpus.plug(one);
    await start();
    const pipeline = publishForTpu(fleet, 1, { segments: [] });
    await fleet.want(device, 1, { classifier: cut(pipeline.bundle, { cpuFallback: false }) }, window);
    expect(await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('NO_ACCELERATOR') && workloads.classifier?.execution?.state === 'QUEUED')).toMatchObject({ workloads: { classifier: { running: null, execution: { failure: { code: 'no_accelerator' } } } } });
    tpus.plug(one, two);
    expect(await settled(1)).toMatchObject({ health: 'HEALTHY', workloads: { classifier: { running: pipeline.bundle } } });
    const strangers = publishForTpu(fleet, 2, { segments: [undefined, compiledModel({ input: { name: 'features', shape: [1, 8] } })] });
    await fleet.want(device, 2, { classifier: cut(strangers.bundle) }, window);
    expect(await settled(2)).toMatchObject({ workloads: { classifier: { running: pipeline.bundle, execution: { state: 'FAILED', failure: { code: 'inference.segments_differ', message: expect.stringContaining('shape 1x16 and 1x8') } } } } });
  });
});
