import { Inject, Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { ReefError } from '@reefkeeper/platform';
import { mayAct, publicKey, requestOf, rolesKey, type Caller, type Role } from '@reefkeeper/platform/http';
import type { GraphQLResolveInfo } from 'graphql';
import { Authentication } from './authentication.ts';

interface Asked { headers?: Record<string, string | string[] | undefined>; actor?: Caller; method?: string }

/** Every call needs a bearer token, but for what is marked public. Reading takes a viewer, changing an operator, unless the handler says otherwise. */
@Injectable()
export class AuthGuard implements CanActivate {
  constructor(@Inject(Reflector) private readonly reflector: Reflector, @Inject(Authentication) private readonly authentication: Authentication) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const targets = [context.getHandler(), context.getClass()];
    if (this.reflector.getAllAndOverride<boolean>(publicKey, targets)) return true;
    const request = requestOf(context) as Asked;
    // GraphQL has asked already, once for the whole operation.
    const caller = request.actor ?? await this.authentication.require(request.headers?.authorization);
    request.actor = caller;
    const needed = this.reflector.getAllAndOverride<Role | undefined>(rolesKey, targets) ?? (readsOnly(context, request) ? 'viewer' : 'operator');
    if (!mayAct(caller, needed)) throw new ReefError('role.missing', 'forbidden', `This needs the role ${needed}; the token "${caller.name}" has ${caller.role}.`, { detail: { needed, role: caller.role } });
    return true;
  }
}

function readsOnly(context: ExecutionContext, request: Asked): boolean {
  if (context.getType<'http' | 'graphql'>() === 'graphql') return context.getArgByIndex<GraphQLResolveInfo>(3).operation.operation !== 'mutation';
  return request.method === 'GET' || request.method === 'HEAD';
}
