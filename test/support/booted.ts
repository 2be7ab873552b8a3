import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { execa, type Result } from 'execa';
import { eventually } from './fleet.ts';

const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' };

/** Whether a container may be started here at all. */
export async function canContain(): Promise<boolean> {
  return (await execa('systemd-nspawn', ['--quiet', '--register=no', '--keep-unit', '--volatile=yes', '--directory=/', '--pipe', '/bin/true'], { reject: false })).exitCode === 0;
}

/** A folder with a Debian system in it, booted: systemd is its first process (systemd-nspawn), the network is this machine's. */
export class Booted {
  private constructor(private readonly nspawn: ChildProcess, private readonly leader: number) {}

  static async start(root: string): Promise<Booted> {
    // A terminal of its own: without one systemd has no console. What it says there is of no use afterwards, the journal has it.
    const nspawn = spawn('script', ['--quiet', '--flush', '--return', '--command', `exec systemd-nspawn --quiet --register=no --keep-unit --kill-signal=SIGRTMIN+3 --directory='${root}' --boot`, '/dev/null'], { stdio: ['ignore', 'ignore', 'inherit'] });
    const leader = await eventually(async () => {
      if (nspawn.exitCode !== null) throw new Error(`systemd-nspawn ended with ${nspawn.exitCode}`);
      const [own] = await childrenOf(nspawn.pid!);
      const [first] = own === undefined ? [] : await childrenOf(own);
      return first !== undefined && (await readFile(`/proc/${first}/comm`, 'utf8').catch(() => '')).startsWith('systemd') ? first : undefined;
    });
    const booted = new Booted(nspawn, leader);
    await eventually(async () => /running|degraded/.test((await booted.run(['systemctl', 'is-system-running'], false)).stdout), 60_000, () => 'the system does not come up');
    return booted;
  }

  /** Runs a command inside, as root. */
  run(command: readonly string[], reject = true): Promise<Result<{ all: true }>> {
    return execa('nsenter', ['--target', `${this.leader}`, '--mount', '--uts', '--ipc', '--net', '--pid', '--cgroup', '--root', '--wd=/', '--', ...command], { all: true, reject, env: environment, extendEnv: false }) as unknown as Promise<Result<{ all: true }>>;
  }

  /** What systemd says of a unit, by property. */
  async unit(name: string, ...properties: string[]): Promise<Record<string, string>> {
    const { stdout } = await this.run(['systemctl', 'show', name, ...properties.map((property) => `--property=${property}`)]);
    return Object.fromEntries(`${stdout}`.split('\n').filter(Boolean).map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
  }

  /** The unit's log since the system came up. */
  async journal(name: string): Promise<string> {
    return `${(await this.run(['journalctl', '--no-pager', '--output=cat', `--unit=${name}`])).stdout}`;
  }

  async stop(): Promise<void> {
    if (this.nspawn.exitCode !== null) return;
    const gone = once(this.nspawn, 'exit');
    await this.run(['systemctl', 'poweroff'], false);
    await gone;
  }
}

async function childrenOf(pid: number): Promise<number[]> {
  return (await execa('pgrep', ['--parent', `${pid}`], { reject: false })).stdout.split('\n').filter(Boolean).map(Number);
}
