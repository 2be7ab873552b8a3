import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { chromium, type Browser, type Page } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensurePythonEnv } from '@reefkeeper/conversion';
import { coloursModel } from '../support/colours.ts';
import { RunningStack } from '../support/stack.ts';

// The console in a real browser, on a real stack with one device that serves a model.
const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const plain = { red: '#dc1414', green: '#14c81e', blue: '#141edc', yellow: '#e6dc14' };

describe.skipIf(!executablePath)('console in Chromium (needs a Chromium)', () => {
  let stack: RunningStack;
  let dir: string;
  let browser: Browser;
  let page: Page;
  const faults: string[] = [];

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-console-'));
    const frames = join(dir, 'frames');
    await mkdir(frames);
    for (const [name, background] of Object.entries(plain)) await sharp({ create: { width: 64, height: 64, channels: 3, background } }).png().toFile(join(frames, `${name}.png`));
    await writeFile(join(frames, 'labels.csv'), `file,label\n${Object.keys(plain).map((name) => `${name}.png,${name}\n`).join('')}`);
    await writeFile(join(dir, 'labels.txt'), `${Object.keys(plain).join('\n')}\n`);
    await writeFile(join(dir, 'colours.tflite'), coloursModel());
    stack = await RunningStack.up({ agents: 1, frames, fps: 20 });
    browser = await chromium.launch({ executablePath: executablePath!, args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
    page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (line) => { if (line.type() === 'error' && !line.text().includes('401')) faults.push(line.text()); });
  });
  afterAll(async () => {
    await browser?.close();
    await stack?.remove();
    await rm(dir, { recursive: true, force: true });
  });

  it('asks for a token, refuses a wrong one, and shows the fleet', async () => {
    await page.goto(stack.url);
    await page.fill('#token', 'reef_not_a_token');
    await page.click('button[type=submit]');
    await page.getByText('The controller does not know this token.').waitFor();
    await page.fill('#token', (JSON.parse(await readFile(join(stack.dir, 'credentials.json'), 'utf8')) as { token: string }).token);
    await page.click('button[type=submit]');
    await page.getByRole('link', { name: stack.agent(1) }).waitFor();
    await page.locator('table').getByText('online').waitFor();
  });

  it('shows where a quantised model differs from its original', async () => {
    const { python } = await ensurePythonEnv({ root: join(import.meta.dirname, '../../.reef/python') });
    const made = join(dir, 'made');
    await mkdir(made);
    await execa(python, [join(import.meta.dirname, '../support/colour-model.py'), made]);
    await writeFile(join(made, 'labels.txt'), 'red\ngreen\nblue\n');
    const pushed = await stack.reef('model', 'push', join(made, 'model'), '--name', 'painted', '--labels', join(made, 'labels.txt'), '--calibration', join(made, 'pictures'));
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    await page.getByRole('link', { name: 'Models' }).click();
    await page.getByRole('link', { name: 'painted', exact: true }).click();
    await page.getByRole('link', { name: 'painted@1' }).click();
    await page.getByText('top-1 agreement').waitFor();
    await page.getByText('Mapped to Edge TPU').first().waitFor();
    await page.getByText('verify.not_held_out').waitFor();
    expect(await page.locator('.bars tr').count()).toBe(3);
    expect(await page.locator('.matrix td.right').allTextContents()).toEqual(['20', '20', '20']);
    if (process.env.REEF_SCREENSHOTS) await page.screenshot({ path: join(process.env.REEF_SCREENSHOTS, 'parity.png'), fullPage: true });
    expect(faults).toEqual([]);
  }, 900_000);

  it('follows a model and a rollout live, with verdicts and plots', async () => {
    const pushed = await stack.reef('model', 'push', join(dir, 'colours.tflite'), '--name', 'colours', '--labels', join(dir, 'labels.txt'), '--mean', '0', '--std', '255');
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    await page.getByRole('link', { name: 'Models' }).click();
    await page.getByRole('link', { name: 'colours', exact: true }).click();
    await page.getByText('cpu-int8').first().waitFor();

    await stack.json('rollout', 'create', 'colours@1', '--wave', '100%', '--soak', '4', '--observe', '2', '--min-samples', '10');
    await page.getByRole('link', { name: 'Rollouts' }).click();
    await page.locator('table a').first().click();
    // Nothing is reloaded: the page hears of every change by itself.
    await page.getByText('install failures').waitFor({ timeout: 120_000 });
    await page.locator('h1').getByText('succeeded').waitFor({ timeout: 120_000 });
    await page.locator('.plot canvas').first().waitFor({ timeout: 60_000 });
    expect(faults).toEqual([]);
  });
});
