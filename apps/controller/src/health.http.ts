import { Controller, Get, Header, Inject } from '@nestjs/common';
import { ApiExcludeController } from '@nestjs/swagger';
import { ReefError } from '@reefkeeper/platform';
import { Public } from '@reefkeeper/platform/http';
import { register } from 'prom-client';
import { DataSource } from 'typeorm';
import { DeviceLink } from './device-link.ts';

@ApiExcludeController()
@Controller()
@Public()
export class HealthController {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject(DeviceLink) private readonly link: DeviceLink) {}

  /** The process lives. */
  @Get('healthz')
  alive(): { ok: true } {
    return { ok: true };
  }

  /** And can do its work. A broker that goes away later takes nothing from the API, so it only shows. */
  @Get('readyz')
  async ready(): Promise<{ ok: true; broker: 'connected' | 'away' }> {
    await this.db.query('SELECT 1').catch((cause: unknown) => { throw new ReefError('not_ready.database', 'unavailable', 'The database does not answer.', { cause }); });
    if (!this.link.wasConnected) throw new ReefError('not_ready.broker', 'unavailable', 'The MQTT broker was not reached yet.');
    return { ok: true, broker: this.link.connected ? 'connected' : 'away' };
  }

  @Get('metrics')
  @Header('content-type', register.contentType)
  metrics(): Promise<string> {
    return register.metrics();
  }
}
