import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Sketch } from '@reefkeeper/protocol';
import { joined, quickComeback, startAgent } from '../../../test/support/device.ts';
import { colourFrames, eventually, Fleet } from '../../../test/support/fleet.ts';
import type { Agent, Tuning } from './agent.ts';

const device = 'reef-a';
const soon = { policy: { observeS: 0.3 } };
let fleet: Fleet;
let dir: string;
let agent: Agent | undefined;

beforeEach(async () => {
  fleet = await Fleet.open();
  dir = await mkdtemp(join(tmpdir(), 'reef-agent-'));
  await colourFrames(join(dir, 'frames'));
  await joined(fleet, dir, device);
});
afterEach(async () => {
  await agent?.stop();
  agent = undefined;
  await fleet.close();
  await rm(dir, { recursive: true, force: true });
});

async function start(env: Record<string, string> = {}, tuning: Tuning = {}): Promise<Agent> {
  agent = await startAgent(dir, { FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '100', REEF_LOCAL_API: 'off', ...env }, tuning);
  return agent;
}

async function stop(): Promise<void> {
  await agent!.stop();
  agent = undefined;
}

const ended = (revision: number) => fleet.reportWhere(({ workloads }) => Object.values(workloads).some(({ execution }) => execution?.revision === revision && execution.state !== 'IN_PROGRESS' && execution.state !== 'QUEUED'));
const executionOf = async (revision: number) => (await ended(revision)).workloads.classifier!;
const window = { telemetryWindowS: 1 };
const waiting = () => readdir(join(dir, 'telemetry'));
const namesOf = (windows: Fleet['windows']) => windows.map(({ bootId, seq }) => `${bootId}/${seq}`);

describe('agent', () => {
  it('is born, activates, serves, measures and goes back to the one before without a byte', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(2)];
    await start();
    const birth = await fleet.reportWhere(({ capabilities }) => capabilities !== undefined);
    expect(birth).toMatchObject({ session: 1, observedRevision: null, health: 'HEALTHY', capabilities: { tfliteVersion: expect.stringMatching(/^2\.9/), edgetpus: [] } });
    expect(fleet.presences.at(-1)).toEqual({ online: true, session: 1 });

    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } }, window);
    expect(await executionOf(1)).toMatchObject({ running: one.bundle, variant: 'cpu-int8', backend: 'cpu', previous: null, execution: { state: 'SUCCEEDED', failure: null } });
    const first = fleet.requests.length;
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, ...soon } }, window);
    expect(await executionOf(2)).toMatchObject({ running: two.bundle, previous: one.bundle });
    // The model came as a delta; the whole golden pack is the same.
    expect(fleet.requests.slice(first)).toEqual([`GET /v1/bundles/${two.bundle}`, expect.stringMatching(/^GET \/v1\/blobs\/[0-9a-f]{64}\/delta\?from=/)]);

    const served = await eventually(() => fleet.windows.find(({ bundle, inferences }) => bundle === two.bundle && inferences > 4));
    expect(served).toMatchObject({ workload: 'classifier', backend: 'cpu', errors: {}, correct: served.labelled });
    expect(served.labelled).toBe(served.inferences);
    expect(Sketch.fromBase64(served.latency.invoke!).count).toBe(served.inferences);

    const [requests, bytes] = [fleet.requests.length, fleet.bytesServed];
    await fleet.want(device, 3, { classifier: { bundle: one.bundle, rollback: true } }, window);
    expect(await executionOf(3)).toMatchObject({ running: one.bundle, execution: { state: 'SUCCEEDED' } });
    expect(fleet.requests).toHaveLength(requests);
    expect(fleet.bytesServed).toBe(bytes);
    const steps = new Set(fleet.reports.map(({ workloads }) => workloads.classifier?.execution).filter((execution) => execution?.revision === 3).map((execution) => execution?.step));
    expect(steps).not.toContain('observe');

    await stop();
    await eventually(() => fleet.presences.at(-1)?.online === false);
    // In order and each once.
    const seqs = fleet.windows.map(({ seq }) => seq);
    expect(seqs).toEqual(seqs.map((_, index) => index));
  });

  it('fetches a file once that several workloads and bundles share', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(1, { alter: (manifest) => ({ ...manifest, version: 2, labels: ['r', 'g', 'b', 'y'] }) })];
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon }, second: { bundle: two.bundle, ...soon } });
    await fleet.reportWhere(({ workloads }) => ['classifier', 'second'].every((name) => workloads[name]?.execution?.state === 'SUCCEEDED'));
    const { variants, golden } = one.manifest;
    expect(fleet.requests.filter((request) => request.startsWith('GET /v1/blobs')).sort()).toEqual([`GET /v1/blobs/${variants[0]!.file.digest}`, `GET /v1/blobs/${golden!.digest}`].sort());
  });

  it('does not begin a bundle that has no room', async () => {
    const one = fleet.publish(1);
    await start({ REEF_DISK_RESERVE: String(Number.MAX_SAFE_INTEGER) });
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    expect(await executionOf(1)).toMatchObject({ running: null, execution: { state: 'FAILED', step: 'download', failure: { code: 'disk.full' } } });
    expect(fleet.requests.filter((request) => request.startsWith('GET /v1/blobs'))).toEqual([]);
  });

  it('ignores repeats and lower revisions, and says which one it holds', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(2)];
    await start();
    await fleet.want(device, 5, { classifier: { bundle: one.bundle, ...soon } });
    await ended(5);
    const requests = fleet.requests.length;
    const heard = fleet.reports.length;
    await fleet.want(device, 5, { classifier: { bundle: one.bundle, ...soon } });
    // To be told what it has already is to be asked: the birth is said again, and nothing else happens.
    await eventually(() => fleet.reports.slice(heard).some(({ capabilities, observedRevision }) => capabilities && observedRevision === 5));
    const said = fleet.reports.length;
    await fleet.want(device, 4, { classifier: { bundle: two.bundle, ...soon } });
    await eventually(() => fleet.reports.length > said);
    expect(fleet.reports.at(-1)).toMatchObject({ observedRevision: 5, workloads: { classifier: { running: one.bundle, execution: { revision: 5, state: 'SUCCEEDED' } } } });
    expect(fleet.requests).toHaveLength(requests);
  });

  it.each([
    ['no signature', 'bundle.unsigned', () => fleet.publish(2, { sign: (manifest) => ({ payloadType: 'application/vnd.in-toto+json', payload: Buffer.from(JSON.stringify(manifest)).toString('base64'), signatures: [] }) }).bundle],
    ['a wrong signature', 'bundle.signature_wrong', () => {
      const { bundle } = fleet.publish(2);
      const envelope = fleet.envelopes.get(bundle) as { signatures: { sig: string }[] };
      envelope.signatures[0]!.sig = Buffer.alloc(64, 1).toString('base64');
      return bundle;
    }],
    ['the manifest of another version', 'bundle.digest_mismatch', () => {
      const [two, three] = [fleet.publish(2), fleet.publish(3)];
      fleet.envelopes.set(two.bundle, fleet.envelopes.get(three.bundle));
      return two.bundle;
    }],
    ['damaged model bytes', 'artifact.checksum_mismatch', () => {
      const { bundle, manifest } = fleet.publish(2);
      const { digest } = manifest.variants[0]!.file;
      fleet.blobs.set(digest, Buffer.from(fleet.blobs.get(digest)!).fill(9, 700, 704));
      return bundle;
    }],
    ['a model that is gone', 'artifact.missing', () => {
      const { bundle, manifest } = fleet.publish(2);
      fleet.blobs.delete(manifest.variants[0]!.file.digest);
      return bundle;
    }],
    ['a failing self-test', 'golden.failed', () => fleet.publish(2, { wrong: true, goldenOf: { wrong: false } }).bundle],
    ['something that is no model', 'inference.not_a_model', () => fleet.publish(2, { alter: (manifest) => ({ ...manifest, variants: [{ ...manifest.variants[0]!, file: fleet.put(Buffer.alloc(5_000, 7)) }] }) }).bundle],
    ['no variant of that name', 'bundle.variant_missing', () => fleet.publish(2, { alter: (manifest) => ({ ...manifest, variants: [{ ...manifest.variants[0]!, name: 'other' }] }) }).bundle],
  ])('refuses %s (%s) and keeps serving', async (_, code, publish) => {
    const one = fleet.publish(1);
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    await ended(1);
    const child = agent!.children.classifier;
    await fleet.want(device, 2, { classifier: { bundle: publish(), ...soon } });
    expect(await executionOf(2)).toMatchObject({ running: one.bundle, execution: { state: 'FAILED', failure: { code } } });
    expect(agent!.children.classifier).toBe(child);
  });

  it('returns by itself when the new model crashes while it is observed', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(2)];
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    await ended(1);
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, policy: { observeS: 60 } } });
    const trial = await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.revision === 2 && workloads.classifier.execution.step === 'observe');
    expect(trial.workloads.classifier).toMatchObject({ running: two.bundle, previous: one.bundle, execution: { state: 'IN_PROGRESS' } });
    process.kill((await eventually(() => agent!.children.classifier)), 'SIGKILL');
    expect(await executionOf(2)).toMatchObject({ running: one.bundle, execution: { state: 'FAILED', step: 'rollback', failure: { code: 'observe.crashed' } } });
    await eventually(() => agent!.children.classifier);
  });

  it('returns by itself when the new model fails on live frames', async () => {
    const one = fleet.publish(1);
    // Proves itself on the golden pack, yet its pre-processing does not fit its input.
    const two = fleet.publish(2, { alter: (manifest) => ({ ...manifest, inputs: [{ ...manifest.inputs[0]!, preprocessing: { kind: 'image', width: 16, height: 16, channels: 3, resize: 'stretch', mean: [0], std: [255] } }] }) });
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    await ended(1);
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, policy: { observeS: 60 } } });
    expect(await executionOf(2)).toMatchObject({ running: one.bundle, execution: { state: 'FAILED', failure: { code: 'observe.errors' } } });
  });

  it.each([
    ['on probation', 'PROBATION_FAILED', 'probation.crashed', 600],
    ['later, when it crash-loops', 'CRASH_LOOP', 'service.crash_loop', 0],
  ])('leaves a committed bundle that dies %s, offline too, and stays there', async (_, condition, code, probationS) => {
    const [one, two] = [fleet.publish(1), fleet.publish(2)];
    await start();
    for (const [revision, { bundle }] of [[1, one], [2, two]] as const) {
      await fleet.want(device, revision, { classifier: { bundle, policy: { observeS: 0.3, probationS } } });
      await ended(revision);
    }
    await fleet.stopBroker();
    const killed = new Set<number>();
    await eventually(async () => {
      const pid = agent!.children.classifier;
      if (pid && !killed.has(pid) && killed.size < 4) {
        killed.add(pid);
        process.kill(pid, 'SIGKILL');
      }
      return (JSON.parse(await readFile(join(dir, 'state.json'), 'utf8')) as { workloads: { classifier: { running: { bundle: string } } } }).workloads.classifier.running.bundle === one.bundle;
    });
    expect(killed.size).toBe(probationS > 0 ? 3 : 4);
    await fleet.startBroker();
    const left = { health: 'DEGRADED', conditions: [condition], workloads: { classifier: { running: one.bundle, execution: { revision: 2, state: 'SUCCEEDED' }, fault: { bundle: two.bundle, failure: { code } } } } };
    expect(await fleet.reportWhere(({ conditions }) => conditions.includes(condition))).toMatchObject(left);
    await stop();
    await start();
    expect(await fleet.reportWhere(({ session, workloads }) => session > 2 && workloads.classifier !== undefined)).toMatchObject(left);
    // A new order to run it is a new chance.
    await fleet.want(device, 3, { classifier: { bundle: two.bundle, ...soon } });
    expect(await executionOf(3)).toMatchObject({ running: two.bundle, previous: one.bundle, fault: null, execution: { state: 'SUCCEEDED' } });
  });

  it('helps itself with the CPU where no Edge TPU is, or waits and stays up', async () => {
    const withTpu = { alter: (manifest: Parameters<NonNullable<NonNullable<Parameters<Fleet['publish']>[1]>['alter']>>[0]) => ({ ...manifest, variants: [...manifest.variants, { name: 'edgetpu-14', kind: 'edgetpu' as const, minRuntime: 14, file: fleet.put(Buffer.from('compiled')) }] }) };
    const [one, two] = [fleet.publish(1, withTpu), fleet.publish(2, withTpu)];
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, variant: 'edgetpu-14', ...soon } }, window);
    expect(await ended(1)).toMatchObject({ health: 'DEGRADED', conditions: ['NO_ACCELERATOR'], workloads: { classifier: { variant: 'cpu-int8', backend: 'cpu', execution: { state: 'SUCCEEDED' } } } });
    expect(await eventually(() => fleet.windows[0])).toMatchObject({ backend: 'cpu', variant: 'cpu-int8' });
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, variant: 'edgetpu-14', policy: { cpuFallback: false, observeS: 0 } } });
    await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.failure?.code === 'no_accelerator');
    await fleet.command(device, { id: 'p1', kind: 'ping' });
    await eventually(() => fleet.results.find(({ id }) => id === 'p1'));
    expect(fleet.reports.at(-1)).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: one.bundle, execution: { revision: 2, state: 'QUEUED' } } } });
    // Wanting something that can be had ends the wait.
    await fleet.want(device, 3, { classifier: { bundle: two.bundle, ...soon } });
    expect(await executionOf(3)).toMatchObject({ running: two.bundle, execution: { state: 'SUCCEEDED' } });
  });

  it('gives up in time on a download that drags', async () => {
    const one = fleet.publish(1);
    fleet.faults.set(one.manifest.variants[0]!.file.digest, () => {});
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, policy: { observeS: 0, timeoutS: 1 } } });
    expect(await executionOf(1)).toMatchObject({ running: null, execution: { state: 'TIMED_OUT', step: 'download', failure: { code: 'activation.timeout' } } });
  });

  it('drops what it was doing when something else is wanted', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(2)];
    fleet.faults.set(one.manifest.variants[0]!.file.digest, () => {});
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle } });
    await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.step === 'download');
    await fleet.want(device, 2, { classifier: { bundle: two.bundle, ...soon } });
    expect(await executionOf(2)).toMatchObject({ running: two.bundle, execution: { state: 'SUCCEEDED' } });
    await fleet.want(device, 3, {});
    expect(await executionOf(3)).toMatchObject({ running: null, execution: { state: 'REMOVED' } });
    expect(agent!.children).toEqual({});
  });

  it('serves offline from the start, keeps its windows and sends each once', async () => {
    const one = fleet.publish(1);
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } }, window);
    await ended(1);
    await fleet.stopBroker();
    await stop();
    fleet.windows.length = 0;
    await start();
    await eventually(async () => (await waiting()).length >= 2);
    await stop();
    await start();
    await fleet.startBroker();
    await eventually(() => new Set(fleet.windows.map(({ bootId }) => bootId)).size >= 2);
    await stop();
    const names = namesOf(fleet.windows);
    expect(new Set(names).size).toBe(names.length);
    expect(await waiting()).toEqual([]);
    // Sessions rise over every restart, so that a late will of an old one is known for what it is.
    expect(fleet.presences.at(-1)!.session).toBeGreaterThan(2);
  });

  it('stops once the broker has acknowledged what is on its way, also where it is slow', async () => {
    const one = fleet.publish(1);
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } }, window);
    await ended(1);
    fleet.taking = (topic) => delay(topic.endsWith('/telemetry') ? 300 : 0, true);
    await eventually(async () => (await waiting()).some((name) => name.endsWith('.tried.json')));
    await stop();
    // Neither what was on its way, nor what was measured up to the end.
    expect(await waiting()).toEqual([]);
    await eventually(() => fleet.presences.at(-1)?.online === false);
    const names = namesOf(fleet.windows);
    expect(new Set(names).size).toBe(names.length);
  });

  it('stops in time where the broker does not acknowledge; what may have arrived is sent again as it was', async () => {
    const one = fleet.publish(1);
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } }, window);
    await ended(1);
    fleet.taking = async () => false;
    await eventually(async () => (await waiting()).some((name) => name.endsWith('.tried.json')));
    const began = performance.now();
    await stop();
    expect(performance.now() - began).toBeLessThan(5_000);
    const kept = await waiting();
    expect(kept.filter((name) => name.endsWith('.tried.json'))).toHaveLength(1);
    fleet.taking = undefined;
    const arrived = fleet.windows.at(-1)!;
    fleet.windows.length = 0;
    await start();
    await eventually(() => fleet.windows.length >= kept.length);
    // The same words under the same name: the controller counts it once.
    expect(fleet.windows[0]).toEqual(arrived);
    await stop();
    expect(await waiting()).toEqual([]);
  });

  it('gives up a connection on which an acknowledgement was lost, and sends again on the next', async () => {
    const one = fleet.publish(1);
    await start({}, { link: { comeback: quickComeback, acknowledgeMs: 300 } });
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } }, window);
    await ended(1);
    let lost = 0;
    fleet.taking = async (topic) => !topic.endsWith('/telemetry') || (lost += 1) > 1;
    await eventually(() => lost > 2);
    await stop();
    expect(await waiting()).toEqual([]);
    const counts = new Map<string, number>();
    for (const name of namesOf(fleet.windows)) counts.set(name, (counts.get(name) ?? 0) + 1);
    expect([...counts.values()].sort((a, b) => b - a).slice(0, 2)).toEqual([2, 1]);
    expect(fleet.presences.at(-1)).toEqual({ online: false, session: 2 });
  });

  it('answers commands once, repeats from the journal', async () => {
    const one = fleet.publish(1);
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    await ended(1);
    await fleet.command(device, { id: 'b1', kind: 'bench', args: { runs: 20 } });
    expect(await eventually(() => fleet.results[0])).toMatchObject({ id: 'b1', ok: true, result: { workload: 'classifier', runs: 20, p50Us: expect.any(Number) } });
    const child = agent!.children.classifier;
    await fleet.command(device, { id: 'r1', kind: 'restart-inference' });
    await eventually(() => fleet.results.some(({ id }) => id === 'r1'));
    const restarted = await eventually(() => agent!.children.classifier);
    expect(restarted).not.toBe(child);
    await fleet.command(device, { id: 'r1', kind: 'restart-inference' });
    await eventually(() => fleet.results.filter(({ id }) => id === 'r1').length === 2);
    expect(agent!.children.classifier).toBe(restarted);
    await fleet.command(device, { id: 'e1', kind: 'ping', expiresAt: '2020-01-01T00:00:00.000Z' });
    expect(await eventually(() => fleet.results.find(({ id }) => id === 'e1'))).toMatchObject({ ok: false, failure: { code: 'command.expired' } });
  });

  it('starts anew from a state file that cannot be read, and says so', async () => {
    const one = fleet.publish(1);
    await writeFile(join(dir, 'state.json'), '{"schema":1,');
    await start();
    await fleet.want(device, 1, { classifier: { bundle: one.bundle, ...soon } });
    expect(await ended(1)).toMatchObject({ conditions: ['STATE_LOST'], workloads: { classifier: { running: one.bundle } } });
  });
});
