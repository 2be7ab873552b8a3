import type { Commands, DeviceCommand } from '@reefkeeper/devices';
import type { Clock, Logger } from '@reefkeeper/platform';
import { command } from '@reefkeeper/protocol';
import type { MqttClient } from 'mqtt';
import { acknowledged, published } from './acknowledged.ts';
import { Batches } from './batches.ts';

/** A device answers sooner as a rule, and then the command never needs to be marked as sent. */
const markMs = 200;
/** Whoever made a command has published and marked it by then, or never will. */
const leftBehindMs = 2_000;

/**
 * Commands on their way out. A person waits for them, so the process that made one publishes it as soon as its row is committed, past everything else; what it left behind (it died, its broker was away)
 * the next sweep of any replica finds. So a command may come to its device twice, which journals ids.
 */
export class CommandSender {
  private readonly marks: Batches<string>;

  constructor(private readonly commands: Commands, private readonly client: () => MqttClient | undefined, private readonly clock: Clock, private readonly log: Logger, signal: AbortSignal) {
    this.marks = new Batches((ids: string[]) => commands.markSent(ids), { most: 500, waitMs: markMs, signal });
    commands.publishWith((made) => {
      this.sendNow(made).catch((err: unknown) => this.log.warn({ err, device: made.deviceId, command: made.id }, 'command was not sent at once, trying again at the next sweep'));
    });
  }

  /** @returns whether there may be more */
  async sendLeftBehind(limit: number): Promise<boolean> {
    const left = await this.commands.queued(limit, new Date(this.clock.now().getTime() - leftBehindMs));
    if (left.length === 0) return false;
    await this.publish(left);
    await this.commands.markSent(left.map(({ id }) => id));
    return left.length === limit;
  }

  private async sendNow(made: DeviceCommand): Promise<void> {
    if (!this.client()?.connected) return;
    await this.publish([made]);
    await this.marks.add(made.id);
  }

  private async publish(made: readonly DeviceCommand[]): Promise<void> {
    const client = this.client()!;
    await acknowledged(client, made.map(({ id, deviceId, kind, args, expiresAt }) => client.publishAsync(command.topicFor(deviceId, id), command.encode({ id, kind: kind as 'ping', args, expiresAt: expiresAt.toISOString() }), { qos: command.qos })));
    published.inc({ message: 'command' }, made.length);
  }
}
