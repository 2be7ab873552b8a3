import { z } from 'zod';

export type Sender = 'controller' | 'agent';

/**
 * One message of the device protocol: who sends it, where, how and what. Topics are written nowhere else.
 * Unknown fields are ignored when decoding, so either side may be newer.
 */
export interface Message<Name extends string, S extends z.ZodType> {
  readonly name: Name;
  readonly from: Sender;
  readonly qos: 0 | 1;
  readonly retain: boolean;
  readonly schema: S;
  /** The topic of this message for one device (and one command, where the topic carries its id). */
  topicFor(deviceId: string, id?: string): string;
  /** The MQTT filter that catches this message of every device. */
  readonly filter: string;
  encode(body: z.input<S>): Buffer;
  /** Never throws: what cannot be read says why. */
  decode(payload: Uint8Array): Decoded<z.output<S>>;
}

export type Decoded<T> = { ok: true; body: T } | { ok: false; reason: string };

export const protocolRoot = 'reef/v1';

/** Payloads beyond this are refused unread. */
export const maxPayloadBytes = 256 * 1024;

const idPattern = /^[A-Za-z0-9_-]{1,64}$/;

export const deviceId = z.string().regex(idPattern, 'a device id is 1 to 64 of A-Z a-z 0-9 _ -');

export function message<Name extends string, S extends z.ZodType>(spec: {
  name: Name;
  from: Sender;
  qos: 0 | 1;
  retain: boolean;
  schema: S;
  /** Below `reef/v1/{deviceId}/`; `{id}` stands for the command id. */
  path: string;
}): Message<Name, S> {
  return {
    ...spec,
    filter: `${protocolRoot}/+/${spec.path.replace('{id}', '+')}`,
    topicFor(device, id) {
      return `${protocolRoot}/${device}/${spec.path.replace('{id}', id ?? '+')}`;
    },
    encode(body) {
      return Buffer.from(JSON.stringify(spec.schema.parse(body)));
    },
    decode(payload) {
      if (payload.byteLength > maxPayloadBytes) return { ok: false, reason: `payload of ${payload.byteLength} bytes is over ${maxPayloadBytes}` };
      let json: unknown;
      try {
        json = JSON.parse(Buffer.from(payload).toString('utf8'));
      } catch {
        return { ok: false, reason: 'payload is not JSON' };
      }
      const parsed = spec.schema.safeParse(json);
      return parsed.success ? { ok: true, body: parsed.data } : { ok: false, reason: z.prettifyError(parsed.error) };
    },
  };
}

/** Which device (and command) a topic belongs to; undefined for topics outside the protocol. */
export function parseTopic(topic: string): { device: string; path: string; id?: string } | undefined {
  const match = /^reef\/v1\/([A-Za-z0-9_-]{1,64})\/(.+)$/.exec(topic);
  if (!match) return undefined;
  const command = /^cmd\/([A-Za-z0-9_-]{1,64})(\/result)?$/.exec(match[2]!);
  return command ? { device: match[1]!, path: `cmd/{id}${command[2] ?? ''}`, id: command[1]! } : { device: match[1]!, path: match[2]! };
}
