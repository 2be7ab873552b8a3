import { Inject, Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { ApiTokens } from '@reefkeeper/devices';
import { ReefError } from '@reefkeeper/platform';
import { mayAct, publicKey, requestOf, rolesKey, type Caller, type Role } from '@reefkeeper/platform/http';
import type { GraphQLResolveInfo } from 'graphql';

interface Asked { headers?: Record<string, string | string[] | undefined>; connectionParams?: Record<string, unknown>; actor?: Caller; method?: string }

/** Every call needs a bearer token, but for what is marked public. Reading takes a viewer, changing an operator, unless the handler says otherwise. */
@Injectable()
export class AuthGuard implements CanActivate {
  constructor(@Inject(Reflector) private readonly reflector: Reflector, @Inject(ApiTokens) private readonly tokens: ApiTokens) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const targets = [context.getHandler(), context.getClass()];
    if (this.reflector.getAllAndOverride<boolean>(publicKey, targets)) return true;
    const request = requestOf(context) as Asked;
    const caller = await this.callerOf(request);
    if (!caller) throw new ReefError('token.invalid', 'unauthenticated', 'This needs a valid API token in the header "Authorization: Bearer reef_...". `reef up` prints the first one; an administrator makes more with `reef token create`.');
    request.actor = caller;
    const needed = this.reflector.getAllAndOverride<Role | undefined>(rolesKey, targets) ?? (readsOnly(context, request) ? 'viewer' : 'operator');
    if (!mayAct(caller, needed)) throw new ReefError('role.missing', 'forbidden', `This needs the role ${needed}; the token "${caller.name}" has ${caller.role}.`, { detail: { needed, role: caller.role } });
    return true;
  }

  private async callerOf({ headers, connectionParams }: Asked): Promise<Caller | undefined> {
    const text = headers?.authorization ?? connectionParams?.authorization;
    const token = typeof text === 'string' ? /^Bearer\s+(\S+)$/i.exec(text)?.[1] : undefined;
    return token ? this.tokens.find(token) : undefined;
  }
}

function readsOnly(context: ExecutionContext, request: Asked): boolean {
  if (context.getType<'http' | 'graphql'>() === 'graphql') return context.getArgByIndex<GraphQLResolveInfo>(3).operation.operation !== 'mutation';
  return request.method === 'GET' || request.method === 'HEAD';
}
