import { openPubSub, type Logger } from '@reefkeeper/platform';
import type { BucketWatch } from './bucket-watch.service.ts';

export interface SubscriptionOptions {
  /** `projects/P/subscriptions/S`, or its name in the project of the credentials. */
  subscription: string;
  quietMs: number;
}

const longestPauseMs = 60_000;

/**
 * Hears a bucket's notifications from Google Pub/Sub until the returned function is called. A message is acknowledged after its row is
 * committed, so what a dying worker had in hand comes again, to any worker.
 */
export async function watchBucket(watch: BucketWatch, { subscription: name, quietMs }: SubscriptionOptions, log: Logger): Promise<() => Promise<void>> {
  const client = await openPubSub(name);
  let stopped = false;
  let wake = () => {};
  let close = async () => {};

  const listen = () => new Promise<void>((ended) => {
    const subscription = client.subscription(name, { flowControl: { maxMessages: 50, allowExcessMessages: false } });
    close = async () => { await subscription.close().catch(() => {}); ended(); };
    subscription.on('message', (message) => {
      take(watch, message.attributes, quietMs).then(() => message.ack(), (err: unknown) => {
        log.warn({ err, subscription: name }, 'notification not noted; it will come again');
        message.nack();
      });
    });
    subscription.on('error', (err: Error & { code?: number }) => {
      log.error({ err, subscription: name }, err.code === 5 ? `there is no subscription ${name}; create it on the topic of the bucket's notifications` : 'bucket notifications are not heard');
      void close();
    });
  });

  const rounds = (async () => {
    for (let pauseMs = 1_000; !stopped; pauseMs = Math.min(longestPauseMs, pauseMs * 2)) {
      const begin = performance.now();
      await listen();
      if (performance.now() - begin > longestPauseMs) pauseMs = 500;
      if (!stopped) await new Promise<void>((resolve) => { const timer = setTimeout(resolve, pauseMs); wake = () => { clearTimeout(timer); resolve(); }; });
    }
  })();
  log.info({ subscription: name }, 'listening for bucket notifications');
  return async () => {
    stopped = true;
    wake();
    await close();
    await rounds;
    await client.close();
  };
}

/** Attributes as in "Pub/Sub notifications for Cloud Storage": the event, the bucket and the object are there, whatever the payload. */
async function take(watch: BucketWatch, { eventType, bucketId, objectId }: Record<string, string | undefined>, quietMs: number): Promise<void> {
  if (eventType === 'OBJECT_FINALIZE' && bucketId && objectId) await watch.sighted(bucketId, objectId, { quietMs });
}
