import type { PubSub } from '@google-cloud/pubsub';

/**
 * A client of Google Pub/Sub for one subscription or topic, with application default credentials. The library is loaded here, by whoever needs it.
 * @param name `projects/P/subscriptions/S`, `projects/P/topics/T`, or its name in the project of the credentials
 */
export async function openPubSub(name: string): Promise<PubSub> {
  const { PubSub } = await import('@google-cloud/pubsub');
  const project = /^projects\/([^/]+)\/(?:subscriptions|topics)\/[^/]+$/.exec(name)?.[1];
  return new PubSub(project ? { projectId: project } : {});
}
