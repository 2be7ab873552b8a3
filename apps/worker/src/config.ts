import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { commonConfig, parseConfig } from '@reefkeeper/platform';
import { z } from 'zod';

const folder = z.string().min(1).transform((path) => resolve(path));

const pubSubName = (what: 'subscription' | 'topic') => {
  const letter = what[0]!.toUpperCase();
  return z.string().regex(new RegExp(`^(?:projects/[^/]+/${what}s/)?[A-Za-z][\\w.~+%-]{2,254}$`), `a ${what}: projects/P/${what}s/${letter}, or ${letter} in the project of the credentials`);
};

const schema = commonConfig.extend({
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/ }),
  REDIS_URL: z.url({ protocol: /^rediss?$/ }).optional(),
  ARTIFACTS_URL: z.string().min(1),
  GCS_ENDPOINT: z.url().optional(),
  /** Folder with `signing-key.pem`, made there when missing. The controller must read the same one. */
  KEYS_DIR: folder,
  /** Interpreter that the virtual environment is made from, 3.10 to 3.13; looked for on the search path where absent. */
  PYTHON: z.string().optional(),
  /** Virtual environment with TensorFlow, made on first use (about 1.6 GB). */
  PYTHON_ENV_DIR: folder.default(resolve('.reef/python')),
  /** Scratch space: a few times the largest model and its samples. */
  WORK_DIR: folder.default(join(tmpdir(), 'reef-worker')),
  /** Steps at once. TensorFlow needs a core and about 1 GiB for each. */
  WORKER_CONCURRENCY: z.coerce.number().int().min(1).max(64).default(1),
  REEF_EDGETPU_COMPILER: z.string().optional(),
  /** Pub/Sub subscription on a bucket's OBJECT_FINALIZE notifications: exports of AutoML Vision and Vertex AI that appear there become versions. */
  REEF_BUCKET_WATCH: pubSubName('subscription').optional(),
  /** An export is taken this long after the last object of it was written. */
  REEF_BUCKET_QUIET_S: z.coerce.number().min(0.1).max(3_600).default(30),
  /** `gs://bucket/flowers/=flowers, gs://bucket/=others`: model names by address, the longest that fits; others are named by their folder. */
  REEF_BUCKET_MODELS: z.string().default('').transform((text, context) => text.split(',').map((rule) => rule.trim()).filter(Boolean).flatMap((rule) => {
    const [, address, model] = /^(gs:\/\/[^=]+)=([a-z0-9][a-z0-9-]{0,62})$/.exec(rule) ?? [];
    if (address && model) return [{ address, model }];
    context.addIssue({ code: 'custom', message: `"${rule}" is not gs://bucket/folder/=model` });
    return [];
  })),
  /** Pub/Sub topic that gets every window of telemetry as a row, for BigQuery and the like. */
  REEF_TELEMETRY_TOPIC: pubSubName('topic').optional(),
  /** Stored files that nothing refers to are removed after so many days without use; 0 = never. */
  RETENTION_DAYS: z.coerce.number().min(0).max(36_500).default(30),
  /** Receives a POST when alerts open and close, as Prometheus Alertmanager sends it (docs/alerts.md). */
  ALERT_WEBHOOK_URL: z.url({ protocol: /^https?$/ }).optional(),
  /** Signs what the webhook is sent: `whsec_` and base64, or any text. */
  ALERT_WEBHOOK_SECRET: z.string().min(24, 'use at least 24 characters').optional(),
  /** Where people find the console, for links in messages. */
  CONSOLE_URL: z.url({ protocol: /^https?$/ }).optional(),
  /** GET /healthz and /readyz here; without it there is no server. */
  HEALTH_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
});

export type Config = Readonly<z.output<typeof schema>>;

export function readConfig(env: NodeJS.ProcessEnv): Config {
  return parseConfig(schema, env);
}
