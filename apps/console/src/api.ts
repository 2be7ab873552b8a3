/** The controller's REST API as the console sees it: only the fields that are shown. */

export interface Page<T> { items: T[]; nextCursor: string | null }

export interface Device {
  id: string;
  labels: Record<string, string>;
  online: boolean;
  lastSeenAt: string | null;
  retiredAt: string | null;
  capabilities: { hostClass: string; edgetpus: unknown[]; edgetpuRuntime: number | null; agentVersion: string; tfliteVersion: string | null; memoryBytes: number } | null;
  desired: { revision: number; workloads: Record<string, { bundle: string; variant: string }> } | null;
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
  variants: { name: string; kind: string; minRuntime: number | null; bytes: number; digest: string; details: CompiledDetails | null }[];
  labels: string[] | null; parity: Parity | null; analysis: Analysis | null;
  lineage: { source: SourceFile; calibration: SourceFile | null; evaluation: SourceFile | null; job: string | null; parent: string | null; tools: Record<string, string> } | null;
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

interface SourceFile { filename: string; digest: string }

/** What the inspector found in a compiled file. */
export interface CompiledDetails { onChipBytes?: number; streamedBytes?: number; cpuOps?: Record<string, number>; latency?: Record<'usb3' | 'usb2', { lowMs: number; highMs: number }> | null }

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

export interface Wave { index: number; state: string; size: number; of: { by: string; value: string } | null; counts: Record<string, number>; waiting: number; faults: number; verdicts: Verdict[]; startedAt: string | null; endedAt: string | null }

export interface Rollout {
  id: string; name: string; version: string; bundle: string; workload: string; selector: string; state: string; stateReason: { code: string; message: string } | null; wave: number;
  waiting: { code: string; message: string } | null; stopAt: string | null; late: { counts: Record<string, number>; stopped: { code: string; message: string } | null } | null;
  transfer: { fullBytes: number; deltaBytes: number; peerBytes: number; savedBytes: number } | null; waitingDevices: { code: string; what: string; message: string; count: number; devices: string[] }[];
  waves: Wave[]; rollback: Record<string, number> | null; createdAt: string; createdBy: string; startedAt: string | null; endedAt: string | null;
  plan: { eligible: number | string[]; excluded: { device: string; reason: string }[]; blastRadius: Record<string, unknown> } | null;
}

/** What a rollout waits for by itself. */
export interface Explanation { waitsFor: { what: string; until: string | null }[] }
export interface Freeze { id: string; selector: string; until: string; reason: string; createdBy: string; devices: number }

export interface RolloutEvent { id: string | number; at: string; code: string; message: string; actor: string; wave: number | null }

export interface RolloutExecution { device: string; wave: number; state: string; step: string | null; percent: number | null; failure: { code: string; message: string } | null }

export interface SeriesPoint { at: string; bundle: string; group?: string; inferences: number; errors: number; p50Ms: number | null; p95Ms: number | null; p99Ms: number | null; accuracy: number | null }

/** An RFC 9457 problem, thrown. */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

const storageKey = 'reef-token';

export const token = {
  get: () => localStorage.getItem(storageKey) ?? '',
  set: (value: string) => localStorage.setItem(storageKey, value),
  forget: () => localStorage.removeItem(storageKey),
};

export async function api<T>(path: string, init: { method?: string; body?: unknown } = {}): Promise<T> {
  const response = await fetch(`/api/v1${path}`, {
    method: init.method ?? 'GET',
    headers: { authorization: `Bearer ${token.get()}`, ...(init.body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(init.body === undefined ? {} : { body: JSON.stringify(init.body) }),
  });
  if (response.status === 204) return undefined as T;
  const body = (await response.json().catch(() => ({}))) as { code?: string; detail?: string };
  if (!response.ok) throw new Problem(response.status, body.code ?? 'http', body.detail ?? `The controller answered ${response.status}.`);
  return body as T;
}

export interface Capture { id: string; deviceId: string; workload: string; bundle: string; prediction: string; score: number; margin: number; receivedAt: string; label: string | null }

export async function picture(path: string): Promise<Blob> {
  const response = await fetch(`/api/v1${path}`, { headers: { authorization: `Bearer ${token.get()}` } });
  if (!response.ok) throw new Problem(response.status, 'http', `The controller answered ${response.status}.`);
  return response.blob();
}
