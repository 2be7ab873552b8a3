import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const root = join(import.meta.dirname, '../..');

/**
 * The built worker as a process, with its objects, keys and work in `dir`. Resolves when it is ready.
 * @param workers takes it at once, for whoever clears up
 */
export async function startWorker(databaseUrl: string, dir: string, env: Record<string, string>, workers: ChildProcess[]): Promise<ChildProcess> {
  const worker = spawn(join(root, 'node_modules/.bin/node'), [join(root, 'apps/worker/dist/main.js')], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env.PATH ?? '', LOG_LEVEL: 'error', DATABASE_URL: databaseUrl, ARTIFACTS_URL: pathToFileURL(join(dir, 'objects')).href, KEYS_DIR: join(dir, 'keys'), WORK_DIR: join(dir, 'work'), ...env },
  });
  workers.push(worker);
  await new Promise<void>((resolve, reject) => {
    worker.stdout!.on('data', (text: Buffer) => { if (text.includes('"ready":true')) resolve(); });
    worker.on('exit', (code) => reject(new Error(`the worker ended with ${code}`)));
  });
  return worker;
}

export async function ended(worker: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (worker.exitCode !== null || worker.signalCode !== null) return;
  const exit = new Promise((resolve) => { worker.once('exit', resolve); });
  worker.kill(signal);
  await exit;
}
