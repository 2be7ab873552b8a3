import { execFile, spawn } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { ReefError } from '@reefkeeper/platform/errors';

/** What `self-test` says of a release. */
export interface SelfTest { version: string; tfliteVersion: string | null }

/** The release of the package: always there, never written by us. */
export const factory = 'factory';

const selfTestMs = 120_000;
const exec = promisify(execFile);

/**
 * Releases of the agent itself below `DIR/agent`, next to the links that the launcher (`deploy/agent/launcher`, which explains them) goes by.
 * Every change is one rename, made durable before the next. A release is named by its bundle's digest.
 */
export class Releases {
  private readonly base: string;

  /** @param own the release that runs here, as the launcher calls it */
  constructor(dir: string, readonly own: string) {
    this.base = join(dir, 'agent');
  }

  /**
   * Makes the release ready to be started, at once and once.
   * @param archive a tar of its folder, whose digest has been verified
   * @throws ReefError `agent.release_malformed`
   */
  async unpack(name: string, archive: string): Promise<void> {
    if (await this.has(name)) return;
    const incoming = join(this.base, 'releases', `.${name}`);
    await rm(incoming, { recursive: true, force: true });
    await mkdir(incoming, { recursive: true });
    // The system's own tar, which is on every Debian: one library less in the agent's memory.
    const tar = spawn('tar', ['-x', '--no-same-owner', '-C', incoming], { stdio: ['pipe', 'ignore', 'pipe'] });
    let said = '';
    tar.stderr.on('data', (chunk: Buffer) => { said = (said + chunk.toString()).slice(-1_000); });
    const ended = new Promise<number | null>((resolve, reject) => { tar.once('error', reject).once('close', resolve); });
    const [fed] = await Promise.allSettled([pipeline(createReadStream(archive), tar.stdin), ended]);
    const code = await ended;
    if (code !== 0 || fed.status === 'rejected') throw new ReefError('agent.release_malformed', 'invalid', `The release cannot be unpacked: ${said.trim() || `tar ended with ${code}`}`);
    for (const entry of await readdir(incoming, { recursive: true, withFileTypes: true })) if (!entry.isSymbolicLink()) await synced(join(entry.parentPath, entry.name));
    await synced(incoming);
    await rename(incoming, this.folder(name));
    await synced(join(this.base, 'releases'));
  }

  /**
   * Has the release say on this device, with this device's Node and libraries, that it could run.
   * @throws ReefError `golden.failed`
   */
  async selfTest(name: string, signal: AbortSignal): Promise<SelfTest> {
    try {
      const { stdout } = await exec(process.execPath, [join(this.folder(name), 'lib/agent/main.js'), 'self-test'], { timeout: selfTestMs, killSignal: 'SIGKILL', signal });
      return JSON.parse(stdout) as SelfTest;
    } catch (cause) {
      signal.throwIfAborted();
      const { stderr, message } = cause as Error & { stderr?: string };
      throw new ReefError('golden.failed', 'invalid', `The release does not run on this device: ${(stderr?.trim() || message).slice(-1_500)}`, { cause });
    }
  }

  /** From the next start on: on probation. */
  async try(name: string): Promise<void> {
    await this.remove('failed');
    await this.remove('starts');
    await this.point('trial', name);
  }

  /** Passes the probation. @returns false where the launcher has given the release up already */
  async prove(): Promise<boolean> {
    if ((await this.at('trial')) !== this.own) return (await this.at('current')) === this.own;
    const before = await this.at('current');
    if (before === undefined) await this.remove('previous');
    else if (before !== this.own) await this.point('previous', before);
    // The launcher gives up by renaming the same link: one of both fails.
    const won = await rename(join(this.base, 'trial'), join(this.base, 'current')).then(() => true, (error: NodeJS.ErrnoException) => { if (error.code === 'ENOENT') return false; throw error; });
    await synced(this.base);
    return won;
  }

  /** From the next start on, without probation: it has proved itself here before. */
  async use(name: string): Promise<void> {
    await this.remove('trial');
    await this.remove('starts');
    await this.remove('previous');
    if (name === factory) await this.remove('current');
    else await this.point('current', name);
  }

  /** Starts of the release that runs count from here again. */
  async well(): Promise<void> {
    await this.remove('starts');
  }

  async onTrial(name: string): Promise<boolean> {
    return (await this.at('trial')) === name;
  }

  async has(name: string): Promise<boolean> {
    return name === factory || (await readdir(this.folder(name)).then(() => true, () => false));
  }

  /** Why the launcher gave the release up; undefined where it did not, or did not live to say. */
  async failureOf(name: string): Promise<string | undefined> {
    const [given, why] = (await readFile(join(this.base, 'failed'), 'utf8').catch(() => '')).trim().split(' ');
    return given === name ? why : undefined;
  }

  /** Removes what no name keeps and no link names. */
  async collect(keep: ReadonlySet<string>): Promise<void> {
    const needed = new Set([...keep, this.own, await this.at('trial'), await this.at('current'), await this.at('previous')]);
    for (const name of await readdir(join(this.base, 'releases')).catch(() => [])) if (!needed.has(name)) await rm(join(this.base, 'releases', name), { recursive: true, force: true });
  }

  private folder(name: string): string {
    return join(this.base, 'releases', name);
  }

  private async at(link: string): Promise<string | undefined> {
    return readlink(join(this.base, link)).then((target) => target.slice(target.lastIndexOf('/') + 1), () => undefined);
  }

  private async point(link: string, name: string): Promise<void> {
    const fresh = join(this.base, `.${link}.new`);
    await rm(fresh, { force: true });
    await symlink(`releases/${name}`, fresh);
    await rename(fresh, join(this.base, link));
    await synced(this.base);
  }

  private async remove(file: string): Promise<void> {
    await rm(join(this.base, file), { force: true });
    await synced(this.base).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'ENOENT') throw error; });
  }
}

async function synced(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
