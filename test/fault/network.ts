import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A network of its own with one wire to this machine, for processes that are to lose the rest of the world. Needs root. */
export class Island {
  private constructor(readonly name: string, private readonly wire: string, readonly host: string) {}

  /** undefined where network namespaces are not permitted */
  static async make(number: number): Promise<Island | undefined> {
    const [name, wire] = [`reef-fault-${number}`, `rf${number}h`];
    const [host, inside] = [`10.213.${number % 250}.1`, `10.213.${number % 250}.2`];
    try {
      await run('ip', ['netns', 'add', name]);
      await run('ip', ['link', 'add', wire, 'type', 'veth', 'peer', 'name', `rf${number}i`, 'netns', name]);
      await run('ip', ['addr', 'add', `${host}/24`, 'dev', wire]);
      await run('ip', ['link', 'set', wire, 'up']);
      await run('ip', ['-n', name, 'addr', 'add', `${inside}/24`, 'dev', `rf${number}i`]);
      for (const device of ['lo', `rf${number}i`]) await run('ip', ['-n', name, 'link', 'set', device, 'up']);
      return new Island(name, wire, host);
    } catch {
      await run('ip', ['link', 'del', wire]).catch(() => {});
      await run('ip', ['netns', 'del', name]).catch(() => {});
      return undefined;
    }
  }

  command(command: readonly string[]): string[] {
    return ['ip', 'netns', 'exec', this.name, ...command];
  }

  async cut(): Promise<void> {
    await run('ip', ['-n', this.name, 'link', 'set', this.wire.replace(/h$/, 'i'), 'down']);
  }

  async mend(): Promise<void> {
    await run('ip', ['-n', this.name, 'link', 'set', this.wire.replace(/h$/, 'i'), 'up']);
  }

  /** @returns false where the kernel has no netem */
  async lose(percent: number): Promise<boolean> {
    return run('tc', ['qdisc', 'replace', 'dev', this.wire, 'root', 'netem', 'loss', `${percent}%`]).then(() => true, () => false);
  }

  async remove(): Promise<void> {
    await run('ip', ['link', 'del', this.wire]).catch(() => {});
    await run('ip', ['netns', 'del', this.name]).catch(() => {});
  }
}
