// A real agent with a real fleet around it, idle with MobileNet v2: writes what its processes hold as JSON. `agent-memory.bench.mjs` judges.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeGolden } from '@reefkeeper/bundle';
import { Interpreter } from '@reefkeeper/inference';
import { Fleet } from '../support/fleet.ts';
import { mobilenetV2 } from './mobilenet.ts';

const [main, flags, settleS] = [process.argv[2]!, JSON.parse(process.argv[3]!) as string[], Number(process.argv[4])];
const fleet = await Fleet.open();
const dir = mkdtempSync(join(tmpdir(), 'reef-memory-'));
let agent: ChildProcess | undefined;
try {
  const model = mobilenetV2();
  const { bundle } = publish(model);
  const run = (...args: string[]) => spawn(process.execPath, [...flags, main, ...args], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(PATH|MALLOC_|UV_|NODE_OPTIONS)/.test(name))), LOG_LEVEL: 'error', REEF_LOCAL_API: '127.0.0.1:0', REEF_DISK_RESERVE: '0' } });
  await once(run('enrol', '--gateway', fleet.gatewayUrl, '--token', fleet.token, '--id', 'memory', '--dir', dir), 'exit');
  agent = run('run', '--dir', dir);
  await once(agent.stdout!, 'data');
  await fleet.want('memory', 1, { classifier: { bundle, policy: { observeS: 0 } } });
  const end = await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.state === 'SUCCEEDED' || workloads.classifier?.execution?.state === 'FAILED', 120_000);
  if (end.workloads.classifier?.execution?.failure) throw new Error(JSON.stringify(end.workloads.classifier.execution.failure));
  await delay(settleS * 1_000);
  const samples = [];
  for (let at = 0; at < 10; at += 1) {
    samples.push(tree(agent.pid!).map(heldBy));
    await delay(500);
  }
  process.stdout.write(`${JSON.stringify({ modelBytes: model.length, samples })}\n`);
} finally {
  if (agent && agent.exitCode === null) {
    agent.kill('SIGTERM');
    await once(agent, 'exit');
  }
  await fleet.close();
  rmSync(dir, { recursive: true, force: true });
}
process.exit(0);

function publish(model: Buffer) {
  const interpreter = Interpreter.load(model);
  const spec = ({ name, shape, scale, zeroPoint }: Interpreter['inputs'][number]) => ({ name, shape, dtype: 'int8' as const, scale, zeroPoint });
  const input = Buffer.alloc(interpreter.inputs[0]!.bytes, 3);
  const golden = encodeGolden({ cases: [{ input: [input], expect: { top1: null, outputs: interpreter.run([input]).outputs, dtypes: ['int8'], tolerance: { maxStepDiff: 16 } } }] });
  const [inputs, outputs] = [interpreter.inputs.map(spec), interpreter.outputs.map(spec)];
  interpreter.close();
  return fleet.publish(1, {
    alter: (manifest) => ({
      ...manifest, labels: null, outputs, inputs: inputs.map((one) => ({ ...one, preprocessing: { kind: 'image' as const, width: 224, height: 224, channels: 3 as const, resize: 'stretch' as const, mean: [127.5], std: [127.5] } })),
      variants: [{ ...manifest.variants[0]!, file: fleet.put(model) }], golden: { ...fleet.put(golden), cases: 1 },
    }),
  });
}

function tree(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number));
  return [pid, ...children.flatMap(tree)];
}

function heldBy(pid: number) {
  const roll = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(roll)![1]) / 1_024;
  const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').filter((word) => word.endsWith('.js') || word.endsWith('.mjs') || word.endsWith('.ts'));
  return { pid, what: command.some((word) => word.includes('child-main')) ? 'inference child' : 'supervisor', rss: mib('Rss'), pss: mib('Pss'), anonymous: mib('Anonymous') };
}
