import { mkdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { commandResult, type Command, type CommandResult } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import type { Disk } from './disk.ts';

export type CommandHandlers = { [K in Command['kind']]: (args: Record<string, unknown>, id: string) => Promise<Record<string, unknown>> };

/** `delivered` false: the broker has not acknowledged the answer yet. */
const journal = z.array(z.object({ id: z.string(), result: commandResult.schema.nullable(), delivered: z.boolean().optional() }));
type Entry = z.infer<typeof journal>[number];
/** As many as a broker could still deliver again. */
const kept = 256;

/**
 * One-off requests, each at most once: the id is noted before it is run, the answer after. A repeat gets the same answer. Those of one kind run one after the
 * other; a device that learns for minutes still answers a ping.
 */
export class Commands {
  private readonly tails = new Map<Command['kind'], Promise<unknown>>();

  private constructor(private readonly path: string, private readonly disk: Disk, private entries: Entry[], private readonly handlers: CommandHandlers) {}

  static async open(dir: string, disk: Disk, handlers: CommandHandlers): Promise<Commands> {
    await disk.write(() => mkdir(dir, { recursive: true }));
    const path = join(dir, 'commands.json');
    const text = await readFile(path, 'utf8').catch(() => '[]');
    let entries: Entry[] = [];
    try {
      entries = journal.parse(JSON.parse(text));
    } catch {
      // Kept for whoever looks into it. What was in it could be run a second time; that is better than none ever again.
      await disk.write(() => rename(path, `${path}.damaged`));
    }
    // What we were at when we died has an answer, too, and nobody will ask again.
    const answered = entries.map((entry): Entry => (entry.result ? entry : { id: entry.id, result: interrupted(entry.id), delivered: false }));
    return new Commands(path, disk, answered, handlers);
  }

  handle(command: Command, now: Date): Promise<CommandResult> {
    const answer = (this.tails.get(command.kind) ?? Promise.resolve()).then(() => this.answer(command, now));
    this.tails.set(command.kind, answer.catch(() => {}));
    return answer;
  }

  /** Answers that a broken line kept from being sent; the broker does not deliver the command again by itself. */
  get undelivered(): CommandResult[] {
    return this.entries.flatMap(({ result, delivered }) => (result && delivered === false ? [result] : []));
  }

  async delivered(id: string): Promise<void> {
    this.entries = this.entries.map((entry) => (entry.id === id ? { ...entry, delivered: true } : entry));
    await this.save();
  }

  private async answer(command: Command, now: Date): Promise<CommandResult> {
    const { id } = command;
    const before = this.entries.find((entry) => entry.id === id);
    if (before) return before.result ?? interrupted(id);
    this.entries = [...this.entries.slice(-(kept - 1)), { id, result: null }];
    await this.save();
    const result = await this.run(command, now);
    this.entries = this.entries.map((entry) => (entry.id === id ? { id, result, delivered: false } : entry));
    await this.save();
    return result;
  }

  private async run(command: Command, now: Date): Promise<CommandResult> {
    const { id, kind, args, expiresAt } = command;
    try {
      // The one place where the device clock counts; a clock that is behind only makes a stale command run.
      if (expiresAt && Date.parse(expiresAt) < now.getTime()) throw new ReefError('command.expired', 'invalid', `The command was only good until ${expiresAt}.`);
      return { id, ok: true, result: await this.handlers[kind](args, id), failure: null };
    } catch (error) {
      return refused(id, asReefError(error));
    }
  }

  /** While the disk cannot be written the journal holds in memory: until the next start each is still run once. */
  private async save(): Promise<void> {
    await this.disk.write(() => writeFileAtomic(this.path, JSON.stringify(this.entries)));
  }
}

function interrupted(id: string): CommandResult {
  return refused(id, new ReefError('command.interrupted', 'unavailable', 'The agent was restarted while it ran this command; whether it took effect is not known. Send a new one.'));
}

function refused(id: string, { code, message }: ReefError): CommandResult {
  return { id, ok: false, result: {}, failure: { code, message } };
}
