import type { IPublishPacket, MqttClient } from 'mqtt';
import { Gauge } from 'prom-client';

const inFlight = new Gauge({ name: 'reef_mqtt_in_flight', help: 'Messages taken from the broker and not acknowledged yet', labelNames: ['session'] });

/** An error means "do not acknowledge" and goes nowhere else. One for all: the stack of a new one for each message was an eighth of the controller's work. */
const later = new Error('acknowledged later');

/**
 * Takes a client's messages many at a time and acknowledges each when `take` has settled. mqtt.js by itself handles one
 * message after the other: its acknowledgement and its reading of the next packet are the same callback. So we let it go on
 * unacknowledged and send the PUBACK ourselves.
 *
 * At `limit` unsettled messages reading stops, and with it TCP: the broker keeps what we cannot store.
 * A PUBACK belongs to the connection its message came on; after a reconnect the broker delivers the message again.
 */
export function takeConcurrently(client: MqttClient, options: { session: string; limit: number; take: (packet: IPublishPacket) => Promise<void> }): { idle(): Promise<void> } {
  const unsettled = new Set<Promise<void>>();
  let connection = 0;
  let readOn: (() => void) | undefined;
  client.on('close', () => { connection += 1; });

  client.handleMessage = (packet, next) => {
    const cameOn = connection;
    const settled = options.take(packet).then(() => {
      if (packet.qos === 1 && cameOn === connection && client.connected) client['_sendPacket']({ cmd: 'puback', messageId: packet.messageId!, reasonCode: 0 });
    }).finally(() => {
      unsettled.delete(settled);
      inFlight.set({ session: options.session }, unsettled.size);
      readOn?.();
    });
    unsettled.add(settled);
    inFlight.set({ session: options.session }, unsettled.size);
    readOn = () => {
      readOn = undefined;
      next(later);
    };
    if (unsettled.size < options.limit) readOn();
  };

  return {
    idle: async () => {
      while (unsettled.size > 0) await Promise.allSettled(unsettled);
    },
  };
}
