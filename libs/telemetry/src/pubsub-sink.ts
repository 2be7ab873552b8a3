import { openPubSub } from '@reefkeeper/platform';
import type { WindowSink } from './window-export.ts';

const publishMs = 60_000;

/**
 * Each row as one message of JSON on a Google Pub/Sub topic, for a BigQuery subscription or any other. Credentials are the application default ones.
 * @param name `projects/P/topics/T`, or its name in the project of the credentials
 */
export async function openPubSubSink(name: string): Promise<WindowSink & { close(): Promise<void> }> {
  const client = await openPubSub(name);
  const topic = client.topic(name, { batching: { maxMessages: 500, maxMilliseconds: 20 }, gaxOpts: { timeout: publishMs } });
  return {
    async publish(rows) {
      // All are waited for, whichever fails: none may be on its way when they are sent again.
      const kept = await Promise.allSettled(rows.map((row) => topic.publishMessage({ json: row, attributes: { device: row.device, workload: row.workload } })));
      const failed = kept.find((one) => one.status === 'rejected');
      if (failed) throw failed.reason;
    },
    close: async () => { await client.close(); },
  };
}
