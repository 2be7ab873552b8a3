import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { action } from '../context.ts';
import { bytes } from '../output.ts';
import { pathOf } from './models.ts';

export function registerBundles(program: Command): void {
  const bundle = program.command('bundle').description('the signed packages that devices get');
  bundle.command('diff <from> <to>').description('what differs between two, and what a device that has the first transfers for the second')
    .option('--blobs <dir...>', 'where files by their SHA-256 lie; `blobs` beside a bundle is found by itself')
    .addHelpText('after', '\nEither is a version (classifier@2) or a bundle on disk: an envelope file, or a folder that `reef bundle download` wrote. With two on disk no controller is needed; signatures are not checked.\n\nExamples:\n  reef bundle diff classifier@1 classifier@2\n  reef bundle diff ./v1 ./v2')
    .action(action(async ({ output, client }, from: string, to: string, options: { blobs?: string[] }) => {
      const { bundleDiff, bundleDiffText, openBundle } = await import('../offline/bundle-diff.ts');
      const diff = await bundleDiff(await openBundle(from, client, options.blobs), await openBundle(to, client, options.blobs));
      output.show(diff, () => bundleDiffText(diff));
    }));
  bundle.command('download <version>').description('the signed envelope of a version (name@3) and every file it names').option('--out <dir>', 'folder; made where missing', '.')
    .action(action(async ({ output, client }, ref: string, options: { out: string }) => {
      const { filesOf } = await import('../offline/bundle-diff.ts');
      const { unverifiedManifest } = await import('@reefkeeper/bundle');
      const api = await client();
      const envelope = await api.get<object>(`${pathOf(ref)}/bundle`);
      const files = filesOf(unverifiedManifest(envelope));
      await mkdir(join(options.out, 'blobs'), { recursive: true });
      for (const { digest } of files) await api.download(`/artifacts/${digest}`, join(options.out, 'blobs', digest), digest);
      await writeFile(join(options.out, 'envelope.json'), JSON.stringify(envelope));
      const total = files.reduce((sum, file) => sum + file.bytes, 0);
      output.show({ version: ref, out: options.out, files }, () => `${ref}: envelope.json and ${files.length} files in ${join(options.out, 'blobs')}, ${bytes(total)}`);
    }));
}
