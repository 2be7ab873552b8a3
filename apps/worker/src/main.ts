import 'reflect-metadata';
import { asReefError, openLogger } from '@reefkeeper/platform';
import { readConfig } from './config.ts';
import { startWorker } from './worker.ts';

const stopLimitMs = 10_000;

async function main(): Promise<void> {
  const log = openLogger('worker', process.env.LOG_LEVEL);
  try {
    const worker = await startWorker(readConfig(process.env), log);
    log.info({ healthPort: worker.healthPort }, 'ready');
    process.stdout.write(`${JSON.stringify({ ready: true })}\n`);
    let stopping = false;
    const stop = (signal: string) => {
      if (stopping) return;
      stopping = true;
      log.info({ signal }, 'stopping');
      setTimeout(() => process.exit(1), stopLimitMs).unref();
      worker.stop().then(() => process.exit(0), (err: unknown) => { log.error({ err }, 'stop failed'); process.exit(1); });
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
    // Started by a supervisor, we end with it, however it ends.
    process.on('disconnect', () => stop('disconnect'));
  } catch (thrown) {
    const error = asReefError(thrown);
    log.fatal({ err: thrown }, error.message);
    process.stderr.write(`error: ${error.message}\ncode: ${error.code}\n`);
    process.exitCode = error.exitCode;
    setTimeout(() => process.exit(), 100);
  }
}

if (import.meta.main) await main();
