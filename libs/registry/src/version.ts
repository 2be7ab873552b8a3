import { edgeTpusOf, type VariantKind } from '@reefkeeper/bundle';

export const versionStates = ['DRAFT', 'BUILDING', 'READY', 'FAILED', 'CANCELED'] as const;
export type VersionState = (typeof versionStates)[number];

/** READY is final: what devices run under this name never changes. A failed build may be tried again. */
export const versionMoves: Readonly<Record<VersionState, readonly VersionState[]>> = {
  DRAFT: ['BUILDING', 'CANCELED'],
  BUILDING: ['READY', 'FAILED', 'CANCELED'],
  READY: [],
  FAILED: ['BUILDING'],
  CANCELED: ['BUILDING'],
};

/** `name@3`, or `name` for the newest READY version. */
export function parseRef(ref: string): { model: string; version: number | null } | undefined {
  const match = /^([a-z0-9][a-z0-9-]{0,62})(?:@([1-9]\d{0,8}))?$/.exec(ref);
  return match ? { model: match[1]!, version: match[2] ? Number(match[2]) : null } : undefined;
}

export function refOf(version: { model: string; version: number }): string {
  return `${version.model}@${version.version}`;
}

/** What a variant is run from: its row has the first file, its details the other segments where it is cut. */
export function sizeOf({ bytes, details }: { bytes: number; details: Record<string, unknown> | null }): { segments: number; totalBytes: number } {
  const more = (details?.moreSegments ?? []) as { bytes: number }[];
  return { segments: 1 + more.length, totalBytes: more.reduce((sum, one) => sum + one.bytes, bytes) };
}

export interface VariantChoiceInput {
  state: VersionState;
  variants: readonly { name: string; kind: VariantKind; minRuntime: number | null }[];
}

/** The part of a device's capabilities that decides; `Capabilities` of the device protocol fits. */
export interface DeviceRuntime {
  /** RuntimeVersion(N) of libedgetpu; null = none or not known. */
  edgetpuRuntime: number | null;
  edgetpus: readonly unknown[];
  /** Its agent runs models that are cut into segments. */
  pipelines?: true | undefined;
  /** Node's word for the machine. */
  arch?: string;
  /** Which release of the agent runs; absent where it cannot be updated. */
  release?: string | undefined;
}

export type VariantRefusal = 'version_not_ready' | 'no_accelerator' | 'too_few_accelerators' | 'runtime_unknown' | 'runtime_too_old' | 'not_compiled' | 'no_cpu_variant' | 'not_updatable' | 'no_build';

export type VariantChoice<V> = { ok: true; variant: V } | { ok: false; reason: VariantRefusal; message: string };

/**
 * Which variant a device gets: the one for the most Edge TPUs that it has and the highest runtime that fits, else `cpu-int8` where the policy lets it.
 * A device that never told its capabilities (null) is taken for one without an Edge TPU.
 */
export function variantFor<V extends VariantChoiceInput['variants'][number]>(version: { state: VersionState; variants: readonly V[] }, device: DeviceRuntime | null, policy: { cpuFallback: boolean; device?: string | undefined }): VariantChoice<V> {
  if (version.state !== 'READY') return { ok: false, reason: 'version_not_ready', message: `The version is ${version.state}; only a READY one can run.` };
  if (version.variants.some(({ kind }) => kind === 'agent')) return buildFor(version.variants, device);
  const anywhere = version.variants.filter((variant) => variant.kind === 'edgetpu');
  // Segments need an Edge TPU each, and an agent that chains them.
  const allowed = device ? allowedBy(policy.device, device.edgetpus) : 0;
  const most = device?.pipelines ? Math.max(1, allowed) : 1;
  const compiled = anywhere.filter(({ name }) => edgeTpusOf(name) <= most).sort((a, b) => edgeTpusOf(b.name) - edgeTpusOf(a.name) || (b.minRuntime ?? 0) - (a.minRuntime ?? 0));
  const runtime = device?.edgetpuRuntime ?? null;
  const refusal = refusalOf();
  if (!refusal) return { ok: true, variant: compiled.find((variant) => (variant.minRuntime ?? 0) <= runtime!)! };
  if (!policy.cpuFallback) return { ok: false, ...refusal };
  const onCpu = version.variants.find((variant) => variant.kind === 'cpu-int8');
  if (onCpu) return { ok: true, variant: onCpu };
  return { ok: false, reason: 'no_cpu_variant', message: `${refusal.message} The version has no cpu-int8 variant to fall back to.` };

  function refusalOf(): { reason: VariantRefusal; message: string } | undefined {
    if (!device || device.edgetpus.length === 0) return { reason: 'no_accelerator', message: 'The device has no Edge TPU.' };
    if (anywhere.length === 0) return { reason: 'not_compiled', message: 'The version is not compiled for the Edge TPU.' };
    if (compiled.length === 0) {
      const fewest = Math.min(...anywhere.map(({ name }) => edgeTpusOf(name)));
      return { reason: 'too_few_accelerators', message: fewest > allowed ? `The version is cut for ${fewest} Edge TPUs; the device has ${device.edgetpus.length}${policy.device === undefined ? '' : `, and may use ${policy.device}`}.` : 'The version is cut into segments, which the agent on the device is too old to run; update it.' };
    }
    if (runtime === null) return { reason: 'runtime_unknown', message: 'The device does not say which Edge TPU runtime it has.' };
    const lowest = Math.min(...compiled.map((variant) => variant.minRuntime ?? 0));
    if (lowest > runtime) return { reason: 'runtime_too_old', message: `The device has Edge TPU runtime ${runtime}; the version needs ${lowest}. Update libedgetpu on the device, or build the version for runtime ${runtime}.` };
    return undefined;
  }
}

/** How many Edge TPUs a workload may use. @param pin `policy.device`: all of a type, or one by path or count */
function allowedBy(pin: string | undefined, edgetpus: DeviceRuntime['edgetpus']): number {
  if (pin === undefined) return edgetpus.length;
  return pin === 'usb' || pin === 'pci' ? edgetpus.filter((one) => (one as { type?: string }).type === pin).length : Math.min(1, edgetpus.length);
}

/** Of a release of the agent: the build for the device's machine. */
function buildFor<V extends VariantChoiceInput['variants'][number]>(variants: readonly V[], device: DeviceRuntime | null): VariantChoice<V> {
  if (!device?.release) return { ok: false, reason: 'not_updatable', message: 'Its agent was not installed from the reef-agent package, and so cannot run another release.' };
  const name = agentVariant(device.arch ?? '');
  const build = variants.find((variant) => variant.name === name);
  return build ? { ok: true, variant: build } : { ok: false, reason: 'no_build', message: `The release has no build for ${device.arch}.` };
}

/** @param architecture Node's word for it or Debian's */
export function agentVariant(architecture: string): string {
  return `agent-${architecture === 'x64' ? 'amd64' : architecture}`;
}
