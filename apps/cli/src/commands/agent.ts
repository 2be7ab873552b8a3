import type { Command } from 'commander';
import { action } from '../context.ts';
import { bytes, table } from '../output.ts';
import { uploadPath } from './models.ts';

interface Release { ref: string; bundleDigest: string; lineage: { tools: Record<string, string> } | null; variants: { name: string; bytes: number }[] }

export function registerAgent(program: Command): void {
  const agent = program.command('agent').description('releases of the agent itself');
  agent.command('publish <builds...>').description('sign builds of one version, one per architecture, and make them a version of reef-agent')
    .option('--notes <text>', 'what is new')
    .addHelpText('after', '\nExample:\n  npm run package:agent\n  reef agent publish dist/agent/*.tar\n  reef rollout create reef-agent@1 --wave 1 --wave 100% --watch')
    .action(action(async ({ output, client }, paths: string[], options: { notes?: string }) => {
      const api = await client();
      const builds: string[] = [];
      for (const path of paths) builds.push((await uploadPath(api, output, path, 'build')).digest);
      const made = await api.post<Release>('/agent-releases', { builds, ...(options.notes ? { notes: options.notes } : {}) });
      output.show(made, () => [
        `${made.ref} is release ${made.lineage?.tools['reef-agent']}`,
        table(['build', 'size'], made.variants.map((one) => [one.name, bytes(one.bytes)])),
        `Next: reef rollout create ${made.ref} --watch`,
      ].join('\n\n'));
    }));
}
