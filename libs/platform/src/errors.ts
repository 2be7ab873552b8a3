/**
 * What went wrong, as the caller must react to it. Maps once per edge: HTTP status, CLI exit code, job retry
 * (only `unavailable` is retried) and the failure code on the wire.
 */
export type ErrorKind = 'invalid' | 'not_found' | 'conflict' | 'forbidden' | 'unauthenticated' | 'unavailable' | 'bug';

const httpStatus: Record<ErrorKind, number> = {
  invalid: 400, unauthenticated: 401, forbidden: 403, not_found: 404, conflict: 409, unavailable: 503, bug: 500,
};
/** What HTTP has a word of its own for. */
const httpStatusOfCode: Record<string, number> = {
  'route.method_wrong': 405, 'request.too_large': 413, 'upload.too_large': 413, 'request.media_type': 415, 'request.encoded': 415, 'queue.full': 429, 'inference.timeout': 504,
};
const exitCode: Record<ErrorKind, number> = {
  invalid: 2, unauthenticated: 3, forbidden: 3, not_found: 4, conflict: 5, unavailable: 6, bug: 70,
};

/**
 * The one error class. `code` is stable and is what programs branch on (`artifact.checksum_mismatch`); `message` is for
 * people and says what to do next. `detail` holds the numbers and names behind it, JSON only.
 */
export class ReefError extends Error {
  constructor(
    readonly code: string,
    readonly kind: ErrorKind,
    message: string,
    options: { detail?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'ReefError';
    this.detail = options.detail ?? {};
  }

  readonly detail: Record<string, unknown>;

  get httpStatus(): number {
    return httpStatusOfCode[this.code] ?? httpStatus[this.kind];
  }

  get exitCode(): number {
    return exitCode[this.kind];
  }

  /** Whether the same request may succeed later without anyone changing it. */
  get retryable(): boolean {
    return this.kind === 'unavailable';
  }
}

/** Any thrown value as a ReefError; what we did not throw ourselves is a bug until someone gives it a code. */
export function asReefError(thrown: unknown): ReefError {
  if (thrown instanceof ReefError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new ReefError('internal', 'bug', message, { cause: thrown });
}
