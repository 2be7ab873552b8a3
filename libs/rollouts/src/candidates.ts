import { choicesFor } from '@reefkeeper/bundle';
import { matches, parseSelector } from '@reefkeeper/devices';
import { sizeOf, variantFor, type Version } from '@reefkeeper/registry';
import type { FleetDevice } from './fleet.ts';
import type { Candidate } from './plan.ts';
import type { CreateRollout } from './rollout.ts';
import { zoneOf } from './windows.ts';

/**
 * What a rollout makes of a device: whether it may have the version, and which variant of it.
 * @throws ReefError `selector.invalid`
 */
export function candidateOf(version: Version, { exclude, policy }: Pick<CreateRollout, 'exclude' | 'policy'>): (device: FleetDevice) => Candidate {
  const excluded = new Set(exclude.devices);
  const selector = exclude.selector === null ? null : parseSelector(exclude.selector);
  return (device) => {
    const { capabilities, pin } = device;
    const choice = capabilities && variantFor(version, capabilities, policy);
    const left = excluded.has(device.id) || (selector !== null && matches(selector, device.labels));
    return {
      id: device.id, labels: device.labels, online: device.online, health: device.health,
      strata: { hostClass: capabilities?.hostClass ?? '', runtime: String(capabilities?.edgetpuRuntime ?? ''), site: device.labels.site ?? '' },
      ...zonedOf(device),
      spared: left ? { code: 'EXCLUDED', message: 'The rollout leaves it out.' } : pin ? { code: 'PINNED', message: `Pinned by ${pin.by}: ${pin.reason}` } : null,
      current: device.running === version.bundleDigest && device.wanted === version.bundleDigest,
      fit: choice?.ok ? { ok: true, variant: choice.variant.name }
        : !capabilities ? { ok: false, code: 'UNKNOWN', message: 'The device has not reported what it can run; it has to connect once.' }
          : { ok: false, code: capabilities.edgetpuRuntime === null && version.task !== 'agent' ? 'UNKNOWN' : 'INCOMPATIBLE', message: choice!.message },
    };
  };
}

function zonedOf({ labels, capabilities }: FleetDevice): Pick<Candidate, 'zone' | 'invalidZone'> {
  const { zone, invalid } = zoneOf(labels, capabilities?.timeZone);
  return { zone, invalidZone: invalid };
}

/** What a device fetches at most: all files of the variant and of those that it may have to fall back to, without their deltas. */
export function bytesOf(version: Version, { cpuFallback }: Pick<CreateRollout['policy'], 'cpuFallback'>): (variant: string) => number {
  // Reckoned once for each variant: a fleet asks for the few there are once for every device.
  const known = new Map(version.variants.map(({ name }) => [name, choicesFor(name, version.variants, cpuFallback).reduce((sum, one) => sum + sizeOf(one).totalBytes, 0)]));
  return (variant) => known.get(variant) ?? 0;
}
