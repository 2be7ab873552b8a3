import { readFile } from 'node:fs/promises';
import { arch, totalmem } from 'node:os';
import type { Capabilities } from '@reefkeeper/protocol';
import type { Probe } from './accelerator.ts';

/** Put in by the packaging (`deploy/agent/tree.ts`). */
declare const REEF_AGENT_VERSION: string | undefined;
export const agentVersion = typeof REEF_AGENT_VERSION === 'string' ? REEF_AGENT_VERSION : '0.1.0';

export async function capabilitiesOf(probe: Probe, said: { release?: string | undefined; peer?: Capabilities['peer'] } = {}): Promise<Capabilities> {
  return {
    agentVersion, tfliteVersion: probe.tfliteVersion, edgetpuRuntime: probe.runtime, edgetpus: probe.devices,
    hostClass: await hostClass(), arch: arch().slice(0, 16), memoryBytes: totalmem(), pipelines: true,
    timeZone: new Intl.DateTimeFormat().resolvedOptions().timeZone, ...(said.peer ? { peer: said.peer } : {}), ...(said.release ? { release: said.release } : {}),
  };
}

/** Hardware that behaves alike. Boards say their model in the device tree. */
async function hostClass(): Promise<string> {
  const model = await readFile('/proc/device-tree/model', 'utf8').catch(() => '');
  return hostClassOf(model, arch());
}

export function hostClassOf(model: string, machine: string): string {
  const text = model.replaceAll('\0', '').trim();
  if (/phanbell|coral dev board mini/i.test(text)) return /mini/i.test(text) ? 'dev-board-mini' : 'dev-board';
  const slug = text.toLowerCase().replace(/\s+rev(ision)? .*$/, '').replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-|-$/g, '').slice(0, 64);
  return slug || ({ x64: 'x86-64', arm64: 'arm64', arm: 'arm' }[machine] ?? machine);
}
