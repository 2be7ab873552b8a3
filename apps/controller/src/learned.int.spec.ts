import { randomUUID } from 'node:crypto';
import { sha256, type ObjectStore } from '@reefkeeper/platform';
import { maxLearnedBytes } from '@reefkeeper/bundle/learned';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openHarness, type Harness, type TestDevice } from './harness.fixture.ts';

let world: Harness;
let asked: TestDevice;
let other: TestDevice;
const images = Buffer.from('an archive of images');
const args = { workload: 'classifier', images: { digest: sha256(images), bytes: images.length } };

beforeAll(async () => {
  world = await openHarness();
  [asked, other] = [await world.enrol('cam-1'), await world.enrol('cam-2')];
  await world.app.get<ObjectStore>('OBJECTS').put(images);
});
afterAll(() => world?.close());

const send = async (body: object, to = 'cam-1') => world.call('POST', `/api/v1/devices/${to}/commands`, body);
const fetched = async (device: TestDevice) => {
  const answer = await request(`${world.gateway}/v1/blobs/${args.images.digest}`, { dispatcher: device.agent });
  await answer.body.dump();
  return answer.statusCode;
};
const offered = async (device: TestDevice, command: string, content: Buffer, type = 'application/octet-stream') => {
  const answer = await request(`${world.gateway}/v1/learned/${command}`, { method: 'POST', headers: { 'content-type': type }, body: content, dispatcher: device.agent });
  return { status: answer.statusCode, code: ((await answer.body.json()) as { code?: string }).code };
};

describe('learning, at the gateway', () => {
  it('images are for the device that was asked, and only while it is asked', async () => {
    expect(await fetched(asked)).toBe(404);
    const { body } = await send({ kind: 'learn', args });
    expect([await fetched(asked), await fetched(other)]).toEqual([200, 404]);
    await world.database.db.query("UPDATE device_commands SET state = 'SUCCEEDED' WHERE id = $1", [body.id]);
    expect(await fetched(asked)).toBe(404);
  });

  it('what it offers answers a command of its own, of that kind, and is sound', async () => {
    const { body: learn } = await send({ kind: 'learn', args });
    const { body: ping } = await send({ kind: 'ping' });
    const content = Buffer.from('no head');
    expect(await offered(asked, learn.id as string, content)).toEqual({ status: 400, code: 'learn.malformed' });
    expect(await offered(other, learn.id as string, content)).toEqual({ status: 404, code: 'command.unknown' });
    expect(await offered(asked, ping.id as string, content)).toEqual({ status: 409, code: 'learn.not_asked' });
    expect(await offered(asked, randomUUID(), content)).toEqual({ status: 404, code: 'command.unknown' });
    expect(await offered(asked, 'nonsense', content)).toMatchObject({ status: 400 });
    expect(await offered(asked, learn.id as string, Buffer.from('{}'), 'application/json')).toMatchObject({ status: 400 });
    expect(await offered(asked, learn.id as string, Buffer.alloc(maxLearnedBytes + 1))).toEqual({ status: 413, code: 'request.too_large' });
    await world.database.db.query("UPDATE device_commands SET state = 'FAILED' WHERE id = $1", [learn.id]);
    expect(await offered(asked, learn.id as string, content)).toEqual({ status: 409, code: 'learn.not_asked' });
  });

  it('a command that no device could obey is refused at once', async () => {
    for (const wrong of [{}, { ...args, method: 'magic' }, { ...args, holdout: 0.9 }, { ...args, images: { digest: 'x', bytes: 1 } }]) expect((await send({ kind: 'learn', args: wrong })).status).toBe(400);
  });
});
