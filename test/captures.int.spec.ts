import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { request } from 'undici';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Client } from '../apps/cli/src/client.ts';
import { exportCaptures } from '../apps/cli/src/commands/captures.ts';
import { configOf } from '../apps/cli/src/commands/devices.ts';
import { adminToken, openHarness, type Harness } from '../apps/controller/src/harness.fixture.ts';

let world: Harness;
let dir: string;
beforeAll(async () => {
  world = await openHarness();
  dir = await mkdtemp(join(tmpdir(), 'reef-dataset-'));
});
afterAll(async () => {
  await world?.close();
  await rm(dir, { recursive: true, force: true });
});

it('what devices captured and people labelled becomes a folder per label; devices are told when to capture', async () => {
  const device = await world.enrol('cam-1');
  const ids = ['0f8fad5b-d9cb-469f-a165-70867728950e', '1f8fad5b-d9cb-469f-a165-70867728950e', '2f8fad5b-d9cb-469f-a165-70867728950e'];
  for (const [at, id] of ids.entries()) {
    const jpeg = await sharp({ create: { width: 20 + at, height: 20, channels: 3, background: '#f00' } }).jpeg().toBuffer();
    const facts = new URLSearchParams({ workload: 'classifier', bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu', prediction: 'cat', score: '0.52', margin: '0.04', takenAt: '2026-01-01T00:00:00.000Z' });
    const { statusCode, body } = await request(`${world.gateway}/v1/captures/${id}?${facts.toString()}`, { method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body: jpeg, dispatcher: device.agent });
    await body.dump();
    expect(statusCode).toBe(201);
  }
  const api = new Client(world.url, adminToken);
  await expect(exportCaptures(api, dir, {})).rejects.toMatchObject({ code: 'capture.none_labelled' });
  await api.patch(`/captures/${ids[0]}`, { label: 'cat' });
  await api.patch(`/captures/${ids[1]}`, { label: 'a dog' });
  expect(await exportCaptures(api, dir, { device: 'cam-1' })).toEqual({ cat: 1, 'a dog': 1 });
  expect((await readdir(dir, { recursive: true })).sort()).toEqual(['a dog', `a dog/${ids[1]}.jpg`, 'cat', `cat/${ids[0]}.jpg`]);
  expect((await sharp(await readFile(join(dir, 'a dog', `${ids[1]}.jpg`))).metadata()).width).toBe(21);

  const configured = async () => (await api.get<{ desired: { config: Record<string, unknown> } }>('/devices/cam-1')).desired.config;
  await api.patch('/devices/cam-1', { config: configOf({ capture: '20', captureMask: ['0,0,1,0.1'], telemetryBudget: '64KB' }) });
  expect(await configured()).toMatchObject({ capture: { perHour: 20, uncertainBelow: 0.2, masks: [{ left: 0, top: 0, width: 1, height: 0.1 }] }, telemetryBytesPerHour: 64_000 });
  await api.patch('/devices/cam-1', { config: configOf({ capture: 'off' }) });
  expect(await configured()).toMatchObject({ capture: null, telemetryBytesPerHour: 64_000 });
});
