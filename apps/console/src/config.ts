import type { Config, ConfigRule } from './api.ts';
import { bytes } from './parts.tsx';

/** `link metered, downloads 20.0 MB a day, 20 pictures an hour`: what is said, in words. */
export function configText({ link, dataBudget, telemetryBytesPerHour, telemetryWindowS, maxFps, capture, ...more }: Config): string {
  const said: [unknown, () => string][] = [
    [link, () => `link ${link ?? 'as the device says'}`], [dataBudget, () => (dataBudget ? `downloads ${bytes(dataBudget.bytes)} a ${dataBudget.per}` : 'downloads as the device says')],
    [telemetryBytesPerHour, () => (telemetryBytesPerHour ? `telemetry ${bytes(telemetryBytesPerHour)} an hour` : 'all telemetry')], [telemetryWindowS, () => `telemetry every ${telemetryWindowS} s`],
    [maxFps, () => (maxFps ? `${maxFps} frames a second at most` : 'every frame')], [capture, () => (capture ? `${capture.perHour} pictures an hour` : 'no pictures')],
  ];
  return [...said.filter(([value]) => value !== undefined).map(([, words]) => words()), ...Object.entries(more).map(([name, value]) => `${name} ${JSON.stringify(value)}`)].join(', ');
}

/** What the fields of a rule say, in the units that they have there. Settings that no field is for stay as they were. */
export function configIn(form: FormData, before: Config = {}): Config {
  const number = (name: string) => Number(form.get(name));
  const said: Record<string, () => unknown> = {
    link: () => form.get('config.link'),
    dataBudget: () => ({ bytes: Math.round(number('config.dataBudget.bytes') * 1e6), per: form.get('config.dataBudget.per') }),
    telemetryBytesPerHour: () => Math.round(number('telemetryKilobytes') * 1e3),
    telemetryWindowS: () => number('telemetryWindow'),
    maxFps: () => number('framesPerSecond'),
    capture: () => ({ ...before.capture, perHour: number('config.capture.perHour'), uncertainBelow: number('config.capture.uncertainBelow') }),
  };
  const given = Object.entries(said).flatMap(([name, value]) => {
    const choice = form.get(`config.${name}`);
    return choice === '' || choice === null ? [] : [[name, choice === 'null' ? null : value()]];
  });
  const others = Object.entries(before).filter(([name]) => !(name in said));
  return Object.fromEntries([...others, ...given]) as Config;
}

/** A rule as it is sent. */
export function ruleIn(form: FormData, before?: ConfigRule): { name: string; body: Pick<ConfigRule, 'selector' | 'priority' | 'config'> } {
  const text = (name: string) => String(form.get(name) ?? '').trim();
  return { name: before?.name ?? text('name'), body: { selector: text('selector'), priority: Number(text('priority')), config: configIn(form, before?.config) } };
}
