import type { Command } from 'commander';
import { action } from '../context.ts';
import { ago, table, tone } from '../output.ts';
import { buildOptions, followBuild, requestBody, sampleOptions, type PushOptions } from './models.ts';

interface WatchedExport { bucket: string; folder: string; state: string; reason: { code: string; message: string } | null; seenAt: string; jobId: string | null }

export function registerImport(model: Command): void {
  buildOptions(sampleOptions(model.command('import <address>')
    .description('bring in an edge export of AutoML Vision or Vertex AI from a bucket: labels of dict.txt, pre-processing from the export itself')
    .requiredOption('--name <name>', 'model name')))
    .addHelpText('after', '\nThe server reads the bucket, with its own Google credentials.\n\nExample:\n  reef model import gs://my-bucket/model-export/icn/edgetpu_tflite-flowers-2026-01-31T10:00:00Z/ --name flowers')
    .action(action(async ({ output, client }, address: string, options: PushOptions & { name: string }) => {
      const api = await client();
      const body = { address, ...(await requestBody(api, output, options)) };
      const { version } = await followBuild(api, output, await api.post(`/models/${encodeURIComponent(options.name)}/imports`, body), options.watch);
      return version.state === 'READY' || options.watch === false ? 0 : 1;
    }));

  model.command('exports').description('what the worker has heard of in the bucket it watches (REEF_BUCKET_WATCH), newest first').action(action(async ({ output, client }) => {
    const { items } = await (await client()).get<{ items: WatchedExport[] }>('/bucket-exports');
    output.show(items, () => (items.length === 0 ? 'no export has been heard of; the worker watches a bucket when REEF_BUCKET_WATCH names a subscription' : table(['export', 'state', 'last news', 'job', 'why'], items.map((one) => [`gs://${one.bucket}/${one.folder}`, tone(one.state), ago(one.seenAt), one.jobId, one.reason?.message]))));
  }));
}
