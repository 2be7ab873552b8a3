import type { Hold } from './pacing.ts';
import { devicesIn, reason, type Reason } from './rollout.ts';
import { groupCount, type Counts } from './verdict.ts';

/** A wave that is told bit by bit says how far it is. */
export function toldReason(wave: number, devices: number, counts: Counts): Reason {
  const size = groupCount(counts);
  const told = size - counts.PENDING + devices;
  return told === size && devices === size ? reason('wave_assigned', `${devicesIn(devices)} told to run the version.`, { wave, devices })
    : reason(told === size ? 'wave_assigned' : 'wave_assigning', `${told} of ${devicesIn(size)} told to run the version.`, { wave, devices, told, size });
}

/** Said once for all of them, under the code of the first. */
export function holdReason(holds: readonly Hold[]): Reason {
  const said = holds.map(({ code, devices, until, why }) => {
    const at = until?.toISOString();
    if (code === 'waits_for_freeze') return `${devicesIn(devices)} frozen until ${at} (${why})`;
    if (code === 'waits_for_window') return `${devicesIn(devices)} outside the maintenance window${at ? `, the next one from ${at} (${why})` : ''}`;
    return `${devicesIn(devices)} told as the pace allows (${why})${at ? `, more from ${at}` : ''}`;
  });
  return reason(holds[0]!.code, `${said.join('; ')}.`, { holds });
}
