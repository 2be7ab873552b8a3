import { asReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { sleep } from './backoff.ts';
import type { DeviceClock } from './clock.ts';
import type { Disk } from './disk.ts';
import { Gateway } from './gateway.ts';
import { renewIfDue, type Identity } from './identity.ts';

const renewalCheckMs = 6 * 3_600_000;

export interface CredentialsOptions { dir: string; clock: DeviceClock; disk: Disk; log: Logger }

/** Who this device is to the fleet, and the gateway as whom it speaks. A renewed certificate takes effect for all who ask here. */
export class Credentials {
  gateway: Gateway;

  constructor(public identity: Identity, private readonly options: CredentialsOptions) {
    this.gateway = this.openGateway();
  }

  /** Renews the certificate in time, for as long as the agent runs. */
  async renewals(onRenewed: () => void, signal: AbortSignal): Promise<void> {
    const { dir, clock, disk, log } = this.options;
    while (!signal.aborted) {
      try {
        const renewed = await renewIfDue(dir, this.identity, clock, disk);
        if (renewed) {
          this.identity = renewed;
          this.gateway.close();
          this.gateway = this.openGateway();
          log.info('certificate renewed');
          onRenewed();
        }
      } catch (error) {
        log.warn({ reason: asReefError(error).message }, 'the certificate could not be renewed yet');
      }
      await sleep(renewalCheckMs * (0.5 + Math.random() / 2), signal).catch(() => {});
    }
  }

  private openGateway(): Gateway {
    const { gatewayUrl, ca, certificate, key } = this.identity;
    return new Gateway({ url: gatewayUrl, ca, cert: certificate, key, clock: this.options.clock });
  }
}
