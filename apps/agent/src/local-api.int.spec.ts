import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openLogger } from '@reefkeeper/platform/logger';
import { joined, startAgent } from '../../../test/support/device.ts';
import { colourFrames, eventually, Fleet } from '../../../test/support/fleet.ts';
import { colourLabels, detectorModel } from '../../../test/support/colours.ts';
import type { Agent } from './agent.ts';

const device = 'reef-l';
let fleet: Fleet;
let dir: string;
let agent: Agent;
let bundle: string;
let url: string;

beforeAll(async () => {
  fleet = await Fleet.open();
  dir = await mkdtemp(join(tmpdir(), 'reef-local-'));
  await colourFrames(join(dir, 'frames'));
  await joined(fleet, dir, device);
  agent = await startAgent(dir, { REEF_LOCAL_API: '127.0.0.1:0', REEF_LOCAL_API_QUEUE: '8', REEF_LOCAL_API_BODY: '300000' });
  url = agent.localUrl!;
  ({ bundle } = fleet.publish(3));
});
afterAll(async () => {
  await agent.stop();
  await fleet.close();
  await rm(dir, { recursive: true, force: true });
});

const ask = async (path: string, init?: RequestInit) => {
  const response = await fetch(url + path, init);
  return { status: response.status, headers: response.headers, body: await response.json() as Record<string, unknown> };
};
const post = (path: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => ask(path, { method: 'POST', body, headers });
const image = (colour: string) => readFile(join(dir, 'frames', `${colour}.png`));
const pixels = (r: number, g: number, b: number, count = 32 * 32) => Uint8Array.from({ length: count * 3 }, (_, at) => [r, g, b][at % 3]!);
const infer = (request: unknown) => post('/v2/models/classifier/infer', JSON.stringify(request));
const picture = (more: Record<string, unknown> = {}) => ({ name: 'picture', shape: [1, 32, 32, 3], datatype: 'FP32', data: [...pixels(20, 200, 30)].map((value) => value / 255), ...more });

describe('the local API', () => {
  it('lives without a workload, and says that there is none', async () => {
    expect(await ask('/v2')).toMatchObject({ status: 200, body: { name: 'reef-agent', extensions: ['binary_tensor_data'] } });
    expect(await ask('/v2/health/live')).toMatchObject({ status: 200, body: { live: true } });
    expect(await ask('/v2/models/classifier')).toMatchObject({ status: 404, body: { code: 'workload.missing', error: expect.stringContaining('classifier') } });
    expect(await ask('/v1/nowhere')).toMatchObject({ status: 404, body: { code: 'route.missing' } });
    expect(await ask('/v2/models/classifier/infer')).toMatchObject({ status: 405 });
  });

  it('answers tensors as the protocol has them, in JSON and in bytes', async () => {
    await fleet.want(device, 1, { classifier: { bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.state === 'SUCCEEDED');
    expect(await ask('/v2/health/ready')).toMatchObject({ status: 200, body: { ready: true } });
    const { body: metadata } = await ask('/v2/models/classifier/versions/3');
    expect(metadata).toMatchObject({ name: 'classifier', versions: ['3'], platform: 'tensorflow_lite', inputs: [{ name: 'picture', datatype: 'INT8', shape: [1, 32, 32, 3] }], outputs: [{ datatype: 'INT8', shape: [1, 4] }] });
    const output = (metadata.outputs as { name: string }[])[0]!.name;
    expect(await ask('/v2/models/classifier/versions/4/ready')).toMatchObject({ status: 503 });
    expect(await ask('/v2/models/classifier/versions/4')).toMatchObject({ status: 404, body: { code: 'workload.version_missing' } });
    expect(await ask(`/v2/models/classifier/versions/${bundle}/ready`)).toMatchObject({ status: 200 });

    const real = await infer({ id: 'mine', inputs: [picture()], parameters: { dequantise: true } });
    expect(real).toMatchObject({ status: 200, body: { model_name: 'classifier', model_version: '3', id: 'mine', parameters: { bundle, backend: 'cpu' }, outputs: [{ name: output, datatype: 'FP32', shape: [1, 4] }] } });
    expect(real.headers.get('x-reef-bundle')).toBe(bundle);
    const scores = (real.body as { outputs: { data: number[] }[] }).outputs[0]!.data;
    expect(scores.indexOf(Math.max(...scores))).toBe(colourLabels.indexOf('green'));

    // Quantised by hand: real = (q + 128) / 255, so q = pixel - 128.
    const raw = Buffer.from(pixels(20, 200, 30).map((value) => value - 128));
    const header = Buffer.from(JSON.stringify({ inputs: [picture({ datatype: 'INT8', data: undefined, parameters: { binary_data_size: raw.length } })], outputs: [{ name: output, parameters: { binary_data: true } }] }));
    const answer = await fetch(`${url}/v2/models/classifier/infer`, { method: 'POST', body: Buffer.concat([header, raw]), headers: { 'content-type': 'application/octet-stream', 'inference-header-content-length': `${header.length}` } });
    const bytes = Buffer.from(await answer.arrayBuffer());
    const headerBytes = Number(answer.headers.get('inference-header-content-length'));
    const said = JSON.parse(bytes.subarray(0, headerBytes).toString()) as { outputs: { parameters: { scale: number; zero_point: number; binary_data_size: number } }[] };
    const { scale, zero_point: zeroPoint } = said.outputs[0]!.parameters;
    expect([...new Int8Array(bytes.subarray(headerBytes))].map((value) => (value - zeroPoint) * scale)).toEqual(scores);
  });

  it('classifies images of every kind and raw pixels', async () => {
    const { data } = await sharp(await image('blue')).raw().toBuffer({ resolveWithObject: true });
    const bmp = bmpOf(data, 64, 48);
    const kinds: [string, Buffer][] = [['?k=2', await image('blue')], ['', await sharp(await image('blue')).jpeg().toBuffer()], ['', bmp], ['?width=64&height=48', data]];
    for (const [query, body] of kinds) {
      const answer = await post(`/v1/workloads/classifier/classify${query}`, new Uint8Array(body));
      expect(answer).toMatchObject({ status: 200, body: { workload: 'classifier', model: 'colours', model_version: '3', bundle, variant: 'cpu-int8', backend: 'cpu', latency: { invokeUs: expect.any(Number) } } });
      expect((answer.body as { classes: unknown[] }).classes[0]).toMatchObject({ index: 2, label: 'blue', score: expect.closeTo(1, 0) });
      if (query === '?k=2') expect(answer.body.classes).toHaveLength(2);
    }
    expect(await post('/v1/workloads/classifier/detect', new Uint8Array(await image('blue')))).toMatchObject({ status: 400, body: { code: 'workload.other_task' } });
  });

  it('finds boxes, and says of whom it does not know how to', async () => {
    const detector = fleet.publish(1, { model: detectorModel(), alter: (manifest) => ({ ...manifest, model: 'things', task: 'detection', labels: ['tomato', 'plum'], golden: null }) });
    await fleet.want(device, 2, { classifier: { bundle, policy: { observeS: 0 } }, things: { bundle: detector.bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await eventually(async () => (await ask('/v2/models/things/ready')).status === 200);
    expect(await post('/v1/workloads/things/detect', new Uint8Array(await image('red')))).toMatchObject({
      status: 200, body: { workload: 'things', boxesOf: 'image', detections: [{ index: 0, label: 'tomato', score: expect.closeTo(220 / 255, 1), box: { top: expect.closeTo(0.1, 1), left: expect.closeTo(0.2, 1), bottom: expect.closeTo(0.5, 1), right: expect.closeTo(0.6, 1) } }] },
    });
    expect((await post('/v1/workloads/things/detect?minScore=0.99', new Uint8Array(await image('red')))).body.detections).toEqual([]);
    expect(await post('/v1/workloads/things/classify', new Uint8Array(await image('red')))).toMatchObject({ status: 400, body: { code: 'workload.other_task' } });
    expect(await post('/v1/metrics', '{"x":1}')).toMatchObject({ status: 400, body: { code: 'workload.which' } });
    await fleet.want(device, 3, { classifier: { bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await eventually(async () => (await ask('/v2/models/things/ready')).status === 404);
  });

  it('feedback and the site\'s own numbers reach the telemetry of the bundle, once', async () => {
    fleet.windows.length = 0;
    const { body } = await post('/v1/workloads/classifier/classify', new Uint8Array(await image('red')));
    const second = await post('/v1/workloads/classifier/classify', new Uint8Array(await image('green')), { 'x-request-id': 'box-7' });
    expect(second.body).toMatchObject({ id: 'box-7' });
    const feed = (id: string, label: string | number) => post('/v1/workloads/classifier/feedback', JSON.stringify({ id, label }));
    expect(await feed(body.id as string, 'red')).toMatchObject({ status: 200, body: { bundle, answered: 'red', correct: true, counted: true } });
    expect(await feed(body.id as string, 'red')).toMatchObject({ body: { counted: false } });
    expect(await feed('box-7', 3)).toMatchObject({ body: { answered: 'green', correct: false, counted: true } });
    expect(await feed('nobody', 'red')).toMatchObject({ status: 404, body: { code: 'feedback.unknown_result' } });
    for (const [reject_rate, seen] of [[0.5, 2], [0.25, 3]]) expect(await post('/v1/metrics', JSON.stringify({ reject_rate, seen }))).toMatchObject({ status: 200, body: { workload: 'classifier', taken: 2 } });
    expect(await post('/v1/metrics', '{"Bad Name": 1}')).toMatchObject({ status: 400 });
    await eventually(() => fleet.windows.reduce((sum, { labelled }) => sum + labelled, 0) === 2 && fleet.windows.reduce((sum, { metrics }) => sum + (metrics?.seen?.count ?? 0), 0) === 2);
    expect(fleet.windows.reduce((sum, { correct }) => sum + correct, 0)).toBe(1);
    const totals = fleet.windows.map(({ metrics }) => metrics?.reject_rate).filter((one) => one !== undefined);
    expect([totals.reduce((sum, one) => sum + one.sum, 0), totals.reduce((sum, one) => sum + one.sumSquares, 0)]).toEqual([0.75, 0.3125]);
  });

  it('pictures it is not sure of go to the fleet, where that is asked for, masked', async () => {
    await fleet.want(device, 4, { classifier: { bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1, capture: { perHour: 3_600, uncertainBelow: 1, masks: [{ left: 0, top: 0, width: 0.5, height: 1 }] } });
    await eventually(async () => {
      await post('/v1/workloads/classifier/classify', new Uint8Array(await image('red')));
      return fleet.captures.length > 0;
    });
    const [first] = fleet.captures;
    expect(first).toMatchObject({ device, facts: { workload: 'classifier', bundle, prediction: 'red', backend: 'cpu' } });
    const { data, info } = await sharp(first!.jpeg).raw().toBuffer({ resolveWithObject: true });
    expect([info.width, info.height]).toEqual([64, 48]);
    expect(data[3 * 8]).toBeLessThan(30);
    expect(data[3 * 56]).toBeGreaterThan(190);
    await fleet.want(device, 5, { classifier: { bundle, policy: { observeS: 0 } } }, { telemetryWindowS: 1 });
    await fleet.reportWhere(({ observedRevision }) => observedRevision === 5);
  });

  it('a client\'s mistakes are the client\'s: told in words, and no error of the model', async () => {
    fleet.windows.length = 0;
    expect(await post('/v1/workloads/classifier/classify', 'no image')).toMatchObject({ status: 400, body: { code: 'image.unreadable' } });
    expect(await post('/v1/workloads/classifier/classify?width=3&height=3', 'no')).toMatchObject({ status: 400, body: { code: 'inference.input_size' } });
    expect(await infer({ inputs: [picture({ shape: [2, 32, 32, 3] })] })).toMatchObject({ status: 400, body: { code: expect.stringMatching(/^infer\./) } });
    expect(await infer({ inputs: [picture()], outputs: [{ name: 'other' }] })).toMatchObject({ status: 400, body: { code: 'infer.output_unknown' } });
    expect(await post('/v1/workloads/classifier/classify', new Uint8Array(400_000))).toMatchObject({ status: 413, body: { code: 'request.too_large' } });
    expect(await post('/v1/workloads/classifier/classify', new Uint8Array(10), { 'content-encoding': 'gzip' })).toMatchObject({ status: 415 });
    expect(await post('/v1/workloads/classifier/classify', new Uint8Array(10), { origin: 'http://evil.example' })).toMatchObject({ status: 403, body: { code: 'request.other_site' } });
    expect(await ask('/v2/health/ready')).toMatchObject({ status: 200 });
    await post('/v1/workloads/classifier/classify', new Uint8Array(await image('red')));
    const window = await eventually(() => fleet.windows.find(({ inferences }) => inferences > 0));
    expect(window.errors).toEqual({});
  });

  it('tells those beyond its queue to come again, and answers all others', async () => {
    const body = await image('yellow');
    // Eight that have begun to send their image, and take their time. The server's "continue" says that it holds them.
    const slow = await Promise.all(Array.from({ length: 8 }, async () => {
      const sent = httpRequest(`${url}/v1/workloads/classifier/classify`, { method: 'POST', headers: { 'content-length': body.length, expect: '100-continue' } });
      const status = new Promise<number>((resolve, reject) => { sent.on('error', reject).on('response', (response) => resolve(response.resume().statusCode!)); });
      sent.flushHeaders();
      await once(sent, 'continue');
      sent.write(body.subarray(0, 10));
      return { sent, status };
    }));
    const refused = await post('/v1/workloads/classifier/classify', new Uint8Array(body));
    expect(refused.status).toBe(429);
    expect(refused).toMatchObject({ body: { code: 'queue.full' } });
    expect(refused.headers.get('retry-after')).toBe('1');
    for (const { sent } of slow) sent.end(body.subarray(10));
    expect(await Promise.all(slow.map(({ status }) => status))).toEqual(Array(8).fill(200));
    expect(await post('/v1/workloads/classifier/classify', new Uint8Array(body))).toMatchObject({ status: 200 });
  });
});

it('listens on a socket file, past one that was left behind, and later where the address is taken now', async () => {
  const { LocalApi } = await import('./local-api.ts');
  const none = { names: () => [], get: () => undefined };
  const options = { workloads: none, queue: 1, maxBodyBytes: 1_024, log: openLogger('agent', 'silent') };
  const path = join(dir, 'api.sock');
  const left = createServer().listen(path);
  await eventually(() => left.listening);
  const api = new LocalApi({ ...options, address: { path } });
  await api.start();
  const status = await new Promise((resolve) => { httpRequest({ socketPath: path, path: '/v2/health/live' }, (response) => resolve(response.resume().statusCode)).end(); });
  expect([api.url, status]).toEqual([`unix:${path}`, 200]);
  await api.stop();
  left.close();
  const taken = createServer().listen(0, '127.0.0.1');
  await eventually(() => taken.listening);
  const blocked = new LocalApi({ ...options, address: { host: '127.0.0.1', port: (taken.address() as { port: number }).port }, retryMs: 50 });
  await blocked.start();
  expect(blocked.url).toBeUndefined();
  taken.close();
  await eventually(() => blocked.url);
  await blocked.stop();
});

/** 24 bits, rows from the bottom up, padded to 4 bytes. */
function bmpOf(rgb: Buffer, width: number, height: number): Buffer {
  const stride = Math.ceil((width * 3) / 4) * 4;
  const bytes = Buffer.alloc(54 + stride * height);
  bytes.write('BM');
  bytes.writeUInt32LE(54, 10);
  bytes.writeUInt32LE(40, 14);
  bytes.writeInt32LE(width, 18);
  bytes.writeInt32LE(height, 22);
  bytes.writeUInt16LE(24, 28);
  for (let row = 0; row < height; row += 1) for (let column = 0; column < width; column += 1) for (let channel = 0; channel < 3; channel += 1) bytes[54 + stride * (height - 1 - row) + column * 3 + channel] = rgb[(row * width + column) * 3 + 2 - channel]!;
  return bytes;
}
