import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeDelta } from '@reefkeeper/bundle';
import type { Desired, ExecutionState } from '@reefkeeper/protocol';
import { joined, startAgent } from '../../../test/support/device.ts';
import { eventually, Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';

// Case 10 of the field: a broken delta on a metered link.
const device = 'reef-m';
let fleet: Fleet;
let dir: string;
let agent: Agent | undefined;
let one: ReturnType<Fleet['publish']>;
let two: ReturnType<Fleet['publish']>;
let broken: Buffer;

beforeEach(async () => {
  fleet = await Fleet.open();
  dir = await mkdtemp(join(tmpdir(), 'reef-agent-'));
  await joined(fleet, dir, device);
  [one, two] = [fleet.publish(1, { ballast: 3 }), fleet.publish(2, { ballast: 3 })];
  // A proper delta, of the right length even, from what runs; only what it makes is another file.
  broken = (await makeDelta(one.model, Buffer.from(two.model).fill(7, two.model.length - 64)))!;
  fleet.faults.set(`delta ${digestOf(two)}`, (_request, response) => { response.writeHead(200, { etag: `"${'a'.repeat(64)}"`, 'content-length': broken.length }).end(broken); });
});
afterEach(async () => {
  await stop();
  await fleet.close();
  await rm(dir, { recursive: true, force: true });
});

const digestOf = (version: typeof one) => version.manifest.variants[0]!.file.digest;
const requestsOf = (digest: string) => fleet.requests.filter((request) => request.startsWith(`GET /v1/blobs/${digest}`)).map((request) => (request.includes('/delta?') ? 'delta' : 'whole'));

async function start(env: Record<string, string> = {}): Promise<void> {
  agent = await startAgent(dir, env);
}

async function stop(): Promise<void> {
  await agent?.stop();
  agent = undefined;
}

async function want(revision: number, { bundle }: typeof one, config: Partial<Desired['config']> = {}, policy: Partial<Desired['workloads'][string]['policy']> = {}): Promise<void> {
  await fleet.want(device, revision, { w: { bundle, policy: { observeS: 0, ...policy } } }, config);
}

const reported = async (revision: number, state: ExecutionState) => (await fleet.reportWhere(({ workloads }) => workloads.w?.execution?.revision === revision && workloads.w.execution.state === state)).workloads.w!;

/** The first bundle runs; then the link is metered with room for a delta, not for the model. */
async function overBudget(): Promise<void> {
  await start();
  await want(1, one);
  await reported(1, 'SUCCEEDED');
  await want(2, two, { link: 'metered', dataBudget: { bytes: 20_000, per: 'day' } });
  expect(two.model.length).toBeGreaterThan(25_000);
  expect(await reported(2, 'QUEUED')).toMatchObject({ running: one.bundle, execution: { step: 'download', failure: { code: 'budget_exceeded', message: expect.stringContaining('allow-download') } } });
  expect(requestsOf(digestOf(two))).toEqual(['delta']);
}

describe('a broken delta on a metered link', () => {
  it('is thrown away, the full file is not fetched, the old version serves; nothing is paid for again over a restart; a person lets it through', async () => {
    await overBudget();
    await stop();
    await start();
    await reported(2, 'QUEUED');
    const before = fleet.reports.length;
    await fleet.command(device, { id: 'p', kind: 'ping' });
    await eventually(() => fleet.results.some(({ id }) => id === 'p'));
    expect(fleet.reports.slice(before).every(({ workloads }) => workloads.w!.running === one.bundle)).toBe(true);
    expect(requestsOf(digestOf(two))).toEqual(['delta']);
    await fleet.command(device, { id: 'a', kind: 'allow-download' });
    expect(await reported(2, 'SUCCEEDED')).toMatchObject({ running: two.bundle, execution: { failure: null } });
    expect(requestsOf(digestOf(two))).toEqual(['delta', 'whole']);
    // The broken delta was paid for, too.
    expect((await reported(2, 'SUCCEEDED')).execution!.transfer).toEqual({ fullBytes: two.model.length, deltaBytes: broken.length, peerBytes: 0, savedBytes: 0 });
    expect(fleet.results.find(({ id }) => id === 'a')).toMatchObject({ ok: true, result: { allowed: ['w'] } });
  });

  it('is let through also by a word that comes while the agent is about to wait', async () => {
    await overBudget();
    await stop();
    // At the start it finds out anew that it has to wait; the word is there already, or comes in between, or after.
    await fleet.command(device, { id: 'a', kind: 'allow-download' });
    await start();
    await fleet.command(device, { id: 'b', kind: 'allow-download' });
    expect(await reported(2, 'SUCCEEDED')).toMatchObject({ running: two.bundle });
  });

  it('goes on by itself in the next period', async () => {
    await overBudget();
    await stop();
    const path = join(dir, 'budget.json');
    const { spentBytes, ...kept } = JSON.parse(await readFile(path, 'utf8')) as { spentBytes: number; elapsedMs: number };
    expect(spentBytes).toBeGreaterThan(broken.length);
    // Two seconds before the end of the day, with enough for the model in a new one.
    await writeFile(path, JSON.stringify({ ...kept, spentBytes, elapsedMs: 24 * 3_600_000 - 2_000, savedAt: 0 }));
    await want(3, two, { link: 'metered', dataBudget: { bytes: two.model.length + 1_000, per: 'day' } });
    await start();
    expect(await reported(3, 'SUCCEEDED')).toMatchObject({ running: two.bundle });
    expect(requestsOf(digestOf(two))).toEqual(['delta', 'whole']);
    await stop();
    // All of it on the new day's bill.
    expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({ spentBytes: two.model.length });
  });

  it.each([
    ['the policy of the rollout', (revision: number) => want(revision, two, { link: 'metered', dataBudget: { bytes: 20_000, per: 'day' } }, { ignoreBudget: true })],
    ['an unmetered link', (revision: number) => want(revision, two, { link: 'unmetered' })],
  ])('%s fetches the full file, once', async (_what, again) => {
    await overBudget();
    await again(3);
    expect(await reported(3, 'SUCCEEDED')).toMatchObject({ running: two.bundle });
    expect(requestsOf(digestOf(two))).toEqual(['delta', 'whole']);
  });

  it('unmetered from the start: the full file follows the delta at once, once', async () => {
    await start({ REEF_DATA_BUDGET: '1/day' });
    await want(1, one);
    await reported(1, 'SUCCEEDED');
    await want(2, two);
    expect(await reported(2, 'SUCCEEDED')).toMatchObject({ running: two.bundle });
    expect(requestsOf(digestOf(two))).toEqual(['delta', 'whole']);
  });

  it('the full file is gone, too: FAILED artifact.missing after bounded tries, and the old version serves', async () => {
    await start();
    await want(1, one);
    await reported(1, 'SUCCEEDED');
    fleet.faults.set(digestOf(two), (_request, response) => { response.writeHead(404).end(); });
    await want(2, two);
    expect(await reported(2, 'FAILED')).toMatchObject({ running: one.bundle, execution: { step: 'download', failure: { code: 'artifact.missing' } } });
    expect(requestsOf(digestOf(two))).toEqual(['delta', 'whole', 'whole', 'whole']);
  });

  it('the device\'s own settings hold where the fleet says nothing', async () => {
    await start({ REEF_LINK: 'metered', REEF_DATA_BUDGET: '10kB/month' });
    await want(1, one);
    expect(await reported(1, 'QUEUED')).toMatchObject({ running: null, execution: { failure: { code: 'budget_exceeded', message: expect.stringContaining('a month') } } });
    expect(requestsOf(digestOf(one))).toEqual([]);
  });
});
