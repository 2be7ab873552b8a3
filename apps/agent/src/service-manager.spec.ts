import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { serviceManager } from './service-manager.ts';

describe('service manager', () => {
  beforeEach(() => { vi.useFakeTimers(); });
  afterEach(() => { vi.useRealTimers(); });

  const open = async (env: Record<string, string>) => {
    const said: string[] = [];
    return { said, manager: await serviceManager(env, (state) => said.push(state)) };
  };
  const systemd = { NOTIFY_SOCKET: '/run/systemd/notify', WATCHDOG_USEC: '30000000' };

  it('hears when we are ready and when we end', async () => {
    const { said, manager } = await open(systemd);
    manager.ready();
    manager.stopping();
    expect(said).toEqual(['READY=1', 'STOPPING=1']);
  });

  it('is told nothing where there is none', async () => {
    const { said, manager } = await open({ WATCHDOG_USEC: '30000000' });
    manager.ready();
    manager.watch(async () => true);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(said).toEqual([]);
  });

  it('is fed at once and three times in its limit, only while the agent is healthy', async () => {
    const { said, manager } = await open(systemd);
    let healthy = true;
    manager.watch(async () => healthy);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(said).toEqual(Array.from({ length: 4 }, () => 'WATCHDOG=1'));
    healthy = false;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(said).toHaveLength(4);
    manager.close();
  });

  it('starves it when the check fails or never answers', async () => {
    for (const check of [() => Promise.reject(new Error('disk')), () => new Promise<boolean>(() => {})]) {
      const { said, manager } = await open(systemd);
      manager.watch(check);
      await vi.advanceTimersByTimeAsync(120_000);
      expect(said).toEqual([]);
      manager.close();
    }
  });

  it('is not watched where it set no limit', async () => {
    const { said, manager } = await open({ NOTIFY_SOCKET: '/run/systemd/notify' });
    manager.watch(async () => true);
    await vi.advanceTimersByTimeAsync(120_000);
    expect(said).toEqual([]);
  });
});
