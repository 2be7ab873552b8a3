import { Sketch } from '@reefkeeper/protocol';
import type { AlertKind, AlertKinds, Fact } from './alert.ts';
import { driftOf, driftSums } from './drift.ts';
import { inMs, merged } from './telemetry.views.ts';

/** One row of a source's SQL. */
export interface SourceRow { kind: string; device: string | null; workload: string | null; rollout: string | null; numbers: Record<string, any> }

/** Where facts come from. Each library says in SQL what it knows; what the rows mean is decided here, not there. */
export interface AlertSource {
  kinds: AlertKinds;
  /** Of kind, device, workload, rollout (uuid) and numbers (jsonb); `$1` is now. It may read `alerts`, and should cost what is wrong, not what there is. */
  sql: string;
  /** @param live whether such an alert is not closed: limits to stay open are below those to open */
  read(rows: readonly SourceRow[], live: (kind: string, subject: string) => boolean): Fact[];
  /** Looked at so often. */
  everyS: 2 | 60 | 300;
}

/** Each row is a condition that holds. */
export const asTheyAre = (rows: readonly SourceRow[]): Fact[] => rows.map((row) => ({ ...row, subject: row.rollout ?? [row.device, row.workload].filter(Boolean).join('/'), holds: true }));

type Say = string | ((fact: Fact) => string);
const said = (say: Say) => (fact: Fact): string => (typeof say === 'string' ? say : say(fact));

/** Of a subject of which no row speaks, the condition is gone, unless the kind says that then nothing is known. */
export const alertKind = (severity: AlertKind['severity'], [openAfterS, closeAfterS]: [number, number], summary: Say, advice: Say, silence: AlertKind['silence'] = 'gone'): AlertKind =>
  ({ severity, openAfterS, closeAfterS, silence, summary: said(summary), advice: said(advice) });

const who = (text: string) => ({ device, workload }: Fact): string => `${workload ? `${workload} on ${device}` : device} ${text}`;

/** With the reasons that the report gives, by workload. */
const why = (text: string) => (fact: Fact): string => `${who(text)(fact)}${fact.numbers.faults ? ` (${Object.entries(fact.numbers.faults as object).map(([workload, code]) => `${workload}: ${String(code)}`).join(', ')})` : ''}.`;

/** What devices report of themselves (docs/protocol.md). The newest report stands until another one comes, also of a device that is away. */
const conditionKinds = {
  'device.no_accelerator': alertKind('warning', [5, 10], who('has no Edge TPU that answers, or fewer than a workload wants.'),
    (fact) => `Check that the Edge TPU is plugged in and powered: \`reef device ping ${fact.device}\`. The device looks for it by itself and needs no restart; until then it serves what the version has for those that answer, or from the CPU where the rollout's policy lets it.`),
  'device.accelerator_failing': alertKind('critical', [5, 60], who('has an Edge TPU that fails again and again and is left alone for a while.'),
    'Look at its heat, power and cable, or let the agent reset it (REEF_TPU_RESET=usb, docs/agent.md). It is tried again by itself.'),
  'device.variant_unfit': alertKind('warning', [5, 60], who('serves something else than the variant it was given, which did not pass its self-test there.'),
    (fact) => `\`reef device show ${fact.device}\` says what serves. Suspect an Edge TPU that gives wrong answers, or a version compiled wrongly where other devices say the same; it is tried again when the device's Edge TPUs change or its agent starts.`),
  'device.crash_loop': alertKind('critical', [5, 60], why('runs a model whose inference process dies again and again'), (fact) => `\`reef device show ${fact.device}\` says which one and why. Roll back, or roll out a version that stays up.`),
  'device.golden_failed': alertKind('critical', [5, 60], why('gives wrong answers: a model in service fails its golden self-test'), (fact) => `Do not trust its answers. \`reef device show ${fact.device}\` names the workload; roll back, and suspect Edge TPU and memory where other devices run the same version well.`),
  'device.went_back': alertKind('warning', [5, 60], why('has left a new version in its probation and gone back to the one before'), (fact) => `\`reef device show ${fact.device}\` has the reason. It stays until the device is given something else that proves itself.`),
  'device.disk': alertKind('critical', [30, 60], (fact) => `${fact.device} cannot write to its disk (${(fact.numbers.conditions as string[]).join(', ')}).`, 'It serves on from memory, but takes nothing new in. Free space, or change the card (docs/agent.md).'),
  'device.bundle_damaged': alertKind('warning', [60, 60], who('has a damaged bundle on its disk.'), 'It fetches it again by itself. Where it comes back, the card is dying: change it.'),
  'device.clock': alertKind('warning', [60, 60], who('has a clock that is off by more than a day.'), 'The agent goes by the time of the fleet meanwhile. Let it reach an NTP server, or change the battery of its clock.'),
  'device.camera': alertKind('warning', [30, 30], who('gets no frames from its camera.'), 'Check cable, power and address of the camera (docs/cameras.md). The agent starts it again by itself.'),
  'device.state_lost': alertKind('info', [5, 60], who('could not read its own state at its last start and began anew.'), 'What it runs came from the fleet again. Where it happens twice, change the card.'),
  'device.degraded': alertKind('warning', [60, 60], (fact) => `${fact.device} says that it is not well: ${(fact.numbers.conditions as string[]).join(', ')}.`, (fact) => `Its agent knows conditions that this controller does not: \`reef device show ${fact.device}\`.`),
} as const satisfies AlertKinds;

/** By the code in the report; codes of newer agents are `device.degraded`, so that kinds stay countable. */
const kindOfCondition: Record<string, keyof typeof conditionKinds> = {
  NO_ACCELERATOR: 'device.no_accelerator', ACCELERATOR_FAILING: 'device.accelerator_failing', VARIANT_UNFIT: 'device.variant_unfit', CRASH_LOOP: 'device.crash_loop', GOLDEN_FAILED: 'device.golden_failed', PROBATION_FAILED: 'device.went_back',
  DISK_FULL: 'device.disk', DISK_READ_ONLY: 'device.disk', DISK_FAILING: 'device.disk', BUNDLE_DAMAGED: 'device.bundle_damaged', CLOCK_WRONG: 'device.clock', CAMERA_LOST: 'device.camera', STATE_LOST: 'device.state_lost',
};

/** A device that says more is broken in a way of its own, and must not fill rows and messages. */
const mostConditions = 20;
/** Where the reasons stand in the report, by workload. */
const ofWorkloads = new Set(['device.crash_loop', 'device.golden_failed', 'device.went_back']);

const conditions: AlertSource = {
  everyS: 2,
  kinds: conditionKinds,
  // The index on what is not well makes this cost what is wrong.
  sql: `SELECT 'device.degraded' AS kind, r.device_id AS device, NULL AS workload, NULL::uuid AS rollout, jsonb_build_object('conditions', r.conditions,
      'faults', (SELECT jsonb_object_agg(w.key, w.value -> 'fault' -> 'failure' ->> 'code') FROM jsonb_each(r.workloads) w WHERE w.value -> 'fault' -> 'failure' IS NOT NULL)) AS numbers
    FROM reported r JOIN devices d ON d.id = r.device_id AND d.retired_at IS NULL WHERE r.health <> 'HEALTHY'`,
  read: (rows) => rows.flatMap((row) => [...Map.groupBy((row.numbers.conditions as string[]).toSorted().slice(0, mostConditions), (condition) => kindOfCondition[condition] ?? 'device.degraded')].map(([kind, conditions]): Fact =>
    ({ ...row, kind, subject: row.device!, holds: true, numbers: { conditions, ...(row.numbers.faults && ofWorkloads.has(kind) ? { faults: row.numbers.faults } : {}) } }))),
};

/**
 * So many devices, and this share of those that have no alert of their own yet, away at once have one cause; an alert stays down to the second share. What has had its own alert for longer
 * is neither counted nor hidden.
 */
export const together = { devices: 10, shares: [0.9, 0.5] } as const;

const presenceKinds = {
  'device.offline': alertKind('warning', [120, 60], who('is not connected.'), (fact) => `Check its power and network. It goes on serving what it runs, and sends its telemetry when it is back; take it out of service with \`reef device retire ${fact.device}\` if it will not come.`),
  'site.unreachable': alertKind('critical', [60, 60], ({ subject, numbers }) => `${String(numbers.offline)} of ${String(numbers.devices)} devices of ${subject} are not connected.`,
    ({ subject }) => `They went away together: look at the power and the uplink of the site. They go on serving; \`reef device ls -l ${subject}\` lists them, and those that do not come back with the others get alerts of their own.`),
  'fleet.unreachable': alertKind('critical', [60, 60], ({ numbers }) => `${String(numbers.offline)} of ${String(numbers.devices)} devices are not connected.`,
    'They went away together: look at the broker, its certificate, and the network that leads to it. They go on serving, and come back by themselves; those that do not come back with the others get alerts of their own.'),
} as const satisfies AlertKinds;

const presence: AlertSource = {
  everyS: 2,
  kinds: presenceKinds,
  // One that was never connected is on its way in, not lost. The whole fleet is counted only where enough of it is away.
  sql: `
    WITH away AS MATERIALIZED (SELECT d.id, d.labels ->> 'site' AS site, d.last_seen_at FROM devices d WHERE NOT d.online AND d.retired_at IS NULL AND d.session >= 0)
    SELECT 'device.offline' AS kind, id AS device, NULL AS workload, NULL::uuid AS rollout, jsonb_build_object('lastSeenAt', last_seen_at, 'site', site) AS numbers FROM away
    UNION ALL
    SELECT 'site', NULL, NULL, NULL, jsonb_build_object('site', d.labels ->> 'site', 'devices', count(*)) FROM devices d
    WHERE d.retired_at IS NULL AND d.session >= 0
      AND ((SELECT count(*) FROM away) >= ${together.devices} OR EXISTS (SELECT 1 FROM alerts a WHERE a.state <> 'CLOSED' AND a.kind IN ('site.unreachable', 'fleet.unreachable')))
    GROUP BY d.labels ->> 'site'`,
  read(rows, live) {
    const away = rows.filter(({ kind }) => kind === 'device.offline');
    const sites = rows.filter(({ kind }) => kind === 'site').map(({ numbers }) => ({ site: numbers.site as string | null, devices: Number(numbers.devices) }));
    const own = new Set(away.filter(({ device }) => live('device.offline', device!)));
    const unreachable = (kind: string, subject: string, some: readonly SourceRow[], devices: number): Fact[] => {
      const known = some.filter((row) => own.has(row)).length;
      const [offline, of] = [some.length - known, devices - known];
      const enough = live(kind, subject) ? offline > 0 && offline >= together.shares[1] * of : offline >= together.devices && offline >= together.shares[0] * of;
      return enough ? [{ kind, subject, device: null, workload: null, rollout: null, holds: true, numbers: { offline, devices: of } }] : [];
    };
    const fleet = unreachable('fleet.unreachable', 'fleet', away, sites.reduce((sum, { devices }) => sum + devices, 0));
    const bySite = Map.groupBy(away, ({ numbers }) => numbers.site as string | null);
    const dark = sites.flatMap(({ site, devices }) => (site === null ? [] : unreachable('site.unreachable', `site=${site}`, bySite.get(site) ?? [], devices)));
    const hidden = new Set(dark.map(({ subject }) => subject));
    return [
      ...fleet,
      // What has been said of a site stands; that it is the whole fleet by now is one alert more, not one for each site.
      ...dark.filter(({ kind, subject }) => fleet.length === 0 || live(kind, subject)),
      ...asTheyAre(away.filter((row) => own.has(row) || (fleet.length === 0 && !hidden.has(`site=${String(row.numbers.site)}`))).map((row) => ({ ...row, numbers: { lastSeenAt: row.numbers.lastSeenAt as unknown } }))),
    ];
  },
};

/** Labels of what alert `a` of device `d` is about; those of a site are its own. */
export const labelsSql = "coalesce(d.labels, CASE a.kind WHEN 'site.unreachable' THEN jsonb_build_object('site', substr(a.subject, 6)) END)";
/** Whether it is about devices at all. */
export const aboutDevicesSql = "(d.id IS NOT NULL OR a.kind IN ('site.unreachable', 'fleet.unreachable'))";

const certificateDays = 14;

const standing: AlertSource = {
  everyS: 60,
  kinds: {
    'device.behind': alertKind('warning', [600, 60], who('is connected and does not take in what is wanted of it.'), (fact) => `Revision ${String(fact.numbers.wanted)} is wanted, ${String(fact.numbers.observed ?? 'none')} was taken in. Look at its log (\`journalctl -u reef-agent\`) and start the agent again.`),
    'device.certificate': alertKind('warning', [0, 60], (fact) => `The certificate of ${fact.device} ends within ${certificateDays} days.`, 'The agent renews it by itself while it can reach the gateway: bring it online before then. Afterwards it has to enrol again (`reef device enroll`).'),
  },
  sql: `
    SELECT 'device.behind' AS kind, d.id AS device, NULL AS workload, NULL::uuid AS rollout, jsonb_build_object('wanted', w.revision, 'observed', r.observed_revision) AS numbers
    FROM devices d JOIN desired w ON w.device_id = d.id LEFT JOIN reported r ON r.device_id = d.id WHERE d.online AND d.retired_at IS NULL AND w.revision > coalesce(r.observed_revision, 0)
    UNION ALL
    SELECT 'device.certificate', c.device_id, NULL, NULL, jsonb_build_object('notAfter', max(c.not_after))
    FROM certificates c JOIN devices d ON d.id = c.device_id AND d.retired_at IS NULL WHERE c.revoked_at IS NULL GROUP BY c.device_id HAVING max(c.not_after) < $1::timestamptz + make_interval(days => ${certificateDays})`,
  read: asTheyAre,
};

/** Limits to open, and the lower ones down to which an alert stays. Those of the gates of rollouts, where there is one. */
export const limits = { errorPercent: [5, 3], psi: [0.25, 0.2], hotC: [85, 80], latencyTimes: [2, 1.5], latencyMs: 5, inferences: 50, scores: 100, windowMinutes: 10 } as const;

const telemetryKinds = {
  'workload.errors': alertKind('critical', [60, 300], (fact) => `${who('fails')(fact)} on ${Number(fact.numbers.percent).toFixed(1)} % of its frames.`, (fact) => `The codes are in the numbers; \`reef device show ${fact.device}\` says what it runs. Roll back where it began with a version.`, 'unknown'),
  'workload.drift': alertKind('warning', [300, 900], (fact) => `The scores of ${who('have moved away from what they were after its rollout')(fact)} (PSI ${Number(fact.numbers.psi).toFixed(2)}).`, 'What the camera sees has changed: look at it, at light and lens; collect pictures (docs/capture.md) and train again.', 'unknown'),
  'device.hot': alertKind('warning', [60, 300], (fact) => `${fact.device} runs its model at ${Number(fact.numbers.temperatureC).toFixed(0)} °C.`, 'It will throttle or switch off. Give it air, or fewer frames (`maxFps` in its configuration).', 'unknown'),
} as const satisfies AlertKinds;
const telemetryKindList = Object.keys(telemetryKinds).map((kind) => `'${kind}'`).join(', ');

/**
 * What the windows of the last minutes say of what each device runs now. Windows with something wrong name the suspects, so that a fleet that is well costs one look
 * at what came in since the last one; all windows are only added up for those. Nothing sent is nothing known: an alert stays until windows say otherwise,
 * the workload is gone or the device is retired.
 */
const windows: AlertSource = {
  everyS: 60,
  kinds: telemetryKinds,
  sql: `
    SELECT 'workload' AS kind, s.device_id AS device, s.workload, NULL::uuid AS rollout,
      to_jsonb(t) || jsonb_build_object('runs', d.retired_at IS NULL AND r.workloads -> s.workload ->> 'running' IS NOT NULL) AS numbers
    FROM (
      SELECT device_id, workload FROM telemetry_windows WHERE received_at > $1::timestamptz - interval '3 minutes'
        AND (error_count > 0 OR temperature_c >= ${limits.hotC[1]} OR (drift ->> 'psi')::float8 >= ${limits.psi[1]})
      UNION
      SELECT a.device_id, coalesce(a.workload, n.name) FROM alerts a LEFT JOIN reported o ON o.device_id = a.device_id LEFT JOIN LATERAL jsonb_object_keys(o.workloads) AS n(name) ON a.workload IS NULL
      WHERE a.state <> 'CLOSED' AND a.kind IN (${telemetryKindList})
    ) s JOIN devices d ON d.id = s.device_id LEFT JOIN reported r ON r.device_id = s.device_id
    CROSS JOIN LATERAL (
      SELECT sum(w.inferences) AS inferences, sum(w.error_count) AS errors, avg(w.temperature_c) AS "temperatureC", ${driftSums('w')},
        (SELECT jsonb_object_agg(code, n) FROM (SELECT e.key AS code, sum(e.value::bigint) AS n FROM unnest(array_agg(w.errors)) AS one (errors), jsonb_each_text(one.errors) e GROUP BY 1 ORDER BY 2 DESC LIMIT 5) most) AS codes
      FROM telemetry_windows w
      WHERE w.device_id = s.device_id AND w.workload = s.workload AND w.bundle = r.workloads -> s.workload ->> 'running' AND w.received_at > $1::timestamptz - interval '${limits.windowMinutes} minutes'
    ) t`,
  read(rows, live) {
    const facts: Fact[] = [];
    const hottest = new Map<string, SourceRow>();
    for (const row of rows) {
      const { device, workload, numbers: { runs, inferences, errors, temperatureC, codes } } = row;
      const subject = `${device}/${workload}`;
      const add = (kind: keyof typeof telemetryKinds, holds: boolean, numbers: Record<string, unknown>) => facts.push({ kind, subject, device, workload, rollout: null, holds, numbers });
      if (!runs) {
        for (const kind of ['workload.errors', 'workload.drift'] as const) if (live(kind, subject)) add(kind, false, {});
        continue;
      }
      const limitOf = (kind: string, [open, stay]: readonly [number, number]) => (live(kind, subject) ? stay : open);
      if (inferences >= limits.inferences) {
        const percent = (100 * errors) / inferences;
        add('workload.errors', percent >= limitOf('workload.errors', limits.errorPercent), { percent, errors, inferences, codes });
      }
      const drift = driftOf(row.numbers as { psi: number | null; scores: string | null });
      if (drift && drift.scores >= limits.scores) add('workload.drift', drift.psi >= limitOf('workload.drift', limits.psi), { ...drift });
      if (temperatureC !== null && temperatureC > (hottest.get(device!)?.numbers.temperatureC ?? -Infinity)) hottest.set(device!, row);
    }
    for (const [device, { workload, numbers: { temperatureC } }] of hottest) {
      facts.push({ kind: 'device.hot', subject: device, device, workload: null, rollout: null, holds: temperatureC >= limits.hotC[live('device.hot', device) ? 1 : 0], numbers: { temperatureC, workload } });
    }
    // Nothing runs there any more.
    for (const [device, of] of Map.groupBy(rows, (row) => row.device!)) {
      if (live('device.hot', device) && of.every(({ numbers }) => !numbers.runs)) facts.push({ kind: 'device.hot', subject: device, device, workload: null, rollout: null, holds: false, numbers: {} });
    }
    return facts;
  },
};

const latencyKinds = {
  'workload.latency': alertKind('warning', [600, 900], (fact) => `${who('takes')(fact)} ${ms(fact.numbers.p95Ms)} for a frame (p95), and took ${ms(fact.numbers.p95BeforeMs)} after its rollout.`,
    'The same version on the same hardware: look at heat (throttling), at the cable and port of the Edge TPU (USB 2 instead of 3), and at what else runs there.', 'unknown'),
} as const satisfies AlertKinds;
const ms = (value: unknown): string => `${Number(value).toFixed(1)} ms`;

/**
 * How long a frame takes now, against the first windows that are kept of the same bundle and variant on the same device. A busy machine moves the tail alone and slow hardware
 * moves both, so the median must have risen, too (as in the gates of rollouts). The newest window of each device is looked at, so this one costs what there is.
 */
const latency: AlertSource = {
  everyS: 300,
  kinds: latencyKinds,
  sql: `
    SELECT 'workload.latency' AS kind, n.device_id AS device, n.workload, NULL::uuid AS rollout, jsonb_build_object('now', n.sketch, 'before', b.sketches) AS numbers
    FROM (
      SELECT DISTINCT ON (w.device_id, w.workload) w.device_id, w.workload, w.bundle, w.variant, coalesce(w.latency ->> 'total', w.latency ->> 'invoke') AS sketch
      FROM telemetry_windows w JOIN devices d ON d.id = w.device_id AND d.retired_at IS NULL JOIN reported r ON r.device_id = w.device_id AND r.workloads -> w.workload ->> 'running' = w.bundle
      WHERE w.received_at > $1::timestamptz - interval '6 minutes' AND w.inferences >= ${limits.inferences} ORDER BY w.device_id, w.workload, w.received_at DESC
    ) n CROSS JOIN LATERAL (
      SELECT array_agg(f.sketch) AS sketches FROM (
        SELECT coalesce(f.latency ->> 'total', f.latency ->> 'invoke') AS sketch FROM telemetry_windows f
        WHERE f.device_id = n.device_id AND f.workload = n.workload AND f.bundle = n.bundle AND f.variant = n.variant AND f.inferences >= ${limits.inferences} ORDER BY f.received_at LIMIT 3
      ) f
    ) b WHERE n.sketch IS NOT NULL
    UNION ALL
    SELECT a.kind, a.device_id, a.workload, NULL, '{}' FROM alerts a JOIN devices d ON d.id = a.device_id LEFT JOIN reported r ON r.device_id = a.device_id
    WHERE a.state <> 'CLOSED' AND a.kind = 'workload.latency' AND (d.retired_at IS NOT NULL OR r.workloads -> a.workload ->> 'running' IS NULL)`,
  read: (rows, live) => rows.flatMap(({ numbers: { now, before }, ...row }): Fact[] => {
    const fact = { ...row, subject: `${row.device}/${row.workload}`, holds: false, numbers: {} };
    const open = live(fact.kind, fact.subject);
    if (!now) return [fact];
    const [fresh, first] = [Sketch.fromBase64(now as string), merged(before as (string | null)[])];
    const [p50Ms, p95Ms, p50BeforeMs, p95BeforeMs] = [inMs(fresh, 0.5), inMs(fresh, 0.95), inMs(first, 0.5), inMs(first, 0.95)];
    if (p50Ms === null || p95Ms === null || p50BeforeMs === null || p95BeforeMs === null || fresh.count < limits.inferences) return [];
    const times = limits.latencyTimes[open ? 1 : 0];
    const holds = p95Ms >= times * p95BeforeMs && p50Ms >= (1 + (times - 1) / 4) * p50BeforeMs && (open || p95Ms - p95BeforeMs >= limits.latencyMs);
    return holds || open ? [{ ...fact, holds, numbers: { p50Ms, p95Ms, p50BeforeMs, p95BeforeMs } }] : [];
  }),
};

/** Of devices, and of what they send. */
export const deviceAlerts: readonly AlertSource[] = [conditions, presence, standing, windows, latency];
