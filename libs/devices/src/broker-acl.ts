import { command, commandResult, desired, presence, reported, telemetry, protocolRoot } from '@reefkeeper/protocol';

/** The common name of every controller's certificate; no device may have it. */
export const controllerName = 'reef-controller';

/**
 * Whether a client with this certificate name may use this topic: the controller all of the protocol, a device what concerns itself.
 * The same rule stands in `deploy/mosquitto/reefkeeper.acl` for Mosquitto.
 * @param topic for `subscribe`, the filter asked for
 */
export function mayUse(name: string, topic: string, action: 'publish' | 'subscribe'): boolean {
  if (name === controllerName) return topic.startsWith(`${protocolRoot}/`) || topic.startsWith('$share/');
  const open = action === 'publish' ? [reported, presence, telemetry, commandResult] : [desired, command];
  return open.some((message) => {
    const allowed = message.topicFor(name);
    if (action === 'subscribe') return topic === allowed;
    return new RegExp(`^${allowed.replaceAll('+', '[A-Za-z0-9_-]{1,64}')}$`).test(topic);
  });
}
