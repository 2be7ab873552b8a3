import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensurePythonEnv } from '@reefkeeper/conversion';
import { colourLabels, coloursModel } from '../support/colours.ts';
import { chromiumPath, openBrowser, Tab } from '../support/console.ts';
import { colourFolders, embeddingModel } from '../support/embeddings.ts';
import { colourFrames, eventually } from '../support/fleet.ts';
import { RunningStack } from '../support/stack.ts';

// The console in a real browser, on a real stack whose devices serve models. The stories build on each other, in this order.
interface Rollout { id: string; state: string; workload: string; version: string }
interface Job { id: string; version: string; state: string }

describe.skipIf(!chromiumPath)('console in Chromium (needs a Chromium)', () => {
  let stack: RunningStack;
  let dir: string;
  let browser: Browser;
  let tab: Tab;
  let admin: string;
  const tokens: Record<string, string> = {};

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-console-'));
    await colourFrames(join(dir, 'frames'));
    await writeFile(join(dir, 'labels.txt'), `${colourLabels.join('\n')}\n`);
    await writeFile(join(dir, 'colours.tflite'), coloursModel());
    await writeFile(join(dir, 'worse.tflite'), coloursModel({ mark: 'worse', wrong: true }));
    await writeFile(join(dir, 'extractor.tflite'), embeddingModel());
    await colourFolders(join(dir, 'taught'), 6, ['red', 'green']);
    stack = await RunningStack.up({ agents: 2, frames: join(dir, 'frames'), fps: 20 });
    admin = (JSON.parse(await readFile(join(stack.dir, 'credentials.json'), 'utf8')) as { token: string }).token;
    browser = await openBrowser();
    tab = await Tab.open(browser, stack.url);
  });
  afterAll(async () => {
    await browser?.close();
    await stack?.remove();
    await rm(dir, { recursive: true, force: true });
  });

  const quick = ['--soak', '2', '--observe', '1', '--min-samples', '10', '--deadline', '60'];
  const push = async (file: string, name: string, ...options: string[]) => stack.reef('model', 'push', join(dir, file), '--name', name, '--mean', '0', '--std', '255', ...options);
  const shot = async (name: string) => { if (process.env.REEF_SCREENSHOTS) await tab.page.screenshot({ path: join(process.env.REEF_SCREENSHOTS, `${name}.png`), fullPage: true }); };

  it('asks for a token, refuses a wrong one, and shows the fleet', async () => {
    const { page } = tab;
    await page.goto('/');
    expect(await tab.unusable()).toEqual([]);
    await page.fill('#token', 'reef_not_a_token');
    await page.click('button[type=submit]');
    await page.getByText('The controller does not know this token.').waitFor();
    expect(tab.faults.splice(0)).toEqual([expect.stringContaining('401')]);
    await page.fill('#token', admin);
    await page.click('button[type=submit]');
    await page.getByRole('link', { name: stack.agent(1) }).waitFor();
    await page.locator('table').getByText('online').first().waitFor();
    await page.getByText('first admin, admin').waitFor();
  });

  it('shows where a quantised model differs from its original', async () => {
    const { page } = tab;
    const { python } = await ensurePythonEnv({ root: join(import.meta.dirname, '../../.reef/python') });
    const made = join(dir, 'made');
    await mkdir(made);
    await execa(python, [join(import.meta.dirname, '../support/colour-model.py'), made]);
    await writeFile(join(made, 'labels.txt'), 'red\ngreen\nblue\n');
    const pushed = await stack.reef('model', 'push', join(made, 'model'), '--name', 'painted', '--labels', join(made, 'labels.txt'), '--calibration', join(made, 'pictures'));
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    await page.getByRole('link', { name: 'Models' }).click();
    await page.getByRole('link', { name: 'painted', exact: true }).click();
    await page.getByRole('link', { name: 'painted@1', exact: true }).click();
    await page.getByText('top-1 agreement').waitFor();
    await page.getByText('Mapped to Edge TPU').first().waitFor();
    await page.getByText('verify.not_held_out').waitFor();
    expect(await page.locator('.bars tr').count()).toBe(3);
    expect(await page.locator('.matrix td.right').allTextContents()).toEqual(['20', '20', '20']);
    await shot('parity');
    expect(tab.faults).toEqual([]);
  }, 900_000);

  it('follows a model and a rollout live, with verdicts and plots', async () => {
    const { page } = tab;
    const pushed = await push('colours.tflite', 'colours', '--labels', join(dir, 'labels.txt'));
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    await page.getByRole('link', { name: 'Models' }).click();
    await page.getByRole('link', { name: 'colours', exact: true }).click();
    await page.getByText('cpu-int8').first().waitFor();

    await stack.json('rollout', 'create', 'colours@1', '--wave', '100%', ...quick);
    await page.getByRole('link', { name: 'Rollouts' }).click();
    await page.locator('table a').first().click();
    // Nothing is reloaded: the page hears of every change by itself.
    await page.getByText('install failures').first().waitFor({ timeout: 120_000, state: 'attached' });
    await page.locator('h1').getByText('succeeded').waitFor({ timeout: 120_000 });
    await page.locator('.plot canvas').first().waitFor({ timeout: 60_000 });
    expect(tab.faults).toEqual([]);
  });

  it('what devices learnt, captured and refused, who keeps what, and what waits for a person, is all there to be looked at', async () => {
    for (const role of ['viewer', 'operator', 'approver']) {
      const made = await stack.json<{ token: string }>('token', 'create', role, '--role', role);
      tokens[role] = made.token;
    }
    expect((await push('worse.tflite', 'colours', '--labels', join(dir, 'labels.txt'))).exitCode).toBe(0);
    expect((await stack.reef('rollout', 'create', 'colours@2', '--wave', '1', '--wave', '100%', ...quick, '--gate', 'scoreDrift=on', '--watch')).exitCode).toBe(1);
    expect((await push('labels.txt', 'text')).exitCode).not.toBe(0);
    expect((await push('extractor.tflite', 'extractor', '--task', 'embedding')).exitCode).toBe(0);
    expect((await stack.reef('rollout', 'create', 'extractor@1', '-w', 'taught', '--wave', '100%', ...quick, '--watch')).exitCode).toBe(0);
    expect((await stack.reef('learn', '--device', stack.agent(1), '--workload', 'taught', '--images', join(dir, 'taught'))).exitCode).toBe(0);
    await stack.json('device', 'configure', stack.agent(1), '--capture', '3600', '--capture-below', '1');
    await stack.json('device', 'label', stack.agent(2), 'site=north', 'ring=a-name-that-is-nearly-as-long-as-names-may-be-63-characters');
    // Waits for a sample that never comes, for a freeze, and for somebody else.
    await stack.json('rollout', 'create', 'colours@1', '-w', 'second', '--wave', '1', '--wave', '100%', '--soak', '1', '--observe', '1', '--min-samples', '1000000', '--deadline', '2', '-l', 'site!=north');
    await stack.json('freeze', '--selector', 'site=north', '--until', '3d', '--reason', 'inventory');
    await stack.json('rollout', 'create', 'colours@1', '-w', 'third', '-l', 'site=north', ...quick);
    await stack.json('device', 'pin', stack.agent(2), '--reason', 'kept until the audit is over');
    await stack.json('config', 'set', 'north', '--selector', 'site=north,ring!=a', '--link', 'metered', '--data-budget', '20MB/day', '--priority', '5');
    await stack.json('site', 'limit', 'north', '--concurrency', '5', '--rate', '2MB');
    const asked = await fetch(`${stack.url}/api/v1/rollouts`, { method: 'POST', headers: { authorization: `Bearer ${tokens.operator}`, 'content-type': 'application/json' }, body: JSON.stringify({ version: 'colours@1', workload: 'fourth', requireApproval: true, soakS: 1, name: 'A name that somebody wrote a whole sentence into, so that nobody has to ask what it is for' }) });
    expect(asked.status).toBe(201);
    await eventually(async () => (await stack.json<Rollout[]>('rollout', 'ls')).some(({ workload, state }) => workload === 'second' && state === 'PAUSED'), 60_000);
    await eventually(async () => (await stack.json<unknown[]>('capture', 'ls')).length >= 3, 60_000);
    await stack.json('device', 'configure', stack.agent(1), '--capture', 'off');
  });

  /** Every address that the console knows, with something that only its content has. */
  async function addresses(): Promise<[path: string, shows: string | RegExp][]> {
    const rollouts = await stack.json<Rollout[]>('rollout', 'ls');
    const jobs = await stack.json<Job[]>('job', 'ls');
    const [alert] = await stack.json<{ id: string; kind: string }[]>('alert', 'ls', '--kind', 'rollout.needs_decision');
    const rollout = (workload: string, version = 'colours@1') => `/rollouts/${rollouts.find((one) => one.workload === workload && one.version === version)!.id}`;
    const job = (version: string) => `/jobs/${jobs.find((one) => one.version === version)!.id}`;
    return [
      ['/', 'Needs a decision'], ['/models', 'source.not_a_model'], ['/models/colours', 'colours@2'], ['/models/colours/1', 'All 3 operators map'], ['/models/painted/1', 'top-1 agreement'], ['/models/extractor/2', 'Learnt on a device'], ['/models/text/1', 'source.not_a_model'],
      ['/rollouts', 'inventory'], [rollout('classifier'), 'Every wave is done.'], [rollout('classifier', 'colours@2'), 'accuracy_failed'], [rollout('second'), 'Still needed'], [rollout('third'), /frozen until .*UTC|frozen until/], [rollout('fourth'), 'Waits for an approver.'],
      ['/alerts', 'rollout.needs_decision'], [`/alerts/${alert!.id}`, 'Last seen'], ['/captures', /Taken for/], [`/devices/${stack.agent(1)}`, /GiB memory/], [`/devices/${stack.agent(2)}`, 'kept until the audit is over'],
      ['/config', 'downloads 20.0 MB a day'], ['/sites', '2.0 MB'],
      [job('painted@1'), 'verify'], [job('text@1'), 'source.not_a_model'], [job('extractor@2'), 'bundle'],
    ];
  }

  it.each([['wide, again and again', {}, { again: true }], ['dark', { dark: true }, {}], ['narrow', { width: 390 }, { usable: false }]])('every page opens by its address, with nothing wrong on it: %s', async (_name, look, checks) => {
    const known = await addresses();
    const patterns = [...(await readFile(join(import.meta.dirname, '../../apps/console/src/app.tsx'), 'utf8')).matchAll(/<Route path="([^"]+)"/g)].map(([, pattern]) => new RegExp(`^${pattern!.replaceAll(/:\w+/g, '[^/]+')}$`));
    for (const pattern of patterns) expect(known.filter(([path]) => pattern.test(path)), `${pattern} is among the addresses`).not.toEqual([]);
    const other = await Tab.open(browser, stack.url, { ...look, token: admin });
    for (const [path, shows] of known) expect(await other.visit(path, shows, checks), path).toEqual([]);
    await other.close();
  }, 600_000);

  it('would have found a page that breaks, a forbidden script, and a control without a name', async () => {
    const other = await Tab.open(browser, stack.url, { token: admin });
    await other.page.route('**/api/v1/overview', (route) => route.fulfill({ json: { devices: {} } }));
    expect(await other.visit('/', 'This page broke')).not.toEqual([]);
    await other.page.unroute('**/api/v1/overview');
    await other.page.evaluate("document.body.append(Object.assign(document.createElement('script'), { src: 'data:text/javascript,0' }))");
    await eventually(() => other.faults.some((fault) => fault.startsWith('policy: script-src')), 5_000);
    await other.page.evaluate("document.querySelector('main').append(document.createElement('button'))");
    expect(await other.unusable()).toEqual([expect.stringContaining('button-name')]);
    await other.close();
  });

  it('a viewer is offered nothing that would be refused, and a token that was revoked is asked for again', async () => {
    const paused = (await stack.json<Rollout[]>('rollout', 'ls')).find(({ state }) => state === 'PAUSED')!;
    const other = await Tab.open(browser, stack.url, { token: tokens.viewer! });
    for (const [path, shows] of [[`/rollouts/${paused.id}`, 'Still needed'], [`/devices/${stack.agent(2)}`, 'kept until'], ['/captures', /Taken for/], ['/models/extractor/2', 'Learnt on a device'], ['/rollouts', 'inventory'], ['/config', 'downloads 20.0 MB a day'], ['/sites', '2.0 MB']] as const) {
      expect(await other.visit(path, shows)).toEqual([]);
      // Turning pages changes nothing.
      expect(await other.page.locator('main button:not(.turn button)').allTextContents(), path).toEqual([]);
    }
    const { items } = (await (await fetch(`${stack.url}/api/v1/tokens`, { headers: { authorization: `Bearer ${admin}` } })).json()) as { items: { id: string; name: string }[] };
    await stack.reef('token', 'revoke', items.find(({ name }) => name === 'viewer')!.id);
    await other.page.getByText('The controller no longer knows the token').waitFor({ timeout: 30_000 });
    await other.close();
  });

  it('asks before it does, says what it would do, and does it', async () => {
    const rollouts = await stack.json<Rollout[]>('rollout', 'ls');
    const other = await Tab.open(browser, stack.url, { token: tokens.approver! });
    const { page } = other;
    await page.goto(`/rollouts/${rollouts.find(({ state }) => state === 'AWAITING_APPROVAL')!.id}`);
    await page.getByRole('button', { name: 'Approve' }).click();
    await page.getByRole('dialog').getByText('This starts it').waitFor();
    expect(await other.unusable()).toEqual([]);
    await page.keyboard.press('Escape');
    await page.locator('h1').getByText('awaiting approval').waitFor();
    await page.getByRole('button', { name: 'Approve' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Approve' }).click();
    await page.locator('h1').getByText(/running|succeeded/).waitFor();

    await page.goto('/models/extractor/2');
    await page.getByRole('button', { name: 'Confirm' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Confirm' }).click();
    await page.getByText('Confirmed by approver.').waitFor();

    await page.goto(`/devices/${stack.agent(2)}`);
    await page.getByRole('button', { name: 'Unpin' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Unpin' }).click();
    await page.getByText('kept until the audit is over').first().waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Pin', exact: true }).click();
    await page.getByRole('dialog').getByLabel(/Reason/).fill('again');
    await page.getByRole('dialog').getByRole('button', { name: 'Pin' }).click();
    await page.getByText('every workload: again').waitFor();

    await page.goto('/captures');
    await page.locator('.picture img').first().waitFor();
    // Bytes that are a picture, not a broken one.
    expect(await page.evaluate<number>("document.querySelector('.picture img').naturalWidth")).toBeGreaterThan(0);
    await page.locator('.pictures input').first().fill('crimson');
    await page.locator('.pictures button[type=submit]').first().click();
    await page.getByLabel('Which pictures').selectOption('with a label');
    await page.locator('.pictures input').first().waitFor();
    expect(await page.locator('.pictures input').first().inputValue()).toBe('crimson');

    await page.goto('/rollouts');
    await page.getByRole('button', { name: 'End the freeze' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'End the freeze' }).click();
    await page.getByText('inventory').first().waitFor({ state: 'detached' });
    expect(other.faults).toEqual([]);
    await other.close();
  });

  it('acknowledges every alert that is shown at once, and so does the command line', async () => {
    const openOf = async () => (await stack.json<{ id: string; state: string }[]>('alert', 'ls')).filter(({ state }) => state === 'OPEN').map(({ id }) => id);
    const before = await openOf();
    expect(before).not.toEqual([]);
    const other = await Tab.open(browser, stack.url, { token: tokens.operator! });
    const { page } = other;
    await page.goto('/alerts');
    await page.getByRole('button', { name: 'Acknowledge all shown' }).click();
    expect(await other.unusable()).toEqual([]);
    await page.getByRole('dialog').getByLabel('What is being done').fill('looked at together');
    await page.getByRole('dialog').getByRole('button', { name: 'Acknowledge all shown' }).click();
    await page.getByText(/looked at together, operator/).first().waitFor();
    expect((await openOf()).filter((id) => before.includes(id))).toEqual([]);
    expect(other.faults).toEqual([]);
    await other.close();
    // What has opened since, if anything has.
    const left = (await openOf()).length;
    expect((await stack.json<{ acknowledged: number }>('alert', 'ack', '--all')).acknowledged).toBeGreaterThanOrEqual(left);
    expect(await stack.json('alert', 'ack', '-l', 'site=nowhere')).toEqual({ acknowledged: 0 });
    expect((await stack.reef('alert', 'ack')).stderr).toMatch(/Say which/);
  });

  it('configuration rules are made, changed and removed by keys alone; what is refused stands at its field, and what a rule says that has no field stays', async () => {
    const other = await Tab.open(browser, stack.url, { token: tokens.operator! });
    const { page } = other;
    const write = async (label: string, text: string) => { await page.getByLabel(label, { exact: true }).focus(); await page.keyboard.press('ControlOrMeta+a'); await page.keyboard.type(text); };
    await page.goto('/config');
    await page.getByRole('button', { name: 'Add a rule' }).focus();
    await page.keyboard.press('Enter');
    await write('Name', 'north');
    await write('Labels of the devices', 'site=north');
    await page.getByRole('dialog').getByText('1 device matches now.').waitFor();
    expect(await other.unusable()).toEqual([]);
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByText('There is a rule north already.').waitFor();
    expect(await page.evaluate<string>('document.activeElement.name')).toBe('name');
    await page.keyboard.type('-too');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByText('a rule configures something').waitFor();
    expect(await other.unusable()).toEqual([]);
    await page.getByLabel('Link', { exact: true }).focus();
    await page.keyboard.type('unm');
    await write('Labels of the devices', 'site=(');
    await page.keyboard.press('Enter');
    await page.locator('[aria-invalid=true][name=selector]').waitFor();
    await write('Labels of the devices', 'site=north');
    await page.keyboard.press('Enter');
    await page.getByText('north-too is set for 1 device now').waitFor();
    expect(await stack.json('config', 'ls')).toMatchObject([{ name: 'north' }, { name: 'north-too', selector: 'site=north', config: { link: 'unmetered' }, devices: 1, setBy: 'operator' }]);

    const set = await fetch(`${stack.url}/api/v1/config-rules/north`, { method: 'PUT', headers: { authorization: `Bearer ${tokens.operator}`, 'content-type': 'application/json' }, body: JSON.stringify({ selector: 'site=north', priority: 5, config: { maxFps: 3, capture: { perHour: 20, masks: [{ left: 0, top: 0, width: 1, height: 0.5 }] } } }) });
    expect(set.status).toBe(200);
    await page.getByText('3 frames a second at most').waitFor();
    await page.getByRole('button', { name: 'Edit north', exact: true }).click();
    await write('An hour', '7');
    await page.getByLabel('Frames inferred').selectOption('not by this rule');
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Edit north', exact: true }).click();
    expect(await page.getByLabel('An hour').inputValue()).toBe('20');
    await write('An hour', '8');
    await page.getByLabel('Frames inferred').selectOption('not by this rule');
    await page.getByRole('dialog').getByRole('button', { name: 'Edit' }).click();
    await page.getByText('8 pictures an hour').waitFor();
    expect(await stack.json('config', 'ls')).toMatchObject([{ name: 'north', priority: 5, config: { capture: { perHour: 8, masks: [{ height: 0.5 }] } } }, {}]);
    await page.getByRole('button', { name: 'Remove north-too' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.getByText('north-too is removed').waitFor();
    await page.getByRole('link', { name: '1 device of north', exact: true }).click();
    await page.getByLabel('Label selector').waitFor();
    expect(await page.getByLabel('Label selector').inputValue()).toBe('site=north');
    await page.locator('table').getByText(stack.agent(2)).waitFor();
    await other.close();
  });

  it('limits of sites are set, changed and removed', async () => {
    const other = await Tab.open(browser, stack.url, { token: tokens.operator! });
    const { page } = other;
    const press = (name: string) => page.getByRole('dialog').getByRole('button', { name }).click();
    await page.goto('/sites');
    await page.getByRole('button', { name: 'Limit a site' }).click();
    await page.getByLabel('Value of the label site').fill('north');
    await press('Limit a site');
    await page.getByRole('dialog').getByText('north has a limit already.').waitFor();
    await page.getByLabel('Value of the label site').fill('paris');
    await press('Limit a site');
    await page.getByRole('dialog').getByText('or both').waitFor();
    await page.getByLabel('Devices at once').fill('7');
    await press('Limit a site');
    await page.getByText('The limit of paris is set.').waitFor();
    await page.getByRole('button', { name: 'Change north' }).click();
    expect(await page.getByLabel('Megabytes a second').inputValue()).toBe('2');
    await page.getByLabel('Megabytes a second').fill('');
    await press('Change');
    await page.getByText('The limit of north is set.').waitFor();
    await page.getByRole('button', { name: 'Limit every other site' }).click();
    await page.getByLabel('Megabytes a second').fill('0.5');
    await press('Limit every other site');
    await page.getByText('every other site is set').waitFor();
    await page.getByRole('button', { name: 'Remove the limit of paris' }).click();
    await press('Remove');
    await page.getByText('The limit of paris is removed.').waitFor();
    expect(await stack.json<{ site: string }[]>('site', 'ls')).toEqual(expect.arrayContaining([expect.objectContaining({ site: '*', bytesPerSecond: 500_000, maxInProgress: null }), expect.objectContaining({ site: 'north', maxInProgress: 5, bytesPerSecond: null })]));
    expect(other.faults).toEqual([]);
    await other.close();
  });
});
