import { Catch, HttpException, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { databaseGone, valueRefused } from './database.ts';
import { asReefError, ReefError, type ErrorKind } from './errors.ts';
import type { Logger } from './logger.ts';

/** Of what is named by one in an address or a query. */
export const anId = z.uuid('this is no id: ids have 36 characters, as the lists show them');

/** RFC 9457 problem details, with our stable `code` and `detail` as extension members. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  code: string;
  detail: string;
  context: Record<string, unknown>;
}

export function problemOf(error: ReefError): Problem {
  return {
    type: `https://reefkeeper.dev/problems/${error.code}`,
    title: error.kind.replace('_', ' '),
    status: error.httpStatus,
    code: error.code,
    detail: error.kind === 'bug' ? 'Something broke on our side; the controller log has the cause.' : error.message,
    context: error.kind === 'bug' ? {} : error.detail,
  };
}

const kindOfStatus: Record<number, ErrorKind> = { 400: 'invalid', 401: 'unauthenticated', 405: 'invalid', 403: 'forbidden', 404: 'not_found', 409: 'conflict', 503: 'unavailable' };

/** What Nest and Fastify throw, in our words. Validation messages are kept, one per fault. */
export function fromHttp(thrown: unknown): ReefError {
  const status = thrown instanceof HttpException ? thrown.getStatus() : (thrown as { statusCode?: number } | undefined)?.statusCode;
  if (status === 413) return new ReefError('request.too_large', 'invalid', 'The body of the request is too large. Files go to POST /api/v1/uploads, as they are.', { cause: thrown });
  if (status === 415) return new ReefError('request.media_type', 'invalid', 'The body of the request must be JSON with the header content-type: application/json; of an upload, application/octet-stream.', { cause: thrown });
  if (thrown instanceof HttpException) {
    const response = thrown.getResponse();
    const message = typeof response === 'string' ? response : (response as { message?: string | string[] }).message ?? thrown.message;
    const faults = Array.isArray(message) ? message : [message];
    const kind = kindOfStatus[thrown.getStatus()] ?? (thrown.getStatus() < 500 ? 'invalid' : 'bug');
    return new ReefError(kind === 'invalid' ? 'request.invalid' : `request.${kind}`, kind, faults.join('; '), { detail: { faults } });
  }
  const fastify = thrown as { statusCode?: number; message?: string };
  if (!(thrown instanceof ReefError) && fastify?.statusCode && fastify.statusCode < 500) {
    return new ReefError('request.invalid', kindOfStatus[fastify.statusCode] ?? 'invalid', fastify.message ?? 'The request is not usable.', { cause: thrown });
  }
  if (databaseGone(thrown)) return new ReefError('database.unreachable', 'unavailable', 'The database does not answer just now; try again in a moment.', { cause: thrown });
  if (valueRefused(thrown)) return new ReefError('request.invalid', 'invalid', 'A value in the request cannot be stored, such as a NUL character in a text.', { cause: thrown });
  return asReefError(thrown);
}

/**
 * An argument of GraphQL, by the schema that REST has for it: there the pipe looks, here nothing does.
 * @param name of the argument, where it is one value
 * @throws ReefError `request.invalid`, with the faults as in REST
 */
export function checked<T>(schema: z.ZodType<T>, value: unknown, name?: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues.map(({ path, message }) => [[...(name ? [name] : []), ...path].join('.'), message].filter(Boolean).join(': '));
  throw new ReefError('request.invalid', 'invalid', faults.join('; '), { detail: { faults } });
}

@Catch()
export class ProblemFilter implements ExceptionFilter {
  constructor(private readonly log: Logger) {}

  catch(thrown: unknown, host: ArgumentsHost): void {
    // GraphQL formats its own errors; rethrowing keeps the ReefError for its formatError.
    if (host.getType<'http' | 'graphql'>() !== 'http') throw thrown;
    const error = fromHttp(thrown);
    if (error.kind === 'bug') this.log.error({ err: thrown }, 'request failed');
    void host.switchToHttp().getResponse<FastifyReply>().status(error.httpStatus).type('application/problem+json').send(problemOf(error));
  }
}

export * from './auth.ts';
export * from './json-scalar.ts';
