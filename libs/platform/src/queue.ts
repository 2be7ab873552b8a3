import { Queue, Worker, createPostgresBackend, withBackend, type Job, type JobsOptions, type Processor } from 'bullmq';
import { Redis } from 'ioredis';

export type { Job, JobsOptions, Processor, Queue, Worker };

/** Where queues live: Redis or Valkey when there is one (fleets), BullMQ's PostgreSQL backend otherwise (one machine). */
export interface QueueHost {
  queue<T>(name: string): Queue<T>;
  worker<T>(name: string, processor: Processor<T>, options?: { concurrency?: number; lockMs?: number }): Worker<T>;
  /** Closes every queue and worker made here; running jobs get to finish unless `force`. */
  close(force?: boolean): Promise<void>;
}

/** A job whose worker was killed is taken up by another after about this long. */
const stalledMs = 2_000;

export function openQueues(options: { redisUrl?: string; databaseUrl: string }): QueueHost {
  // One Redis may serve several installations: each has keys of its own, named after its database.
  const prefix = `reef-${new URL(options.databaseUrl).pathname.slice(1) || 'default'}`;
  const redis = options.redisUrl ? new Redis(options.redisUrl, { maxRetriesPerRequest: null, enableReadyCheck: false }) : undefined;
  // An unheard 'error' would end the process; ioredis reconnects by itself and BullMQ reports what a command met.
  redis?.on('error', () => {});
  const postgres = withBackend(createPostgresBackend);
  const pgConnection = { connectionString: options.databaseUrl, migrate: true };
  const open: { close(force?: boolean): Promise<void>; waitUntilReady(): Promise<unknown> }[] = [];

  return {
    queue<T>(name: string) {
      const made = (redis ? new Queue(name, { connection: redis, prefix }) : new postgres.Queue(name, { connection: pgConnection })) as unknown as Queue<T>;
      made.on('error', () => {});
      open.push(made);
      return made;
    },
    worker<T>(name: string, processor: Processor<T>, { concurrency = 1, lockMs = 10_000 } = {}) {
      const common = { concurrency, lockDuration: lockMs, stalledInterval: stalledMs, maxStalledCount: 5 };
      const made = (redis
        ? new Worker(name, processor as Processor, { connection: redis, prefix, ...common })
        : new postgres.Worker(name, processor as Processor, { connection: pgConnection, ...common })) as unknown as Worker<T>;
      made.on('error', () => {});
      open.push(made);
      return made;
    },
    async close(force = false) {
      await Promise.allSettled(open.map(async (one) => {
        // Closed in the middle of its own migration, BullMQ would leave a connection behind whose end nobody hears.
        if (!redis) await Promise.race([one.waitUntilReady(), new Promise((resolve) => { setTimeout(resolve, 5_000).unref(); })]);
        await (one instanceof Worker ? one.close(force) : one.close());
      }));
      redis?.disconnect();
    },
  };
}
