import type { MqttClient } from 'mqtt';
import { Counter } from 'prom-client';

const acknowledgeMs = 15_000;

export const published = new Counter({ name: 'reef_mqtt_published_total', help: 'Messages sent to devices by kind', labelNames: ['message'] });

/** Waits for every acknowledgement; mqtt.js would wait for ever when the connection breaks meanwhile. */
export async function acknowledged(client: MqttClient, sent: Promise<unknown>[]): Promise<void> {
  if (sent.length === 0) return;
  const all = Promise.all(sent);
  let broken = () => {};
  let late: NodeJS.Timeout | undefined;
  try {
    await Promise.race([
      all,
      new Promise<never>((_, reject) => {
        client.once('close', broken = () => reject(new Error('the broker connection closed')));
        late = setTimeout(() => reject(new Error('the broker does not acknowledge')), acknowledgeMs);
      }),
    ]);
  } finally {
    clearTimeout(late);
    client.off('close', broken);
    all.catch(() => {});
  }
}
