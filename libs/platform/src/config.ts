import { z } from 'zod';
import { ReefError } from './errors.ts';

/**
 * The environment as a frozen, typed object. Fails listing every fault at once, so that a boot needs one fix, not five.
 * @throws ReefError `config.invalid`
 */
export function parseConfig<S extends z.ZodType>(schema: S, env: Record<string, string | undefined>): Readonly<z.output<S>> {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = schema.safeParse(present);
  if (parsed.success) return Object.freeze(parsed.data as object) as Readonly<z.output<S>>;
  const faults = parsed.error.issues.map((issue) => `  ${issue.path.join('.') || '(environment)'}: ${issue.message}`);
  throw new ReefError('config.invalid', 'invalid', `The environment is not usable:\n${faults.join('\n')}`, {
    detail: { faults: parsed.error.issues.map((issue) => ({ variable: issue.path.join('.'), fault: issue.message })) },
  });
}

/** Settings every process takes. */
export const commonConfig = z.object({
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
});
