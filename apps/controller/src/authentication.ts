import { Inject, Injectable } from '@nestjs/common';
import { ApiTokens } from '@reefkeeper/devices';
import { ReefError, type ChangeFeed } from '@reefkeeper/platform';
import type { Caller } from '@reefkeeper/platform/http';

/** Who a bearer token belongs to. */
@Injectable()
export class Authentication {
  constructor(@Inject(ApiTokens) private readonly tokens: ApiTokens, @Inject('FEED') feed: ChangeFeed) {
    feed.onChange(({ kind }) => { if (kind === 'token') tokens.forget(); });
  }

  /**
   * @param header what the client sent as `Authorization`
   * @throws ReefError `token.invalid`
   */
  async require(header: unknown): Promise<Caller> {
    const token = typeof header === 'string' ? /^Bearer\s+(\S{1,200})$/i.exec(header)?.[1] : undefined;
    const caller = token ? await this.tokens.find(token) : undefined;
    if (!caller) throw new ReefError('token.invalid', 'unauthenticated', 'This needs a valid API token in the header "Authorization: Bearer reef_...". `reef up` prints the first one; an administrator makes more with `reef token create`.');
    return caller;
  }
}
