import { ReefError } from '@reefkeeper/platform/errors';

/** `--gate latencyP99.maxIncreasePercent=80`, `--gate temperature=on`, `--gate accuracy=off`, `--gate custom.reject_rate.max=0.1`: the settings of a rollout's gates, as the API takes them. */
export function gatesOf(settings: readonly string[]): Record<string, unknown> {
  const gates: Record<string, Record<string, unknown> | null> = {};
  const custom = new Map<string, Record<string, unknown>>();
  for (const text of settings) {
    const [, name, rest, value] = /^(\w+)(?:\.([\w.]+))?=(.+)$/.exec(text) ?? [];
    if (name === undefined || value === undefined) throw unreadable(text);
    if (name === 'custom') {
      const [metric, key, more] = rest?.split('.') ?? [];
      if (!metric || !key || more !== undefined) throw unreadable(text);
      custom.set(metric, { metric, ...custom.get(metric), [key]: scalar(value) });
    } else if (rest === undefined) {
      if (value !== 'on' && value !== 'off') throw unreadable(text);
      gates[name] = value === 'off' ? null : { ...gates[name] };
    } else {
      if (rest.includes('.')) throw unreadable(text);
      gates[name] = { ...gates[name], [rest]: scalar(value) };
    }
  }
  // What a limit limits says which way is better.
  const better = (one: Record<string, unknown>) => ('max' in one || 'maxIncreasePercent' in one ? 'lower' : 'higher');
  return { ...gates, ...(custom.size > 0 ? { custom: [...custom.values()].map((one) => ({ better: better(one), ...one })) } : {}) };
}

function scalar(text: string): unknown {
  if (text === 'null' || text === 'none') return null;
  if (text === 'true' || text === 'false') return text === 'true';
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

function unreadable(text: string): ReefError {
  return new ReefError('option.invalid', 'invalid', `--gate ${text} is not a gate's setting. Write NAME.SETTING=VALUE, NAME=on or NAME=off, and custom.METRIC.SETTING=VALUE for a metric of your own; for example --gate temperature.maxC=80.`);
}
