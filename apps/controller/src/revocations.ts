import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Authority, Devices } from '@reefkeeper/devices';
import type { Logger } from '@reefkeeper/platform';
import type { Config } from './config.ts';

const sweepMs = 5_000;

/** Keeps `crl.pem` beside the CA current, for the broker to refuse retired devices with (Mosquitto: `crlfile`, and SIGHUP to read it again). */
@Injectable()
export class Revocations implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private written: string | undefined;
  private timer: NodeJS.Timeout | undefined;
  private writing: Promise<void> = Promise.resolve();

  constructor(
    @Inject('CONFIG') private readonly config: Config,
    @Inject('LOG') private readonly log: Logger,
    @Inject(Authority) private readonly authority: Authority,
    @Inject(Devices) private readonly devices: Devices,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    await this.refresh();
    this.timer = setInterval(() => void this.refresh(), sweepMs);
  }

  async beforeApplicationShutdown(): Promise<void> {
    clearInterval(this.timer);
    await this.writing;
  }

  /** Writes the list if it changed. One at a time. */
  refresh(): Promise<void> {
    this.writing = this.writing.then(() => this.write()).catch((err: unknown) => this.log.warn({ err }, 'the revocation list could not be written, trying again'));
    return this.writing;
  }

  private async write(): Promise<void> {
    const revoked = await this.devices.revoked();
    const content = revoked.map(({ serial }) => serial).join();
    if (content === this.written) return;
    const file = join(this.config.KEYS_DIR, 'crl.pem');
    const fresh = `${file}.${process.pid}`;
    await writeFile(fresh, await this.authority.revocationList(revoked));
    await rename(fresh, file);
    this.written = content;
  }
}
