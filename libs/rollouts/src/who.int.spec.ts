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

it('a selector that chooses nobody says which wave it is, and what was meant perhaps', async () => {
  await world.fleet.add(2, { labels: { site: 'lyon' } });
  await world.fleet.add(1, { labels: { site: 'bonn' } });
  await world.version(2);
  const refusal = async (body: Parameters<World['create']>[0]): Promise<unknown> => world.rollouts.preview(createRollout.parse({ version: 'm@2', workload, ...body })).then(() => null, (error: unknown) => (error as Error).message);
  const rest = { percent: 100 };
  expect(await refusal({ waves: [{ selector: '3x' }, rest] })).toBe('Wave 1 ("3x") chooses none of the 3 devices that the rollout is for. No device has the label 3x; devices have site. A number of devices is {"count": 3}, a share of them {"percent": 3}.');
  expect(await refusal({ waves: [{ count: 1 }, { selector: 'lyon' }, rest] })).toBe('Wave 2 ("lyon") chooses none of the 3 devices that the rollout is for. No device has the label lyon; did you mean site=lyon?');
  expect(await refusal({ waves: [{ selector: 'hostClass' }, rest] })).toMatch(/A wave for each hostClass is \{"by": "hostClass"\}\.$/);
  expect(await refusal({ selector: 'site=bonn', waves: [{ selector: 'site=lyon' }, rest] })).toBe('Wave 1 ("site=lyon") chooses none of the 1 device that the rollout is for.');
  expect(await refusal({ selector: 'sites=lyon' })).toBe('No device matches the selector. No device has the label sites; did you mean site?');
  const { notes } = await world.rollouts.preview(createRollout.parse({ version: 'm@2', workload, exclude: { selector: 'site=lion' }, waves: [{ selector: 'site' }] }));
  expect(notes).toEqual(['Wave 1 ("site") takes every device that has the label site. A wave for each site would be {"by": "site"}.', 'The selector "site=lion" excludes nobody.']);
});
