import { z } from 'zod';
import { deviceId, message } from './message.ts';

export const digest = z.string().regex(/^[0-9a-f]{64}$/, 'a SHA-256 in 64 lower-case hex digits');
export const workloadName = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'a workload name is lower-case letters, digits and -');

/** The agent's own release, as a workload like any other. Models have other names. */
export const agentWorkload = 'reef-agent';

/** As AWS IoT Jobs. The last six are terminal, and terminal is sticky. */
export const executionState = z.enum(['QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'REMOVED', 'CANCELED']);
export type ExecutionState = z.infer<typeof executionState>;
export const terminalStates: ReadonlySet<ExecutionState> = new Set<ExecutionState>(['SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'REMOVED', 'CANCELED']);

export const executionStep = z.enum(['download', 'verify', 'install', 'golden', 'shadow', 'activate', 'observe', 'commit', 'rollback']);
export type ExecutionStep = z.infer<typeof executionStep>;

export const backend = z.enum(['edgetpu', 'cpu']);
export type Backend = z.infer<typeof backend>;

/** A stable code (`artifact.checksum_mismatch`) and a sentence for people. */
export const failure = z.object({ code: z.string().max(80), message: z.string().max(2_000) });
export type Failure = z.infer<typeof failure>;

export const policy = z.object({
  /** Serve `cpu-int8` where no Edge TPU answers, instead of waiting for one. What a bundle has for fewer Edge TPUs than are wanted serves in any case. */
  cpuFallback: z.boolean().default(true),
  /** The Edge TPU to run on: a path as the device reports it, or counted as pycoral does (`usb`, `pci`, `usb:1`, `:0`); the least loaded when absent. */
  device: z.string().min(1).max(200).optional(),
  /** How long the new model must serve without a crash before it is committed, seconds. */
  observeS: z.number().min(0).max(86_400).default(10),
  /** How long a committed model is watched on, seconds: three crashes or a failed self-test send it back; 600 when absent. */
  probationS: z.number().min(0).max(604_800).optional(),
  /** Give up on the whole activation after this long, seconds. */
  timeoutS: z.number().min(1).max(604_800).default(600),
  /**
   * Before it serves, the new model runs beside the active one on one of `everyN` live frames until `frames` are compared, `maxS` at most, its answers used for nothing. It is shown
   * fewer frames, and at last none, where the active model's p95 rises by more than `maxAddedPercent`.
   */
  shadow: z.object({
    everyN: z.number().int().min(1).max(10_000).default(10),
    frames: z.number().int().min(1).max(1_000_000).default(200),
    maxAddedPercent: z.number().min(0).max(1_000).default(20),
    maxS: z.number().min(1).max(604_800).default(600),
  }).optional(),
  /** Fetch it over a metered link whatever is left of the data budget. */
  ignoreBudget: z.boolean().optional(),
});
export type Policy = z.infer<typeof policy>;

/** How long a device may take for the whole of an activation, seconds. */
export function activationLimitS({ timeoutS, observeS, shadow }: Pick<Policy, 'timeoutS' | 'observeS' | 'shadow'>): number {
  return timeoutS + observeS + (shadow?.maxS ?? 0);
}

/** What one workload should run. */
export const wantedWorkload = z.object({
  /** SHA-256 of the bundle's manifest (the signed payload). */
  bundle: digest,
  /** Path below the gateway's origin that answers with the DSSE envelope. */
  manifestUrl: z.string().startsWith('/'),
  /** Name of the variant in the manifest (`cpu-int8`, `edgetpu-14`). */
  variant: z.string().max(40),
  policy: policy.prefault({}),
  /** The bundle to go back to; the agent's own last good one when absent. */
  rollbackTo: digest.nullable().default(null),
  /** Whether this revision is a rollback: the agent then takes the bundle from its own disk and skips the observation. */
  rollback: z.boolean().default(false),
});
export type WantedWorkload = z.infer<typeof wantedWorkload>;

/** Bytes that downloads may take per period over a metered link. A month is 30 days; periods follow each other from the agent's first start on. */
export const dataBudget = z.object({ bytes: z.number().int().positive().max(Number.MAX_SAFE_INTEGER), per: z.enum(['day', 'month']) });
export type DataBudget = z.infer<typeof dataBudget>;

/** As people write it: `5000/day`, `20MB/day`, `1.5GB/month`. */
export function parseDataBudget(text: string): DataBudget | undefined {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)B?\/(day|month)$/.exec(text);
  const factor: Record<string, number> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };
  return match ? dataBudget.safeParse({ bytes: Math.floor(Number(match[1]) * factor[match[2]!]!), per: match[3] }).data : undefined;
}

/** Where one device hands files to others of its site. */
export const peerAddress = z.object({ host: z.string().regex(/^[A-Za-z0-9.:_-]{1,253}$/), port: z.number().int().min(1).max(65_535) });
export const peer = peerAddress.extend({ id: deviceId });
export type Peer = z.infer<typeof peer>;

/** Parts of a picture, as shares of its width and height. */
const rectangle = z.object({ left: z.number().min(0).max(1), top: z.number().min(0).max(1), width: z.number().min(0).max(1), height: z.number().min(0).max(1) });

/** Pictures on which the model was not sure, for people to label. */
export const capture = z.object({
  /** At most so many in an hour, evenly. */
  perHour: z.number().int().min(1).max(3_600).default(20),
  /** Difference of the two best scores below which the model was not sure. */
  uncertainBelow: z.number().min(0).max(1).default(0.2),
  /** Every one when absent. */
  workloads: z.array(workloadName).max(64).optional(),
  /** Made black before a picture is kept. */
  masks: z.array(rectangle).max(16).default([]),
});

export const agentConfig = z.object({
  telemetryWindowS: z.number().min(1).max(3_600).default(60),
  /** Frames inferred per second and workload at most; null = as the source delivers. */
  maxFps: z.number().positive().max(1_000).nullable().default(null),
  /** What the link costs, and how much of it downloads may take; null = as the device's own settings say. */
  link: z.enum(['metered', 'unmetered']).nullable().default(null),
  dataBudget: dataBudget.nullable().default(null),
  /** Devices with the same label `site` that hand out files. Told as they were when this was sent; nobody is obliged to ask them. */
  peers: z.array(peer).max(16).default([]),
  /** null = no picture leaves the device. */
  capture: capture.nullable().optional(),
  /** Telemetry of at most so many bytes in any hour; windows are made longer to keep it. null = every window as it closes. */
  telemetryBytesPerHour: z.number().int().min(16 * 1024).max(1e12).nullable().optional(),
});
export type AgentConfig = z.infer<typeof agentConfig>;

/** The whole wanted state of one device. */
export const desired = message({
  name: 'desired', from: 'controller', qos: 1, retain: true, path: 'desired',
  schema: z.object({
    /** Strictly rising per device. A lower one than seen is ignored. */
    revision: z.number().int().positive(),
    workloads: z.record(workloadName, wantedWorkload),
    config: agentConfig.prefault({}),
  }),
});
export type Desired = z.infer<typeof desired.schema>;

export const capabilities = z.object({
  agentVersion: z.string(),
  tfliteVersion: z.string().nullable(),
  /** RuntimeVersion(N) of libedgetpu; null = none or not known. */
  edgetpuRuntime: z.number().int().nullable(),
  edgetpus: z.array(z.object({ type: z.enum(['usb', 'pci']), path: z.string() })),
  /** Hardware that behaves alike: `dev-board`, `x86-64`, `raspberry-pi-4`, ... */
  hostClass: z.string().max(64),
  arch: z.string().max(16),
  memoryBytes: z.number().int().nonnegative(),
  /** IANA name of the zone that the device's clock is set to (`Europe/Paris`). */
  timeZone: z.string().max(64).optional(),
  /** It runs models that are cut into segments, one on each of several Edge TPUs. */
  pipelines: z.literal(true).optional(),
  /** There where the device hands files to others. */
  peer: peerAddress.optional(),
  /** Release of the agent: `factory` (of its package) or a bundle's digest; absent where it cannot be updated from here. */
  release: z.string().max(64).optional(),
});
export type Capabilities = z.infer<typeof capabilities>;

const byteCount = z.number().int().nonnegative();
/** What the files of one execution took, on the wire, by the way they came; what a broken delta took counts as well. */
export const transfer = z.object({
  /** Whole files from the gateway. */
  fullBytes: byteCount,
  deltaBytes: byteCount,
  /** From other devices of the site. */
  peerBytes: byteCount,
  /** What the files that came as deltas would have taken more. */
  savedBytes: byteCount,
});
export type Transfer = z.infer<typeof transfer>;

export const execution = z.object({
  transfer: transfer.optional(),
  revision: z.number().int().positive(),
  bundle: digest,
  state: executionState,
  step: executionStep.nullable(),
  /** Of the current step, 0 to 100; null where it cannot be known. */
  percent: z.number().min(0).max(100).nullable(),
  /** Why it failed; with QUEUED, what it waits for (`budget_exceeded`, `no_accelerator`, `disk_full`). */
  failure: failure.nullable().default(null),
  /** What is to be known although nothing failed (`shadow.too_few_frames`). */
  notes: z.array(failure).max(8).optional(),
});
export type Execution = z.infer<typeof execution>;

export const learnStep = z.enum(['download', 'embed', 'learn', 'self-test', 'offer']);
export type LearnStep = z.infer<typeof learnStep>;

export const reportedWorkload = z.object({
  running: digest.nullable(),
  variant: z.string().nullable(),
  backend: backend.nullable(),
  /** The last good bundle kept on disk beside the running one. */
  previous: digest.nullable(),
  execution: execution.nullable(),
  /** What the device found wrong with a bundle after its success; where there was one to go back to, it has gone back. */
  fault: z.object({ bundle: digest, failure }).nullable().optional(),
  /** Path of the Edge TPU that it is on now; null = none. */
  device: z.string().max(200).nullable().optional(),
  /** A learning on the device that is under way; absent otherwise. */
  learning: z.object({ command: z.string().max(64), step: learnStep, percent: z.number().min(0).max(100) }).optional(),
});
export type ReportedWorkload = z.infer<typeof reportedWorkload>;

/** What the device runs. Sent at birth (with capabilities) and at every change. Ordered by (bootId, seq), never by a clock. */
export const reported = message({
  name: 'reported', from: 'agent', qos: 1, retain: false, path: 'reported',
  schema: z.object({
    bootId: z.string().max(64),
    seq: z.number().int().nonnegative(),
    /** The session counter of the connection, as in `presence`. */
    session: z.number().int().nonnegative(),
    /** The highest revision taken in; null before the first. */
    observedRevision: z.number().int().nullable(),
    health: z.enum(['HEALTHY', 'DEGRADED']),
    /** Codes of what is wrong now (`NO_ACCELERATOR`). */
    conditions: z.array(z.string().max(80)).default([]),
    workloads: z.record(workloadName, reportedWorkload),
    capabilities: capabilities.optional(),
  }),
});
export type Reported = z.infer<typeof reported.schema>;

/** Will and birth share shape and retain flag. A lower session than seen is ignored. */
export const presence = message({
  name: 'presence', from: 'agent', qos: 1, retain: true, path: 'presence',
  schema: z.object({ online: z.boolean(), session: z.number().int().nonnegative() }),
});
export type Presence = z.infer<typeof presence.schema>;

/** What a captured picture is sent with, to the gateway. */
export const captureFacts = z.object({
  workload: workloadName, bundle: digest, variant: z.string().max(40), backend,
  prediction: z.string().max(256), score: z.number().min(0).max(1), margin: z.number().min(0).max(1),
  /** Device clock, data only. */
  takenAt: z.iso.datetime(),
});
export type CaptureFacts = z.infer<typeof captureFacts>;

/** Base64 of the sketch encoding in `sketch.ts`; values in microseconds. */
const sketch = z.string().max(16_384);

/** Names that one window carries. */
export const maxMetrics = 32;
export const maxErrorCodes = 64;
const atMostKeys = (most: number) => [(record: Record<string, unknown>) => Object.keys(record).length <= most, `at most ${most} names`] as const;

/** As a site's own program calls it: `reject_rate`. */
export const metricName = z.string().regex(/^[a-z][a-z0-9_]{0,63}$/, 'a metric name is a lower-case letter, then letters, digits and _');

/** Moments of the numbers that were pushed in the window: windows add up, and mean and spread follow. */
export const metricMoments = z.object({ count: z.number().int().positive(), sum: z.number(), sumSquares: z.number().nonnegative() });
export type MetricMoments = z.infer<typeof metricMoments>;

/** A candidate that ran beside the active model on the same frames, its answers used for nothing. */
export const shadowWindow = z.object({
  /** The candidate. The window's own `bundle` is the active one. */
  bundle: digest,
  /** Frames that both saw. */
  frames: z.number().int().nonnegative(),
  /** Of those: the candidate's top answer was the active model's. */
  agreed: z.number().int().nonnegative(),
  /** Of those: the candidate gave no answer. */
  errors: z.number().int().nonnegative(),
  /** Whole time per frame of the candidate, and of the active model on the same frames. */
  latency: sketch,
  active: sketch,
});
export type ShadowWindow = z.infer<typeof shadowWindow>;

/** Bins of the population stability index: ten, cut at the deciles of the reference. Chance alone raises it by about (bins - 1) * (1/reference + 1/current). */
export const driftBins = 10;

export const driftWindow = z.object({
  /** Population stability index of the top-1 scores of this window against the reference kept since the commit. */
  psi: z.number().nonnegative().max(1_000),
  /** Scores in the reference and in this window. */
  reference: z.number().int().positive(),
  current: z.number().int().positive(),
});
export type DriftWindow = z.infer<typeof driftWindow>;

/** One closed window of one workload on one bundle. (bootId, seq) names it for ever; a repeat changes nothing. */
export const telemetry = message({
  name: 'telemetry', from: 'agent', qos: 1, retain: false, path: 'telemetry',
  schema: z.object({
    bootId: z.string().max(64),
    seq: z.number().int().nonnegative(),
    workload: workloadName,
    bundle: digest,
    variant: z.string().max(40),
    backend,
    /** Device clock, data only. */
    startedAt: z.iso.datetime(),
    durationMs: z.number().int().nonnegative(),
    /** Tried in the window, the failed ones included. */
    inferences: z.number().int().nonnegative(),
    /** Failed inferences by code. */
    errors: z.record(z.string().max(80), z.number().int().positive()).refine(...atMostKeys(maxErrorCodes)).default({}),
    /** Latency per stage (`preprocess`, `invoke`, `total`). */
    latency: z.record(z.string().max(32), sketch).refine(...atMostKeys(8)),
    /** Frames whose label is known, and how many of those were answered right (top 1). */
    labelled: z.number().int().nonnegative().default(0),
    correct: z.number().int().nonnegative().default(0),
    /** Top-1 scores in thousandths. */
    scores: sketch.optional(),
    /** Of what ran the model, degrees Celsius: its Edge TPU (PCIe), or the processor for the CPU; null = not known, never 0. */
    temperatureC: z.number().nullable().default(null),
    shadow: shadowWindow.optional(),
    /** Numbers that the site's own program gave the device's local API. */
    metrics: z.record(metricName, metricMoments).refine(...atMostKeys(maxMetrics)).optional(),
    drift: driftWindow.optional(),
    /** Windows that had to be thrown away before this one for want of room, and the inferences in them. */
    lost: z.object({ windows: z.number().int().positive(), inferences: z.number().int().nonnegative() }).optional(),
  }),
});
export type Telemetry = z.infer<typeof telemetry.schema>;

export const commandKind = z.enum(['ping', 'restart-inference', 'bench', 'allow-download', 'learn']);

/** Arguments of `learn`: a new head on the extractor of the bundle that the workload runs. The answer names the version it became. */
export const learnArgs = z.object({
  workload: workloadName,
  /** An archive (tar, perhaps gzipped) with a folder per class, which the gateway gives to this device while the command is open. */
  images: z.object({ digest, bytes: z.number().int().positive() }),
  method: z.enum(['imprinting', 'softmax-regression']).default('imprinting'),
  /** Share of the images that are only judged by. */
  holdout: z.number().min(0).max(0.5).default(0.2),
  seed: z.number().int().min(0).max(2 ** 31 - 1).default(1),
  /** Imprinting: keep the classes that the running version was taught before. */
  add: z.boolean().default(true),
  /** Nothing is offered where its own test gives less, 0 to 1. */
  minAccuracy: z.number().min(0).max(1).default(0),
  /** Model that the version is of; the running one's where absent. The device does not look at it. */
  model: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/).optional(),
  /** Whether somebody has to confirm the version before it is rolled out. The device does not look at it. */
  hold: z.boolean().default(true),
});
export type LearnArgs = z.output<typeof learnArgs>;

/** A one-off request, journalled by id on the device: a repeat is answered from the journal. */
export const command = message({
  name: 'command', from: 'controller', qos: 1, retain: false, path: 'cmd/{id}',
  schema: z.object({ id: z.string().max(64), kind: commandKind, args: z.record(z.string(), z.unknown()).default({}), expiresAt: z.iso.datetime().nullable().default(null) }),
});
export type Command = z.infer<typeof command.schema>;

export const commandResult = message({
  name: 'command-result', from: 'agent', qos: 1, retain: false, path: 'cmd/{id}/result',
  schema: z.object({ id: z.string().max(64), ok: z.boolean(), result: z.record(z.string(), z.unknown()).default({}), failure: failure.nullable().default(null) }),
});
export type CommandResult = z.infer<typeof commandResult.schema>;

export const messages = { desired, reported, presence, telemetry, command, commandResult } as const;
