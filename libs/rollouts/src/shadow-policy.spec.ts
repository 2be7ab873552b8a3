import { expect, it } from 'vitest';
import { desired } from '@reefkeeper/protocol';
import { createRollout, settingsFor } from './rollout.ts';

it('a rollout\'s shadow policy reaches the devices with its defaults, and they get the time for it', () => {
  const settings = settingsFor(createRollout.parse({ version: 'm@2', workload: 'w', policy: { shadow: { everyN: 5 } } }), 5);
  expect(settings.policy.shadow).toEqual({ everyN: 5, frames: 200, maxAddedPercent: 20, maxS: 600 });
  expect(settings.installTimeoutS).toBe(settings.policy.timeoutS + settings.policy.observeS + 600 + 30);
  const sent = desired.decode(desired.encode({ revision: 1, workloads: { w: { bundle: 'a'.repeat(64), manifestUrl: '/x', variant: 'cpu-int8', policy: settings.policy } } }));
  expect(sent).toMatchObject({ ok: true, body: { workloads: { w: { policy: { shadow: { everyN: 5 } } } } } });
  expect(settingsFor(createRollout.parse({ version: 'm@2', workload: 'w' }), 5).policy.shadow).toBeUndefined();
});
