import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeEach, expect, it } from 'vitest';
import { freshDevice } from '../../../test/support/device.ts';
import { eventually, type Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';

const device = 'reef-s';
const swaps = 20;
const perSecond = 30;
let fleet: Fleet;
let agent: Agent;

const made = freshDevice(device);
beforeEach(async () => {
  ({ fleet } = made);
  agent = await made.start({ REEF_LOCAL_API: '127.0.0.1:0', REEF_LOCAL_API_QUEUE: '512', REEF_DISK_RESERVE: '0' });
});

const settled = (revision: number) => fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.revision === revision && workloads.classifier.execution.state === 'SUCCEEDED');
const residentMiB = async (pid: number) => Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))![1]) / 1_024;
const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

it(`${swaps} swaps under ${perSecond} requests a second: each is answered once, by the old bundle or the new, and no child is left over`, async () => {
  const bundles = Array.from({ length: swaps + 1 }, (_, index) => fleet.publish(index + 1).bundle);
  const want = async (index: number) => {
    await fleet.want(device, index + 1, { classifier: { bundle: bundles[index]!, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await settled(index + 1);
  };
  await want(0);

  const answers = new Map<number, { status: number; id: string; bundle: string; body: unknown }[]>();
  const tensor = Buffer.alloc(32 * 32 * 3, Buffer.from([100, 156, 156]));
  const over = new AbortController();
  const asking = (async () => {
    const pending: Promise<void>[] = [];
    const begin = performance.now();
    for (let number = 0; !over.signal.aborted; number += 1) {
      answers.set(number, []);
      pending.push((async () => {
        const header = Buffer.from(JSON.stringify({ id: `${number}`, inputs: [{ name: 'picture', shape: [1, 32, 32, 3], datatype: 'INT8', parameters: { binary_data_size: tensor.length } }] }));
        const response = await fetch(`${agent.localUrl}/v2/models/classifier/infer`, { method: 'POST', body: Buffer.concat([header, tensor]), headers: { 'inference-header-content-length': `${header.length}` } });
        const body = await response.json() as { id: string; parameters: { bundle: string } };
        answers.get(number)!.push({ status: response.status, id: body.id, bundle: body.parameters?.bundle, body });
      })());
      await delay(Math.max(0, begin + ((number + 1) * 1_000) / perSecond - performance.now()));
    }
    await Promise.all(pending);
  })();

  const pids: number[] = [];
  const resident: number[] = [];
  try {
    for (let index = 1; index <= swaps; index += 1) {
      await want(index);
      const pid = agent.children.classifier!;
      pids.push(pid);
      await delay(200);
      resident.push(await residentMiB(pid));
    }
  } finally {
    over.abort();
    await asking;
  }

  const all = [...answers].map(([number, given]) => ({ number, given }));
  expect(all.length).toBeGreaterThan(swaps * 5);
  expect(all.filter(({ given }) => given.length !== 1)).toEqual([]);
  expect(all.filter(({ given }) => given[0]!.status !== 200).map(({ given }) => given[0]!.body)).toEqual([]);
  expect(all.filter(({ number, given }) => given[0]!.id !== `${number}`)).toEqual([]);
  // Never back to an older one, and every swap took effect while requests came in.
  const order = all.map(({ given }) => bundles.indexOf(given[0]!.bundle));
  expect(order).toEqual(order.toSorted((a, b) => a - b));
  expect(new Set(order).size).toBe(swaps + 1);

  // The old models went with their processes; the twentieth is no bigger than the first (a quarter is what garbage collection may vary by).
  expect(new Set(pids).size).toBe(swaps);
  expect(pids.slice(0, -1).filter(alive)).toEqual([]);
  expect(Math.max(...resident.slice(-5))).toBeLessThan(1.25 * Math.max(...resident.slice(0, 5)));

  // Telemetry counts each answer once, for the bundle that gave it.
  const counted = () => bundles.map((bundle) => fleet.windows.filter((window) => window.bundle === bundle).reduce((sum, { inferences }) => sum + inferences, 0));
  const given = bundles.map((_, index) => order.filter((at) => at === index).length);
  await eventually(() => counted().join() === given.join(), 10_000, () => `${counted().join()} instead of ${given.join()}`);
  expect(fleet.windows.flatMap(({ errors }) => Object.keys(errors))).toEqual([]);
// On a quiet machine a quarter of a minute; each swap starts a process, and machines are not always quiet.
}, 400_000);
