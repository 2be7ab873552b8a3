import { isEnumType, isListType, isNonNullType, isObjectType, type GraphQLOutputType, type GraphQLSchema } from 'graphql';

type Schema = Record<string, unknown>;

const page = (items: Schema): Schema => ({ type: 'object', required: ['items', 'nextCursor'], properties: { items: { type: 'array', items }, nextCursor: { type: 'string', nullable: true } } });
const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });
const object = (properties: Record<string, Schema>): Schema => ({ type: 'object', required: Object.keys(properties), properties });
const text = { type: 'string' };
const count = { type: 'integer' };
const time = { type: 'string', format: 'date-time' };
const orNull = (schema: Schema): Schema => ('$ref' in schema ? { nullable: true, allOf: [schema] } : { ...schema, nullable: true });
const anything = { type: 'object', additionalProperties: true };

/** What REST answers and GraphQL has no type for. */
const ownTypes: Record<string, Schema> = {
  Model: object({ name: text, description: orNull(text), createdAt: time, createdBy: text, latestVersion: orNull(count), versions: count }),
  DeviceCommand: object({ id: { ...text, format: 'uuid' }, deviceId: text, kind: text, args: anything, state: { ...text, enum: ['QUEUED', 'SENT', 'SUCCEEDED', 'FAILED'] }, answer: orNull(object({ id: text, ok: { type: 'boolean' }, result: anything, failure: orNull(object({ code: text, message: text })) })), createdBy: text, createdAt: time, expiresAt: time, answeredAt: orNull(time) }),
  EnrolmentToken: object({ token: { ...text, description: 'Shown once: reef1.SECRET.FINGERPRINT' }, expiresAt: time, gatewayUrl: text, install: orNull({ ...text, description: 'The line to run on the device; null where this controller has no packages for devices' }) }),
  ApiToken: object({ id: { ...text, format: 'uuid' }, name: text, role: { ...text, enum: ['viewer', 'operator', 'approver', 'admin'] }, createdAt: time, createdBy: text, lastUsedAt: orNull(time), revokedAt: orNull(time) }),
  NewApiToken: object({ id: { ...text, format: 'uuid' }, name: text, role: text, token: { ...text, description: 'Shown once' } }),
  Capture: object({ id: { ...text, format: 'uuid' }, seq: { ...count, description: 'In the order received' }, deviceId: text, workload: text, bundle: text, variant: text, backend: text, prediction: text, score: { type: 'number' }, margin: { type: 'number', description: 'To the second best class' }, takenAt: { ...time, description: 'Device clock' }, receivedAt: time, digest: text, bytes: count, label: orNull(text), labelledBy: orNull(text), labelledAt: orNull(time) }),
  AuditEntry: object({ id: count, at: time, actor: text, action: text, subject: text, detail: anything }),
  StoredObject: object({ digest: { ...text, description: 'SHA-256, hex' }, bytes: count }),
  SeriesPoint: object({ at: time, group: { ...text, description: 'The device or the bundle, as asked by `by`' }, bundle: text, inferences: count, errors: count, p50Ms: orNull({ type: 'number' }), p95Ms: orNull({ type: 'number' }), p99Ms: orNull({ type: 'number' }), labelled: count, accuracy: orNull({ type: 'number' }), temperatureC: orNull({ type: 'number' }), drift: orNull({ ...object({ psi: { type: 'number' }, scores: count }), description: 'Population stability index of the top-1 scores against what each device gave after the commit, cleared of chance' }) }),
  Caller: object({ name: text, role: { ...text, enum: ['viewer', 'operator', 'approver', 'admin'] } }),
  DeviceExecution: { allOf: [ref('RolloutExecution'), object({ rollout: { ...text, format: 'uuid' }, version: text, workload: text })] },
  RunningVersion: object({ workload: text, bundle: orNull(text), version: orNull(text), backend: orNull(text), devices: count }),
  HeldVersion: object({ version: text, code: text, message: text }),
};

/** The body of a successful answer by operation. */
const bodies: Record<string, Schema> = {
  'Devices.list': { allOf: [page(ref('Device')), { type: 'object', properties: { total: count } }] }, 'Devices.one': ref('Device'), 'Devices.change': ref('Device'), 'Devices.pin': ref('Device'), 'Devices.unpin': ref('Device'), 'Devices.configure': object({ devices: count }), 'Devices.send': ref('DeviceCommand'), 'Devices.command': ref('DeviceCommand'),
  'DeviceExecutions.list': page(ref('DeviceExecution')), 'Me.me': ref('Caller'), 'Bundles.list': object({ items: { type: 'array', items: object({ bundle: text, version: text }) } }),
  'Overview.overview': object({ devices: object(Object.fromEntries(['all', 'online', 'degraded', 'behind', 'edgeTpu', 'updating', 'pinned'].map((name) => [name, count]))), running: { type: 'array', items: ref('RunningVersion') }, rollouts: { type: 'array', items: ref('Rollout') }, held: { type: 'array', items: ref('HeldVersion') } }),
  'EnrolmentTokens.create': ref('EnrolmentToken'), 'ApiTokens.list': page(ref('ApiToken')), 'ApiTokens.create': ref('NewApiToken'), 'Audit.list': page(ref('AuditEntry')),
  'AgentReleases.publish': ref('Version'), 'Models.list': page(ref('Model')), 'Models.create': ref('Model'), 'Models.one': ref('Model'), 'Models.versions': page(ref('Version')), 'Models.version': ref('Version'), 'Models.confirm': ref('Version'), 'Models.bundle': { ...anything, description: 'A DSSE envelope' }, 'Artifacts.delta': object({ from: text, to: text, bytes: count, deltaBytes: orNull(count) }),
  'Alerts.list': page(ref('Alert')), 'Alerts.one': ref('Alert'), 'Alerts.acknowledge': ref('Alert'), 'Alerts.acknowledgeAll': object({ acknowledged: count }), 'Alerts.counts': object({ open: count, acknowledged: count, kinds: { type: 'array', items: object({ kind: text, severity: text, open: count, acknowledged: count }) } }),
  'Silences.list': page(ref('Silence')), 'Silences.create': ref('Silence'), 'Silences.lift': ref('Silence'),
  'Captures.list': page(ref('Capture')), 'Captures.one': ref('Capture'), 'Captures.label': ref('Capture'),
  'Buckets.import': object({ version: ref('Version'), job: ref('Job') }), 'Buckets.exports': page(ref('BucketExport')),
  'Builds.train': object({ version: ref('Version'), job: ref('Job') }),
  'Cocompile.create': object({ items: { type: 'array', items: object({ version: ref('Version'), job: ref('Job') }) } }),
  'Builds.create': object({ version: ref('Version'), job: ref('Job') }), 'Uploads.upload': ref('StoredObject'), 'Retention.collect': object({ dryRun: { type: 'boolean' }, before: time, objects: count, bytes: count, roles: { type: 'array', items: object({ role: text, objects: count, bytes: count }) }, more: { type: 'boolean' } }),
  'Jobs.list': page(ref('Job')), 'Jobs.one': ref('Job'), 'Jobs.cancel': ref('Job'), 'Jobs.retry': ref('Job'), 'Jobs.attempts': page(ref('CompileAttempt')), 'Jobs.log': object({ lines: { type: 'array', items: ref('JobLogLine') } }),
  'Telemetry.latest': page(ref('TelemetryWindow')), 'Series.series': object({ points: { type: 'array', items: ref('SeriesPoint') }, from: time, to: time, stepS: count }),
  'Rollouts.list': page(ref('Rollout')), 'Rollouts.preview': { ...anything, description: 'The plan: who is eligible, who is left out and why, the waves, the most devices that can be on an unproven version at once, how fast the version will be there, and until when it can take' },
  'Freezes.list': page(ref('Freeze')), 'Freezes.create': ref('Freeze'), 'Freezes.lift': ref('Freeze'), 'ConfigRules.list': page(ref('ConfigRule')), 'ConfigRules.set': ref('ChangedConfigRule'), 'ConfigRules.remove': object({ changed: count }), 'Sites.list': page(ref('Site')), 'Sites.limit': ref('Site'),
  'Rollouts.freezes': page(object({ id: text, selector: text, reason: text, from: time, until: { ...time, description: 'When it was to end' }, endedAt: orNull(time), devices: { type: 'array', items: text } })),
  'Rollouts.windows': { ...anything, description: 'By device: what it sent of the version, counted from its assignment; what a replay goes by' },
  'Rollouts.explanation': { ...anything, description: 'Why the rollout is in its state, what it waits for, and what would move it' },
  'Rollouts.executions': page(ref('RolloutExecution')), 'Rollouts.events': page(ref('RolloutEvent')),
  ...Object.fromEntries(['create', 'one', 'start', 'approve', 'pause', 'resume', 'abort', 'rollback', 'advance'].map((verb) => [`Rollouts.${verb}`, ref('Rollout')])),
};

/**
 * Schemas of what REST answers. The same views go out through GraphQL, whose types are checked against them by the compiler;
 * so they are written once, there, and read from the GraphQL schema here.
 */
export function answerSchemas(graphql: GraphQLSchema): { bodies: Record<string, Schema>; components: Record<string, Schema> } {
  const components: Record<string, Schema> = {};
  for (const type of Object.values(graphql.getTypeMap())) {
    if (!isObjectType(type) || type.name.startsWith('__') || type.name.endsWith('Page') || ['Query', 'Mutation', 'Subscription'].includes(type.name)) continue;
    const fields = Object.values(type.getFields());
    components[type.name] = {
      type: 'object', ...(type.description ? { description: type.description } : {}),
      required: fields.filter((field) => isNonNullType(field.type)).map(({ name }) => name),
      properties: Object.fromEntries(fields.map((field) => [field.name, { ...schemaOf(field.type), ...(field.description ? { description: field.description } : {}) }])),
    };
  }
  return { bodies, components: { ...components, ...ownTypes } };
}

const scalars: Record<string, Schema> = { ID: text, String: text, Int: count, Float: { type: 'number' }, Boolean: { type: 'boolean' }, DateTime: time, JSON: { description: 'Any JSON value' } };

function schemaOf(type: GraphQLOutputType): Schema {
  if (!isNonNullType(type)) return orNull(bare(type));
  return bare(type.ofType);
}

function bare(type: GraphQLOutputType): Schema {
  if (isNonNullType(type)) return bare(type.ofType);
  if (isListType(type)) return { type: 'array', items: schemaOf(type.ofType) };
  if (isEnumType(type)) return { type: 'string', enum: type.getValues().map(({ name }) => name) };
  return isObjectType(type) ? ref(type.name) : scalars[(type as { name: string }).name] ?? {};
}
