import { createParamDecorator, SetMetadata, type ExecutionContext } from '@nestjs/common';

/** Each role may do all that the ones before it may. */
export const roles = ['viewer', 'operator', 'approver', 'admin'] as const;
export type Role = (typeof roles)[number];

/** Who asks: an API token's name and role. */
export interface Caller {
  name: string;
  role: Role;
}

export const rolesKey = 'reef:role';
export const publicKey = 'reef:public';

/** The least role that may call this. Without it: viewer for reading, operator for the rest. */
export const Roles = (role: Role) => SetMetadata(rolesKey, role);

/** Open to everyone, without a token. */
export const Public = () => SetMetadata(publicKey, true);

export function mayAct(actor: Caller, needed: Role): boolean {
  return roles.indexOf(actor.role) >= roles.indexOf(needed);
}

/** The request of an HTTP call or of a GraphQL operation (whose context carries `req`; subscriptions carry `actor` itself). */
export function requestOf(context: ExecutionContext): { actor?: Caller; headers?: Record<string, string | undefined>; method?: string } {
  if (context.getType<'http' | 'graphql'>() === 'http') return context.switchToHttp().getRequest();
  const graphql = context.getArgByIndex<{ req?: { actor?: Caller } } & { actor?: Caller }>(2);
  return graphql.req ?? graphql;
}

/** Who asks. */
export const Asker = createParamDecorator((_: unknown, context: ExecutionContext): Caller | undefined => requestOf(context).actor);

/** The caller's name, for audit and `createdBy`. */
export const Actor = createParamDecorator((_: unknown, context: ExecutionContext): string => requestOf(context).actor?.name ?? 'unknown');
