import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createRollout } from './rollout.ts';
import { ended, openWorld, workload, type World } from './world.fixture.ts';

// Who gets a version: kinds, pins, exclusions.

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => { await world.database.drop(); });
const running = (id: string): string | null => world.fleet.devices.get(id)!.running;

describe('pins', () => {
  it('a pinned device is left out with who and why, for its workload or for all; unpinned it takes part again', async () => {
    const [a, b, c] = await world.fleet.add(3);
    await world.version(2);
    await world.devices.pin(a!.id, { reason: 'customer trial' }, 'olga');
    await world.devices.pin(b!.id, { workload: 'another', reason: 'no matter here' }, 'olga');
    await world.devices.pin(c!.id, { workload, reason: 'first' }, 'olga');
    expect((await world.devices.pin(c!.id, { workload, reason: 'broken lens' }, 'pavel')).pins).toMatchObject([{ workload, reason: 'broken lens', pinnedBy: 'pavel' }]);
    const { plan } = await world.create({ start: false });
    expect(plan).toMatchObject({ eligible: 1, excluded: [{ device: a!.id, code: 'PINNED', reason: 'Pinned by olga: customer trial' }, { device: c!.id, code: 'PINNED', reason: 'Pinned by pavel: broken lens' }] });
    expect((await world.devices.unpin(c!.id, workload, 'olga')).pins).toEqual([]);
    expect((await world.create({ start: false })).plan.eligible).toBe(2);
    await expect(world.devices.unpin(b!.id, undefined, 'olga')).rejects.toMatchObject({ code: 'device.not_pinned', message: expect.stringContaining('another') as string });
    await expect(world.devices.pin('nobody', { reason: 'x' }, 'olga')).rejects.toMatchObject({ code: 'device.unknown' });
  });

  it('one that was pinned after it was told still goes back', async () => {
    const devices = await world.fleet.add(2);
    const good = await world.installed(1);
    await world.version(2);
    const { id } = await world.create({ waves: [{ percent: 100 }], soakS: 20 });
    await world.run(5);
    for (const device of devices) await world.devices.pin(device.id, { reason: 'keep' }, 'olga');
    await world.rollouts.rollback(id, 'olga');
    expect(await world.run(60, id, ended)).toMatchObject({ state: 'ROLLED_BACK', rollback: { SUCCEEDED: 2 } });
    expect(devices.map((device) => running(device.id))).toEqual([good, good]);
  });
});

it('exclude: by id and by selector; a wave per site is planned, shown and kept', async () => {
  await world.fleet.add(2, { labels: { site: 'lyon' } });
  await world.fleet.add(3, { labels: { site: 'bonn', spare: 'yes' } });
  const [last] = await world.fleet.add(3, { labels: { site: 'bonn' } });
  await world.version(2);
  const body = { exclude: { devices: [last!.id], selector: 'spare' }, waves: [{ count: 1, perStratum: 'site' as const }, { by: 'site' as const }] };
  const preview = await world.rollouts.preview(createRollout.parse({ version: 'm@2', workload, ...body }));
  expect(preview.excluded.map(({ code }) => code)).toEqual(['EXCLUDED', 'EXCLUDED', 'EXCLUDED', 'EXCLUDED']);
  const { id, waves } = await world.create(body);
  expect(waves.map(({ size, of }) => [size, of?.value ?? null])).toEqual([[2, null], [1, 'bonn'], [1, 'lyon']]);
  expect(await world.run(200, id, ended)).toMatchObject({ state: 'SUCCEEDED' });
  expect(running(last!.id)).toBeNull();
  await expect(world.create({ exclude: { selector: 'not a selector(' } })).rejects.toMatchObject({ code: 'selector.invalid' });
});
