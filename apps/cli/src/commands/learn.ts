import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numberOf, numberWithin, numbersOf } from '../options.ts';
import { confusionTable, counted, facts, percent, type Output } from '../output.ts';
import type { DeviceView } from './devices.ts';
import { followBuild, uploadPath, type Uploaded, type VersionView } from './models.ts';
import { capturedImages } from './train.ts';
import { followRollout, type RolloutView } from './rollouts.ts';

interface LearnFlags {
  device?: string; workload: string; images?: string; captures?: string | true; method: string; holdout: string; seed: string; add?: boolean; minAccuracy: string; name?: string; hold?: boolean; ttl: string; rollout?: boolean;
  out?: string; test?: string; mean: string; std: string; resize: string;
}

/** What a device answers. */
interface Learnt { version: string; job: string; labels: string[]; images: number; accuracy: number; heldOut: boolean; confusion: number[][]; unreadable: string[]; unreadableCount: number }
interface SentCommand { id: string; state: string; answer: { result: Learnt; failure: { code: string; message: string } | null } | null }

const lookEveryMs = 1_000;

export function registerLearn(program: Command): void {
  const learn = program.command('learn').argument('[extractor]').argument('[images]')
    .description('new classes from a few labelled images, without a compiler: on a device, or here on an extractor.tflite')
    .option('--device <id>', 'learn on this device').option('-w, --workload <name>', 'inference slot whose version gives the embeddings', 'classifier').option('--images <folder>', 'a folder with a folder per class, or a .tar.gz of it')
    .option('--captures [selector]', 'instead of --images: the labelled pictures that this device captured for the workload, or those of all devices that match')
    .option('--method <name>', 'imprinting (one image per class is enough; keeps old classes) or softmax-regression (more images, more exact)', 'imprinting')
    .option('--holdout <share>', 'images that are never learnt from, 0 to 0.5', '0.2').option('--seed <number>', 'of the draw and the training', '1').option('--no-add', 'forget the classes that were learnt before')
    .option('--min-accuracy <share>', 'nothing comes of it where its own test gives less', '0')
    .option('--name <model>', 'model of the new version; that of the running one where absent').option('--no-hold', 'the version may be rolled out before anybody has confirmed it')
    .option('--rollout', 'confirm the version and bring it onto that device at once').option('--ttl <seconds>', 'how long the device has for it', '3600')
    .option('--out <folder>', 'offline: where the model goes').option('--test <folder>', 'offline: images that are only judged by, in a folder per class')
    .option('--mean <numbers>', 'offline: real = (pixel - mean) / std', '127.5').option('--std <numbers>', 'offline', '127.5').option('--resize <how>', 'offline: stretch or center-crop', 'center-crop')
    .addHelpText('after', '\nExamples:\n  reef learn --device cam-7 --workload classifier --images ./fruit --rollout\n  reef learn undo --device cam-7 --workload classifier\n  reef learn extractor_edgetpu.tflite ./fruit --out ./taught      (needs no controller; a compiled one needs --from-cpu)')
    .option('--from-cpu <file>', 'offline, for a compiled extractor: the file it was compiled from, which gives the embeddings here')
    .action(action(async ({ output, client }, extractor: string | undefined, images: string | undefined, flags: LearnFlags & { fromCpu?: string }) => {
      const options = { method: methodOf(flags.method), holdout: numberWithin('--holdout', flags.holdout, [0, 0.5]), seed: numberOf('--seed', flags.seed), add: flags.add !== false };
      if (!flags.device) {
        if (!extractor || !images || !flags.out) throw new ReefError('option.invalid', 'invalid', 'Say where to learn: --device and --images for a device, or an extractor, a folder of images and --out for this machine.');
        const { learnHere } = await import('../offline/learn.ts');
        if (flags.resize !== 'stretch' && flags.resize !== 'center-crop') throw new ReefError('option.invalid', 'invalid', `--resize takes stretch or center-crop, not "${flags.resize}".`);
        const bar = output.bar('learn');
        const made = await learnHere({ extractor, images, out: flags.out, test: flags.test, fromCpu: flags.fromCpu, ...options, mean: numbersOf('--mean', flags.mean), std: numbersOf('--std', flags.std), resize: flags.resize, onProgress: (share, step) => bar.update(share, step) }).finally(() => bar.done());
        output.show(made, () => `${resultText(made)}\n\n${made.file}\n${made.labelsFile}`);
        return made.accuracy < numberWithin('--min-accuracy', flags.minAccuracy, [0, 1]) ? 1 : 0;
      }
      const folder = flags.images ?? images ?? extractor;
      if ((folder === undefined) === (flags.captures === undefined)) throw new ReefError('option.invalid', 'invalid', 'Give the images: --images <folder>, with a folder per class in it, or --captures.');
      const api = await client();
      const sent = folder === undefined ? await capturedImages(api, output, typeof flags.captures === 'string' ? { selector: flags.captures } : { device: flags.device, workload: flags.workload }) : await uploadPath(api, output, folder, 'images');
      const learnt = await learnOnDevice(api, output, flags.device, sent, { ...options, workload: flags.workload, minAccuracy: numberWithin('--min-accuracy', flags.minAccuracy, [0, 1]), ...(flags.name ? { model: flags.name } : {}), hold: flags.hold !== false }, numberOf('--ttl', flags.ttl));
      output.step({ event: 'learnt', device: flags.device, ...learnt }, `\n${resultText(learnt)}\n`);
      const [model, number] = learnt.version.split('@') as [string, string];
      const { version } = await followBuild(api, output, { version: await api.get<VersionView>(`/models/${model}/versions/${number}`), job: await api.get(`/jobs/${learnt.job}`) }, true);
      if (version.state !== 'READY') return 1;
      if (!flags.rollout) {
        output.note(`To use it: ${version.hold ? `reef model confirm ${version.ref}, then ` : ''}reef rollout create ${version.ref} --workload ${flags.workload} --device ${flags.device}`);
        return 0;
      }
      if (version.hold) await api.post(`/models/${model}/versions/${number}/confirm`);
      return bring(api, output, version.ref, flags.workload, flags.device);
    }));

  // The options are those of `learn` itself: commander hands what stands behind `undo` to it first.
  learn.command('undo').description('back to the version that it was learnt on, from the device\'s own disk').usage('--device <id> [--workload <name>]')
    .action(action(async ({ output, client }) => {
      const { device, workload } = learn.opts<LearnFlags>();
      if (!device) throw new ReefError('option.invalid', 'invalid', 'Name the device: reef learn undo --device <id>.');
      return undo(await client(), output, device, workload);
    }));
}

/** Sends the images, waits for what the device makes of them, and shows where it is. */
async function learnOnDevice(api: Client, output: Output, device: string, images: Uploaded, args: Record<string, unknown> & { workload: string }, ttlS: number): Promise<Learnt> {
  const path = `/devices/${encodeURIComponent(device)}`;
  const { add, ...rest } = args;
  const sent = await api.post<SentCommand>(`${path}/commands`, { kind: 'learn', ttlS, args: { ...rest, add, images: { digest: images.digest, bytes: images.bytes } } });
  output.step({ event: 'sent', device, command: sent.id }, `${device} was asked to learn (command ${sent.id})`);
  const bar = output.bar('learn');
  let said = '';
  try {
    for (;;) {
      const now = await api.get<SentCommand>(`${path}/commands/${sent.id}`);
      if (now.state === 'FAILED') throw new ReefError(now.answer?.failure?.code ?? 'learn.failed', 'invalid', `${device} has not learnt it: ${now.answer?.failure?.message ?? 'without a reason'}`, { detail: { command: sent.id } });
      if (now.state === 'SUCCEEDED') return now.answer!.result;
      const { online, reported } = await api.get<DeviceView>(path);
      const at = reported?.workloads[args.workload]?.learning;
      const text = at?.command === sent.id ? at.step : online ? 'waiting' : 'the device is offline';
      if (at?.command === sent.id) bar.update(at.percent, at.step);
      if (text !== said) output.step({ event: 'progress', step: text, percent: at?.percent ?? null }, `  ${text}`);
      said = text;
      await sleep(lookEveryMs);
    }
  } finally {
    bar.done();
  }
}

async function bring(api: Client, output: Output, version: string, workload: string, device: string): Promise<number> {
  const made = await api.post<RolloutView>('/rollouts', { version, workload, devices: [device], waves: [{ percent: 100 }], name: `${version} for ${device}`, supersede: true });
  output.step({ event: 'rollout', rollout: made.id, version }, `rollout ${made.id}: ${version} onto ${device}`);
  return (await followRollout(api, output, made.id)).state === 'SUCCEEDED' ? 0 : 1;
}

/** Where the rollout was for this device alone it is rolled back; otherwise the parent comes as a rollout of its own, and others keep what they have. */
async function undo(api: Client, output: Output, device: string, workload: string): Promise<number> {
  const { reported, desired } = await api.get<DeviceView>(`/devices/${encodeURIComponent(device)}`);
  const bundle = reported?.workloads[workload]?.running ?? desired.workloads[workload]?.bundle;
  const rollouts = bundle ? await api.all<RolloutView>('/rollouts', { workload }) : [];
  const found = rollouts.find((one) => one.bundle === bundle);
  const [model, number] = found?.version.split('@') ?? [];
  const version = found && (await api.get<VersionView>(`/models/${model}/versions/${number}`));
  const parent = (version?.lineage?.learning as { parent: string } | undefined)?.parent;
  if (!found || !parent) throw new ReefError('learn.nothing_to_undo', 'conflict', `${workload} on ${device} runs ${found ? `${found.version}, which was not learnt on a device` : 'nothing that a rollout brought'}: there is nothing to undo.`);
  if (found.plan.eligible > 1 || !['RUNNING', 'PAUSED', 'SUCCEEDED', 'ABORTED'].includes(found.state)) return bring(api, output, parent, workload, device);
  await api.post(`/rollouts/${found.id}/rollback`);
  output.step({ event: 'undo', device, workload, version: found.version, parent }, `${found.version} goes back to ${parent} on ${device}`);
  return (await followRollout(api, output, found.id)).state === 'ROLLED_BACK' ? 0 : 1;
}

export function resultText({ labels, images, accuracy, heldOut, confusion, unreadable, unreadableCount }: Omit<Learnt, 'version' | 'job'>): string {
  const parts = [facts([
    ['classes', `${labels.length}: ${labels.slice(0, 8).join(', ')}${labels.length > 8 ? ', ...' : ''}`],
    [heldOut ? 'held-out accuracy' : 'accuracy', `${percent(accuracy)} of ${counted(images, 'image')}${heldOut ? '' : ' that it learnt from: too few to hold any out'}`],
  ])];
  parts.push(...confusionTable(labels, confusion));
  if (unreadableCount > 0) parts.push(`${counted(unreadableCount, 'image')} could not be read: ${unreadable.slice(0, 5).join(', ')}${unreadableCount > 5 ? ', ...' : ''}`);
  return parts.join('\n\n');
}

function methodOf(text: string): 'imprinting' | 'softmax-regression' {
  if (text === 'imprinting' || text === 'softmax-regression') return text;
  throw new ReefError('option.invalid', 'invalid', `--method takes imprinting or softmax-regression, not "${text}".`);
}
