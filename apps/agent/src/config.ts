import { z } from 'zod';
import { commonConfig, parseConfig } from '@reefkeeper/platform/config';
import { masked, parseCamera, type CameraSource } from './camera-source.ts';
import { parseDataBudget } from '@reefkeeper/protocol';
import { agentComeback } from './comeback.ts';

/** Where the local API listens; null = nowhere. */
export type LocalAddress = { host: string; port: number } | { path: string } | null;

const localAddress = z.string().transform((text, context): LocalAddress => {
  if (text === 'off') return null;
  if (text.startsWith('unix:/')) return { path: text.slice(5) };
  const [, bracketed, plain, port] = /^(?:\[([0-9a-f:]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/i.exec(text) ?? [];
  if (port !== undefined && Number(port) < 65_536) return { host: (bracketed ?? plain)!, port: Number(port) };
  context.addIssue({ code: 'custom', message: 'give host:port (127.0.0.1:8080, [::1]:8080), unix:/path or off' });
  return z.NEVER;
});

const schema = z.object({
  ...commonConfig.shape,
  /** Everything the agent keeps lies below it. */
  REEF_AGENT_DIR: z.string().default('/var/lib/reef'),
  /** A folder of images to infer, in name order, again and again; `labels.csv` in it tells the truth. */
  FRAMES_DIR: z.string().optional(),
  /** A camera instead (`camera-source.ts`): `ffmpeg:/dev/video0`, `rtsp://...`, `gst:PIPELINE`; a folder is one, too. */
  REEF_CAMERA: z.string().optional().transform((text, context): CameraSource | undefined => {
    if (text === undefined || text.trim() === '') return undefined;
    const source = parseCamera(text);
    if (typeof source !== 'string') return source;
    // Never what was given: it may hold a password.
    context.addIssue(masked(source));
    return z.NEVER;
  }),
  FRAMES_FPS: z.coerce.number().positive().max(1_000).default(5),
  /** Telemetry kept while offline, bytes; the oldest goes first. */
  REEF_TELEMETRY_BYTES: z.coerce.number().int().min(64 * 1024).default(16 * 1024 * 1024),
  /** What the link costs; the fleet's configuration goes before. */
  REEF_LINK: z.enum(['metered', 'unmetered']).default('unmetered'),
  /** What downloads may take over a metered link, `20MB/day`. */
  REEF_DATA_BUDGET: z.string().optional().transform((text, context) => {
    const budget = text === undefined ? undefined : parseDataBudget(text);
    if (text === undefined || budget) return budget;
    context.addIssue(`"${text}" is no data budget; write bytes/day or bytes/month, such as 20MB/day`);
    return z.NEVER;
  }),
  /** Files to and from other devices with the same label `site`. */
  REEF_PEER_CACHE: z.enum(['on', 'off']).default('off'),
  REEF_PEER_LISTEN: z.string().regex(/^[^:]*:\d+$/, 'host:port').default('0.0.0.0:8446'),
  /** Where others reach it; the first address of this host where absent. */
  REEF_PEER_ADDRESS: z.string().optional(),
  REEF_PEER_BYTES_PER_S: z.coerce.number().int().min(16 * 1024).default(4 * 1024 * 1024),
  /** Free space that downloads never touch, bytes. */
  REEF_DISK_RESERVE: z.coerce.number().int().nonnegative().default(32 * 1024 * 1024),
  /** libtensorflowlite_c and libedgetpu, where they are not found by themselves. */
  REEF_TFLITE_LIBRARY: z.string().optional(),
  REEF_EDGETPU_LIBRARY: z.string().optional(),
  /** How often a missing accelerator is looked for at most, seconds. */
  REEF_PROBE_MAX_S: z.coerce.number().positive().default(60),
  /** No invoke counts as hung before this, milliseconds, however fast the model has been: on a busy machine a process may wait for seconds. */
  REEF_HANG_FLOOR_MS: z.coerce.number().int().min(50).max(600_000).default(5_000),
  /** Whatever takes longer is hung, milliseconds; it also holds until a model's own pace is known. */
  REEF_HANG_CEILING_MS: z.coerce.number().int().min(50).max(3_600_000).default(10_000),
  /** Whether an Edge TPU that fails again and again is taken off the USB bus and on again, and how often an hour at most. */
  REEF_TPU_RESET: z.enum(['off', 'usb']).default('off'),
  REEF_TPU_RESETS_PER_H: z.coerce.number().int().min(0).max(60).default(3),
  /** Where the kernel's sysfs is mounted; containers may have the host's elsewhere. */
  REEF_SYSFS: z.string().default('/sys'),
  /** How often a model in service takes its golden self-test, seconds; 0 = only before it serves. */
  REEF_GOLDEN_EVERY_S: z.coerce.number().nonnegative().default(3_600),
  /** A connection that held this long counts as stable, seconds. */
  REEF_STABLE_S: z.coerce.number().positive().default(agentComeback.stableMs / 1_000),
  /** `off` forbids that pictures leave this device, whatever the fleet wants. */
  REEF_CAPTURE: z.enum(['allowed', 'off']).default('allowed'),
  /** Executable that masks a picture before it is kept: JPEG in on standard input, JPEG out on standard output, or nothing for "not this one". */
  REEF_CAPTURE_MASK: z.string().optional(),
  /** Captured pictures kept until they are sent, bytes; the oldest go first. */
  REEF_CAPTURE_BYTES: z.coerce.number().int().min(1_000_000).default(64 * 1024 * 1024),
  /** The local inference API: host:port, unix:/path, or off. Whoever reaches it may use it, so it stays on this machine by default. */
  REEF_LOCAL_API: z.string().default('127.0.0.1:8080').pipe(localAddress),
  /** Requests that it holds at a time, read and waiting; more are told to come again. */
  REEF_LOCAL_API_QUEUE: z.coerce.number().int().min(1).max(10_000).default(64),
  /** The longest body, bytes. Those of all requests together are at most twice this. */
  REEF_LOCAL_API_BODY: z.coerce.number().int().min(1_024).max(256 * 1024 * 1024).default(16 * 1024 * 1024),
  /** Set by the launcher: which release of the agent this process is. */
  REEF_RELEASE: z.string().regex(/^(factory|[0-9a-f]{64})$/, 'the launcher sets this: factory, or the digest of a bundle').optional(),
  /** Tests only: die with SIGKILL, once, at this point (`crash-point.ts`). */
  REEF_AGENT_CRASH_AT: z.string().optional(),
});
export type AgentSettings = Readonly<z.output<typeof schema>>;

/** @throws ReefError `config.invalid` */
export function agentSettings(env: Record<string, string | undefined>): AgentSettings {
  return parseConfig(schema, env);
}
