import type { Command } from 'commander';
import { action } from '../context.ts';
import { ago, table } from '../output.ts';

export function registerAccess(program: Command): void {
  const token = program.command('token').description('API tokens');
  token.command('create <name>').description('make one; it is shown once').option('--role <role>', 'viewer, operator, approver or admin', 'operator').action(action(async ({ output, client }, name: string, options: { role: string }) => {
    const made = await (await client()).post<{ id: string; token: string; role: string }>('/tokens', { name, role: options.role });
    output.show(made, () => `${made.token}\n\nThis is the only time it is shown. Revoke it with: reef token revoke ${made.id}`);
  }));
  token.command('ls').description('who has one').action(action(async ({ output, client }) => {
    const { items } = await (await client()).get<{ items: { id: string; name: string; role: string; createdAt: string; lastUsedAt: string | null; revokedAt: string | null }[] }>('/tokens');
    output.show(items, () => table(['token', 'name', 'role', 'created', 'used', 'revoked'], items.map((one) => [one.id, one.name, one.role, ago(one.createdAt), ago(one.lastUsedAt), one.revokedAt && ago(one.revokedAt)])));
  }));
  token.command('revoke <id>').description('stop one from working').action(action(async ({ output, client }, id: string) => {
    await (await client()).delete(`/tokens/${encodeURIComponent(id)}`);
    output.show({ id, revoked: true }, () => `${id} no longer works`);
  }));
}
