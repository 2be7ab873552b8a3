import { hostname } from 'node:os';
import { commonConfig, parseConfig } from '@reefkeeper/platform';
import { z } from 'zod';

const port = z.coerce.number().int().min(0).max(65_535);

const schema = commonConfig.extend({
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/ }),
  REDIS_URL: z.url({ protocol: /^rediss?$/ }).optional(),
  MQTT_URL: z.url({ protocol: /^mqtts?$/ }),
  ARTIFACTS_URL: z.string().min(1),
  GCS_ENDPOINT: z.url().optional(),
  /** Folder with the CA, the signing key and our own certificates; made there when missing. */
  KEYS_DIR: z.string().min(1),
  HOST: z.string().default('127.0.0.1'),
  PORT: port.default(8_080),
  GATEWAY_HOST: z.string().default('127.0.0.1'),
  GATEWAY_PORT: port.default(8_443),
  /** How devices reach the gateway and the broker; both go into every enrolment answer. */
  PUBLIC_GATEWAY_URL: z.url({ protocol: /^https$/ }),
  PUBLIC_MQTT_URL: z.url({ protocol: /^mqtts$/ }),
  /** More names for our server certificate, separated by commas. */
  TLS_HOSTS: z.string().default(''),
  BOOTSTRAP_ADMIN_TOKEN: z.string().min(24, 'use at least 24 characters').optional(),
  /** Built console; without it the API stands alone. */
  CONSOLE_DIR: z.string().optional(),
  /** Folder with Debian packages for devices (`npm run package:deb`), which the gateway serves with an install script. */
  AGENT_PACKAGES_DIR: z.string().optional(),
  /** Shared subscription group for several replicas; needs a broker that knows $share (Mosquitto, EMQX). */
  MQTT_SHARED_GROUP: z.string().regex(/^[A-Za-z0-9_-]+$/).optional(),
  /** Names this replica's broker session, so that messages wait for it over a restart. */
  INSTANCE_ID: z.string().regex(/^[A-Za-z0-9_-]{1,40}$/).optional(),
  UPLOAD_LIMIT_BYTES: z.coerce.number().int().positive().default(4 * 1024 ** 3),
});

export type Config = Readonly<z.output<typeof schema>> & { INSTANCE_ID: string };

/** @throws ReefError `config.invalid` naming every fault */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const config = parseConfig(schema, env);
  // The port tells replicas on one host apart: two with the same session would throw each other out for ever.
  return Object.freeze({ ...config, INSTANCE_ID: config.INSTANCE_ID ?? `${hostname().replaceAll(/[^A-Za-z0-9_-]/g, '-').slice(0, 34)}-${config.PORT}` });
}
