import { mkdir, readdir, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, type ResultPromise } from 'execa';
import getPort from 'get-port';

// Google's own Pub/Sub emulator, and fsouza/fake-gcs-server, which tells it of every object written. Both speak the real protocols to the real clients.
const fakeGcs = 'v1.56.1';
const tools = join(import.meta.dirname, '../../.reef/tools', `fake-gcs-server-${fakeGcs}`);
const emulatorFolders = [process.env.PUBSUB_EMULATOR_DIR, '/usr/lib/google-cloud-sdk/platform/pubsub-emulator', '/usr/share/google-cloud-sdk/platform/pubsub-emulator', '/opt/google-cloud-sdk/platform/pubsub-emulator'];

export interface GoogleParts {
  gcs: string;
  emulator: string;
}

/** Where both are; a sentence where one cannot be had. Builds the storage server once (about two minutes). */
export async function findGoogle(): Promise<GoogleParts | string> {
  const emulator = await jarOf();
  if (!emulator) return 'the Pub/Sub emulator is not installed (package google-cloud-cli-pubsub-emulator, or PUBSUB_EMULATOR_DIR)';
  if (!(await runs('java', ['-version']))) return 'the Pub/Sub emulator needs Java';
  const gcs = join(tools, 'fake-gcs-server');
  if (!(await isFile(gcs))) {
    if (!(await runs('go', ['version']))) return 'fake-gcs-server is built with Go, which is not installed';
    await mkdir(tools, { recursive: true });
    const built = await execa('go', ['install', `github.com/fsouza/fake-gcs-server@${fakeGcs}`], { env: { GOBIN: tools }, reject: false, timeout: 840_000, all: true });
    if (built.failed) return `fake-gcs-server cannot be built: ${built.all?.slice(-300)}`;
  }
  return { gcs, emulator };
}

async function jarOf(): Promise<string | undefined> {
  for (const folder of emulatorFolders) {
    if (!folder) continue;
    const jar = (await readdir(join(folder, 'lib')).catch(() => [])).find((name) => /^cloud-pubsub-emulator-.*\.jar$/.test(name));
    if (jar) return join(folder, 'lib', jar);
  }
  return undefined;
}

export class RunningGoogle {
  private constructor(private readonly children: ResultPromise[], readonly gcsEndpoint: string, readonly pubsubHost: string, readonly project: string, readonly topic: string) {}

  static async start(parts: GoogleParts): Promise<RunningGoogle> {
    const [gcsPort, pubsubPort] = [await getPort(), await getPort()];
    const [project, topic] = ['reefkeeper', 'bucket-events'];
    const pubsubHost = `127.0.0.1:${pubsubPort}`;
    const quiet = { reject: false, stdin: 'ignore', stdout: 'ignore', stderr: 'ignore', cleanup: true } as const;
    const emulator = execa('java', ['-Xmx256m', '-jar', parts.emulator, '--host=127.0.0.1', `--port=${pubsubPort}`], quiet);
    await answers(pubsubPort, 'the Pub/Sub emulator');
    // No machine of Google's to ask for credentials, which takes the clients seconds to find out.
    process.env.METADATA_SERVER_DETECTION = 'none';
    const { PubSub } = await import('@google-cloud/pubsub');
    process.env.PUBSUB_EMULATOR_HOST = pubsubHost;
    const setup = new PubSub({ projectId: project });
    await setup.createTopic(topic);
    await setup.close();
    const gcs = execa(parts.gcs, ['-scheme', 'http', '-host', '127.0.0.1', '-port', `${gcsPort}`, '-external-url', `http://127.0.0.1:${gcsPort}`, '-backend', 'memory', '-log-level', 'error',
      '-event.pubsub-project-id', project, '-event.pubsub-topic', topic, '-event.list', 'finalize'], { ...quiet, env: { PUBSUB_EMULATOR_HOST: pubsubHost } });
    await answers(gcsPort, 'fake-gcs-server');
    return new RunningGoogle([gcs, emulator], `http://127.0.0.1:${gcsPort}`, pubsubHost, project, topic);
  }

  async stop(): Promise<void> {
    delete process.env.PUBSUB_EMULATOR_HOST;
    for (const child of this.children) child.kill('SIGKILL');
    await Promise.all(this.children);
  }
}

async function answers(port: number, what: string): Promise<void> {
  for (let tries = 0; tries < 600; tries += 1) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true); }).once('error', () => resolve(false));
    });
    if (open) return;
    await sleep(100);
  }
  throw new Error(`${what} does not answer on port ${port}`);
}

async function runs(file: string, args: string[]): Promise<boolean> {
  return !(await execa(file, args, { reject: false })).failed;
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then((found) => found.isFile(), () => false);
}
