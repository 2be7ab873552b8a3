/** The controller's REST API as the console sees it: only the fields that are shown. */

export interface Page<T> { items: T[]; nextCursor: string | null }

export interface Device {
  id: string;
  labels: Record<string, string>;
  online: boolean;
  lastSeenAt: string | null;
  retiredAt: string | null;
  capabilities: { hostClass: string; edgetpus: unknown[]; edgetpuRuntime: number | null; agentVersion: string; tfliteVersion: string | null; memoryBytes: number } | null;
  desired: { revision: number; workloads: Record<string, { bundle: string; variant: string }>; config: Config; own: Config; rules: string[] } | null;
  reported: {
    observedRevision: number | null; health: string; conditions: string[];
    workloads: Record<string, { running: string | null; variant: string | null; backend: string | null; device?: string | null; fault?: { bundle: string; failure: { code: string; message: string } } | null; previous: string | null; execution: Execution | null; learning?: { step: string; percent: number } }>;
  } | null;
  pins: { workload: string; reason: string; pinnedBy: string; pinnedAt: string }[];
}

export interface Execution { revision: number; bundle: string; state: string; step: string | null; percent: number | null; failure: { code: string; message: string } | null; notes?: { code: string; message: string }[] }

export interface Model { name: string; description: string | null; createdAt: string; latestVersion: number | null; versions?: number }

export interface Version {
  id: string; model: string; version: number; ref: string; state: string; createdAt: string; bundleDigest: string | null; error: { code: string; message: string } | null;
  failedVariants: { name: string; code: string; message: string }[]; pipelines: { minRuntime: number; segments: { digest: string; bytes: number }[] }[];
  hold: { code: string; message: string } | null; confirmedBy: string | null;
  variants: { name: string; kind: string; minRuntime: number | null; segments: number; totalBytes: number; digest: string; details: CompiledDetails | null }[];
  labels: string[] | null; parity: Parity | null; analysis: Analysis | null;
  task: string; notes: string | null;
  lineage: { learning?: Learning; source: SourceFile; calibration: SourceFile | null; evaluation: SourceFile | null; job: string | null; parent: string | null; tools: Record<string, string> } | null;
}

export interface Parity {
  samples: number; agreement: number | null; accuracy: { float: number; int8: number } | null;
  outputs: { name: string; cosine: number | null; maxError: number | null }[];
  perClass: { label: string; count: number; float: number; int8: number }[];
  confusions?: { truth: string; answer: string; count: number }[];
  boxes?: { original: number; quantised: number; matched: number; meanIou: number | null };
  masks?: { meanIou: number; perClass: { label: string; iou: number }[] };
  findings?: { code: string; severity: 'error' | 'warning'; message: string }[];
}

/** Of a head that was learnt on a device. */
export interface Learning {
  device: string; workload: string; method: string; parent: string; classes: { label: string; before: number; learnt: number; heldOut: number }[];
  selfTest: { images: number; heldOut: boolean; accuracy: number | null } | null; unreadable?: number; backend?: string;
}

interface SourceFile { filename: string; digest: string }

/** What the inspector found in a compiled file. */
export interface CompiledDetails { moreSegments?: { digest: string }[]; onChipBytes?: number; streamedBytes?: number; cpuOps?: Record<string, number>; latency?: Record<'usb3' | 'usb2', { lowMs: number; highMs: number }> | null }

/** Lists carry the verdict and the summary alone. */
export interface Analysis {
  verdict: string; summary: string; faults?: { code: string; severity: string; message: string }[];
  ops?: { op: string; version: number; status: string; mapped: boolean; advice: string | null }[];
}

export interface Job {
  id: string; version: string; state: string; priority: number; createdAt: string; error: { code: string; message: string; detail?: { known?: boolean } } | null;
  steps: { name: string; state: string; percent: number | null; etaS: number | null; message: string | null; startedAt: string | null; endedAt: string | null; error: { code: string; message: string } | null }[];
  training: Training | null;
}

/** Of a job that trained a last layer. Vertex AI tells neither epochs nor, always, a confusion matrix. */
export interface Training {
  labels: string[] | null; classes?: { label: string; train: number; validation: number; heldOut: number }[]; best?: number; stopped?: string;
  epochs?: { epoch: number; loss: number; accuracy: number; validationLoss: number; validationAccuracy: number }[];
  heldOut: { labels?: string[]; accuracy: number | null; confusion: number[][] | null } | null; issues: { code: string; message: string }[];
}

export interface Attempt { id: number; result: string | null; final: boolean; exitCode: number | null; signal: string | null; durationMs: number | null; compilerVersion: string | null; flags: string[] }

export interface Verdict {
  gate: string; verdict: string; value: number | null; baseline: number | null; limit: number | null; unit: string; basis: string; method: string;
  interval: [number, number] | null; sample: { devices: number; inferences: number }; message: string; stillNeeded: string | null;
}

export interface Wave { index: number; state: string; size: number; canary: boolean; analysingAt: string | null; deadlineAt: string | null; of: { by: string; value: string } | null; counts: Record<string, number>; waiting: number; faults: number; verdicts: Verdict[]; startedAt: string | null; endedAt: string | null }

export interface Rollout {
  startAt: string | null;
  id: string; name: string; version: string; workload: string; selector: string; state: string; stateReason: { code: string; message: string } | null; wave: number;
  waiting: { code: string; message: string } | null; stopAt: string | null; late: { counts: Record<string, number>; stopped: { code: string; message: string } | null } | null;
  transfer: { fullBytes: number; deltaBytes: number; peerBytes: number; savedBytes: number } | null; waitingDevices: { code: string; what: string; message: string; count: number; devices: string[] }[];
  waves: Wave[]; rollback: Record<string, number> | null; createdAt: string; createdBy: string; startedAt: string | null; endedAt: string | null;
  plan: { excluded: { device: string; code: string; reason: string }[]; blastRadius: { statement?: string } } | null;
  settings: { soakS: number; deadlineS: number; minSamples: number; minReportingPercent: number; installTimeoutS: number; alpha: number; onFailure: string; gates: Record<string, unknown>; exclude?: { devices: string[]; selector: string | null } };
}

/** What a rollout waits for by itself, and what a person could do. */
export interface Explanation { waitsFor: { what: string; until: string | null }[]; moves: { verb: string; does: string; body: Record<string, unknown> }[] }

export interface Overview {
  devices: { all: number; online: number; degraded: number; behind: number; edgeTpu: number; updating: number; pinned: number };
  running: { workload: string; bundle: string | null; version: string | null; backend: string | null; devices: number }[];
  rollouts: Rollout[]; held: { version: string; message: string }[];
}

export interface Alert {
  id: string; seq: number; kind: string; subject: string; device: string | null; workload: string | null; rollout: string | null; severity: string; state: string; since: string; lastSeenAt: string; goneSince: string | null; closedAt: string | null;
  times: number; numbers: Record<string, unknown>; summary: string; advice: string; acknowledgedAt: string | null; acknowledgedBy: string | null; note: string | null; silenced: boolean;
}

export interface AlertCounts { open: number; kinds: { kind: string; severity: string; open: number }[] }

export interface Silence { id: string; selector: string; kinds: string[]; until: string; reason: string; createdBy: string; alerts: number }

export interface Freeze { id: string; selector: string; until: string; reason: string; createdBy: string; devices: number }

export interface RolloutEvent { id: string | number; at: string; code: string; message: string; actor: string; wave: number | null }

export interface RolloutExecution { device: string; wave: number; state: string; step: string | null; percent: number | null; failure: { code: string; message: string } | null; assignedAt: string | null; settledAt: string | null; rollbackState: string | null }
export interface DeviceExecution extends RolloutExecution { rollout: string; version: string; workload: string }

export interface SeriesPoint { at: string; bundle: string; group?: string; inferences: number; errors: number; p50Ms: number | null; p95Ms: number | null; p99Ms: number | null; accuracy: number | null; temperatureC: number | null; drift: { psi: number; scores: number } | null }

/** What devices that match are configured to, those that come to match later, too. */
export interface ConfigRule { name: string; selector: string; config: Config; priority: number; setAt: string; setBy: string; devices: number }

/** What is not there is not said; null is the device's own way. */
export interface Config {
  link?: 'metered' | 'unmetered' | null; dataBudget?: { bytes: number; per: 'day' | 'month' } | null; telemetryBytesPerHour?: number | null; telemetryWindowS?: number; maxFps?: number | null;
  capture?: { perHour: number; uncertainBelow: number; workloads?: string[]; masks?: unknown[] } | null;
}

/** `of`: whose limit it is. */
export interface Site { site: string; maxInProgress: number | null; bytesPerSecond: number | null; of: 'site' | 'every site' | null; devices: number; inProgress: number }

/** Of what was sent: the name of the value, with dots, and what is wrong with it. */
export interface Fault { field: string; message: string }

/** What is empty or undefined is not asked for. */
export type Query = Record<string, string | undefined>;

/** A path with what it asks for. */
export function addressOf(path: string, query: Query = {}): string {
  const asked = new URLSearchParams(Object.entries(query).filter((one): one is [string, string] => Boolean(one[1]))).toString();
  return asked ? `${path}?${asked}` : path;
}

/** An RFC 9457 problem, thrown. */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly faults: readonly Fault[] = []) {
    super(message);
  }
}

/** What to tell whoever asked for something that did not work. */
export const messageOf = (error: unknown): string => (error instanceof Problem ? error.message : 'The controller does not answer.');

const storageKey = 'reef-token';

export const token = {
  get: () => localStorage.getItem(storageKey) ?? '',
  set: (value: string) => localStorage.setItem(storageKey, value),
  forget: () => localStorage.removeItem(storageKey),
  /** Told when the controller does not know it (any more). */
  onRefused: undefined as (() => void) | undefined,
};

/** @throws Problem */
async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const response = await fetch(`/api/v1${path}`, { ...init, headers: { ...init.headers, authorization: `Bearer ${token.get()}` } });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { code?: string; detail?: string; context?: { faults?: string[] } };
  if (response.status === 401 && token.get()) {
    token.forget();
    token.onRefused?.();
  }
  const detail = body.detail ?? `The controller answered ${response.status}.`;
  throw new Problem(response.status, body.code ?? 'http', detail, body.code === 'selector.invalid' ? [{ field: 'selector', message: detail }] : (body.context?.faults ?? []).map(faultOf));
}

/** Written `config.capture.perHour: what is wrong`, or without a name where it is the whole. */
function faultOf(text: string): Fault {
  const [, field = '', message = text] = /^([\w.]+): ([^]+)$/.exec(text) ?? [];
  return { field, message };
}

export async function api<T>(path: string, { method = 'GET', body }: { method?: string; body?: unknown } = {}): Promise<T> {
  const response = await send(path, { method, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) });
  return (response.status === 204 ? undefined : await response.json()) as T;
}

export interface Capture { id: string; deviceId: string; workload: string; bundle: string; prediction: string; score: number; margin: number; receivedAt: string; label: string | null }

export async function picture(path: string): Promise<Blob> {
  return (await send(path)).blob();
}
