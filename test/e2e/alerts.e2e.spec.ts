import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cutModel, readModel } from '@reefkeeper/edgetpu';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { buildFakeEdgeTpu, canBuildFakeEdgeTpu } from '../../libs/inference/src/fake-edgetpu.fixture.ts';
import { asCompiled, compiledModel } from '../support/compiled.ts';
import { chromiumPath, openBrowser, Tab } from '../support/console.ts';
import { colourFrames, eventually } from '../support/fleet.ts';
import { RunningStack } from '../support/stack.ts';
import { standInCompiler } from '../support/stand-in-compiler.ts';

interface AlertView { id: string; kind: string; subject: string; state: string; since: string; openedAt: string; summary: string; note: string | null }
interface Running { running: string | null; variant: string | null; backend: string | null; device: string | null; execution: { state: string } | null }
interface DeviceView { online: boolean; reported: { health: string; conditions: string[]; receivedAt: string; workloads: Record<string, Running> } | null; capabilities: { edgetpus: unknown[] } | null }
interface VersionView { bundleDigest: string; variants: { name: string; digest: string; bytes: number; segments: number; totalBytes: number }[]; pipelines: { segments: { digest: string; bytes: number }[] }[] }
interface WindowView { bundle: string; variant: string; backend: string; inferences: number; errors: Record<string, number>; latency: Record<string, { count: number }>; startedAt: string }

const usb = { type: 'usb' as const, path: '/sys/bus/usb/devices/1-1' };
const other = { type: 'usb' as const, path: '/sys/bus/usb/devices/2-1' };
const secret = 'a secret of more than 24 characters';

/** An int8 model, and what the stand-in for the compiler makes of it in two. */
const lanes = (() => {
  const net = new TfliteBuilder();
  net.output(net.softmax(net.dense(net.flatten(net.conv(net.input([1, 8, 8, 3], { zeroPoint: -1 }), 4)), 4)));
  return net.build();
})();
const segments = [{ to: 2 }, { from: 2 }].map((part, at) => asCompiled(cutModel(readModel(lanes), part), { compiler: `16.0, ${at}` }));

// With everything as built: agent, broker, controller, worker, console; only the Edge TPUs and their compiler are stand-ins. Case 9 of the field first.
describe.skipIf(!canBuildFakeEdgeTpu)('a device that loses its Edge TPUs (needs gcc)', () => {
  let stack: RunningStack;
  let dir: string;
  let server: Server;
  let browser: Browser | undefined;
  const tpus = canBuildFakeEdgeTpu ? buildFakeEdgeTpu() : undefined!;
  const messages: { headers: IncomingHttpHeaders; text: string; body: any }[] = [];
  let refuse = 1;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-alerts-'));
    await colourFrames(join(dir, 'frames'));
    server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => {
        const text = Buffer.concat(chunks).toString();
        messages.push({ headers: request.headers, text, body: JSON.parse(text) });
        response.writeHead(refuse-- > 0 ? 503 : 204).end();
      });
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    tpus.plug(usb, other);
    const compiler = await standInCompiler(dir, 'edgetpu_compiler', [{ does: 'succeed', outputs: segments }, { does: 'succeed', outputs: asCompiled(lanes) }]);
    stack = await RunningStack.up({ agents: 1, frames: join(dir, 'frames'), fps: 5, env: { REEF_EDGETPU_LIBRARY: tpus.library, REEF_PROBE_MAX_S: '1', REEF_EDGETPU_COMPILER: compiler.path, ALERT_WEBHOOK_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, ALERT_WEBHOOK_SECRET: secret } });
  });
  afterAll(async () => {
    await browser?.close();
    await stack?.remove();
    server?.closeAllConnections();
    server?.close();
    tpus.remove();
    await rm(dir, { recursive: true, force: true });
  });

  const device = () => stack.json<DeviceView>('device', 'show', stack.agent(1));
  const adminToken = async () => (JSON.parse(await readFile(join(stack.dir, 'credentials.json'), 'utf8')) as { token: string }).token;
  const open = () => stack.json<AlertView[]>('alert', 'ls', '--device', stack.agent(1));

  it('the alert opens within ten seconds of its report, is told, acknowledged, and closes by itself without a restart', async () => {
    await writeFile(join(dir, 'shapes_edgetpu.tflite'), compiledModel());
    const pushed = await stack.reef('model', 'push', join(dir, 'shapes_edgetpu.tflite'), '--name', 'shapes');
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    const rolled = await stack.reef('rollout', 'create', 'shapes@1', '--no-cpu-fallback', '--wave', '100%', '--soak', '1', '--observe', '0', '--min-samples', '1', '--watch');
    expect(rolled.stderr + rolled.stdout).toContain('SUCCEEDED');
    expect(await open()).toEqual([]);

    const watched: { event: string; kind: string }[] = [];
    const watcher = execa(process.execPath, [join(import.meta.dirname, '../../apps/cli/dist/main.js'), '--dir', stack.dir, '--json', 'alert', 'watch', '--kind', 'device.no_accelerator'], { reject: false, stdin: 'ignore', buffer: false });
    createInterface({ input: watcher.stdout! }).on('line', (line) => watched.push(JSON.parse(line) as { event: string; kind: string }));

    // Gone while the agent is down: at its next start there is none.
    tpus.plug();
    await stack.kill(stack.agent(1));
    const ill = await eventually(async () => { const one = await device(); return one.online && one.reported?.conditions.includes('NO_ACCELERATOR') && one; }, 60_000);
    const reportedAt = Date.parse(ill.reported!.receivedAt);
    const alert = await eventually(async () => (await open()).find(({ kind }) => kind === 'device.no_accelerator'), 60_000);
    expect(Date.parse(alert.openedAt) - reportedAt).toBeLessThan(10_000);
    expect(alert).toMatchObject({ subject: stack.agent(1), state: 'OPEN' });

    await eventually(() => messages.length >= 2 && messages, 60_000);
    expect(messages[0]!.text).toBe(messages[1]!.text);
    const { headers, text, body } = messages[1]!;
    expect(body).toMatchObject({ version: '4', status: 'firing', alerts: [{ labels: { alertname: 'device.no_accelerator', device: stack.agent(1) }, generatorURL: `${stack.url}/alerts/${alert.id}` }] });
    expect(headers['webhook-signature']).toBe(`v1,${createHmac('sha256', secret).update(`${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${text}`).digest('base64')}`);
    expect(await (await fetch(`${stack.url}/metrics`)).text()).toContain('reef_alerts_open{kind="device.no_accelerator",severity="warning",acknowledged="false"} 1');

    if (chromiumPath) await lookAt(alert);
    expect(await stack.json<AlertView>('alert', 'ack', alert.id, '--note', 'cable ordered')).toMatchObject({ state: 'ACKNOWLEDGED', note: 'cable ordered' });
    expect((await stack.reef('alert', 'show', alert.id)).stdout).toContain('cable ordered');
    for (const command of [['status'], ['device', 'show', stack.agent(1)]]) expect((await stack.reef(...command)).stdout).toContain('device.no_accelerator');

    tpus.plug(usb, other);
    await eventually(async () => (await device()).reported?.health === 'HEALTHY', 60_000);
    expect(await eventually(async () => (await open()).length === 0, 60_000)).toBe(true);
    expect(await stack.json<AlertView>('alert', 'show', alert.id)).toMatchObject({ state: 'CLOSED', note: 'cable ordered' });
    await eventually(() => messages.length >= 3, 60_000);
    await eventually(() => watched.length >= 3, 30_000);
    watcher.kill();
    await watcher;
    expect(watched.map(({ event }) => event)).toEqual(['opened', 'acknowledged', 'closed']);
    expect(messages[2]!.body).toMatchObject({ status: 'resolved', alerts: [{ fingerprint: body.alerts[0].fingerprint, startsAt: alert.openedAt }] });
  });

  it('a model in two segments runs as a pipeline, on one Edge TPU where the other is gone, and as a pipeline again', async () => {
    await writeFile(join(dir, 'lanes.tflite'), lanes);
    const pushed = await stack.reef('model', 'push', join(dir, 'lanes.tflite'), '--name', 'lanes', '--segments', '2');
    expect(pushed.stderr + pushed.stdout).toContain('READY');
    const version = await stack.json<VersionView>('model', 'show', 'lanes@1');
    expect(version.variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-14', 'edgetpu-14-x2']);
    expect(version.variants.at(-1)).toMatchObject({ bytes: segments[0]!.length, segments: 2, totalBytes: segments[0]!.length + segments[1]!.length });
    expect(pushed.stdout).toMatch(/edgetpu-14-x2 .* in 2 segments/);
    if (chromiumPath) expect(await (await Tab.open(browser ??= await openBrowser(), stack.url, { token: await adminToken() })).visit('/models/lanes/1', 'in 2 segments')).toEqual([]);
    const rolled = await stack.reef('rollout', 'create', 'lanes@1', '--workload', 'lanes', '--no-cpu-fallback', '--wave', '100%', '--soak', '1', '--observe', '0', '--min-samples', '1', '--watch');
    expect(rolled.stderr + rolled.stdout).toContain('SUCCEEDED');

    const id = stack.agent(1);
    const token = await adminToken();
    const api = async <T>(path: string) => (await fetch(`${stack.url}/api/v1${path}`, { headers: { authorization: `Bearer ${token}` } })).json() as Promise<T>;
    const runs = async (variant: string) => eventually(async () => {
      const { reported } = await api<DeviceView>(`/devices/${id}`);
      return reported?.workloads.lanes?.variant === variant && reported;
    }, 60_000);
    // Windows that began after now, whole ones.
    const window = async (variant: string) => {
      const from = Date.now();
      return eventually(async () => (await api<{ items: WindowView[] }>(`/devices/${id}/telemetry?workload=lanes`)).items.find((one) => Date.parse(one.startedAt) > from && one.variant === variant && one.inferences > 2), 60_000);
    };
    const alerts = async () => (await api<{ items: AlertView[] }>(`/alerts?device=${id}`)).items;

    const pid = await stack.pidOf(id);
    const well = await runs('edgetpu-14-x2');
    expect(well).toMatchObject({ health: 'HEALTHY', workloads: { lanes: { running: version.bundleDigest, backend: 'edgetpu', device: expect.stringMatching(/^\S+, \S+$/) as string, execution: { state: 'SUCCEEDED' } } } });
    // Every segment has come, with what is to stand in for them; the CPU's file was not asked for.
    const stored = await readdir(join(stack.dir, 'agents', id, 'store/blobs'));
    const digestOf = (name: string) => version.variants.find((variant) => variant.name === name)!.digest;
    expect(stored).toEqual(expect.arrayContaining([...version.pipelines[0]!.segments.map(({ digest }) => digest), digestOf('edgetpu-14')]));
    expect(stored).not.toContain(digestOf('cpu-int8'));
    expect(await window('edgetpu-14-x2')).toMatchObject({ bundle: version.bundleDigest, backend: 'edgetpu', errors: {}, latency: { segment1: { count: expect.any(Number) as number }, segment2: {} } });

    tpus.plug(usb);
    const ill = await runs('edgetpu-14');
    expect(ill).toMatchObject({ health: 'DEGRADED', conditions: expect.arrayContaining(['NO_ACCELERATOR']) as string[], workloads: { lanes: { running: version.bundleDigest, backend: 'edgetpu', execution: { state: 'SUCCEEDED' } } } });
    expect(await window('edgetpu-14')).toMatchObject({ bundle: version.bundleDigest, backend: 'edgetpu', errors: {} });
    const alert = await eventually(async () => (await alerts()).find(({ kind }) => kind === 'device.no_accelerator'), 60_000);
    expect(alert.summary).toContain('fewer than a workload wants');
    const { stdout } = await stack.reef('device', 'show', id);
    for (const words of [`edgetpu-14 on ${usb.path}`, 'NO_ACCELERATOR', 'device.no_accelerator']) expect(stdout).toContain(words);

    tpus.plug(usb, other);
    expect(await runs('edgetpu-14-x2')).toMatchObject({ workloads: { lanes: { running: version.bundleDigest, execution: { state: 'SUCCEEDED' } } } });
    expect(await window('edgetpu-14-x2')).toMatchObject({ errors: {} });
    await eventually(async () => (await alerts()).length === 0, 60_000);
    expect((await device()).reported).toMatchObject({ health: 'HEALTHY', conditions: [], workloads: { lanes: { variant: 'edgetpu-14-x2' } } });
    expect(await stack.pidOf(id)).toBe(pid);
  });

  /** The page follows by itself. */
  async function lookAt(alert: AlertView): Promise<void> {
    browser = await openBrowser();
    const { page, faults } = await Tab.open(browser, stack.url);
    await page.goto(`/alerts#token=${await adminToken()}`);
    await page.getByRole('link', { name: alert.kind }).waitFor();
    await page.getByRole('navigation', { name: 'Pages' }).getByLabel('1 open').waitFor();
    await page.getByRole('link', { name: stack.agent(1) }).click();
    await page.getByText('1 open alert').waitFor();
    await page.getByRole('link', { name: alert.kind }).click();
    await page.getByRole('heading', { name: alert.kind }).waitFor();
    await page.getByText('no Edge TPU that answers').waitFor();
    expect(faults).toEqual([]);
  }
});
