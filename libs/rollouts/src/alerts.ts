import { alertKind, asTheyAre, type AlertSource } from '@reefkeeper/telemetry';

/** How long after its end a rollout that went back is still news. */
const newsHours = 24;

const say = ({ numbers }: { numbers: Record<string, unknown> }): string => `${String(numbers.version)} for ${String(numbers.workload)}`;

/** Rollouts that a person has to look at. What a person did (paused, recalled) they know. */
export const rolloutAlerts: readonly AlertSource[] = [{
  everyS: 2,
  kinds: {
    'rollout.needs_decision': alertKind('warning', [0, 0], (fact) => `The rollout of ${say(fact)} is paused: ${String(fact.numbers.message)}`,
      ({ rollout }) => `Nobody else gets it before somebody decides: \`reef rollout explain ${rollout}\`, then resume, advance, abort or rollback.`),
    'rollout.awaits_approval': alertKind('info', [60, 0], (fact) => `The rollout of ${say(fact)} waits for an approver.`, ({ rollout }) => `\`reef rollout show ${rollout}\`, then \`reef rollout approve ${rollout}\` by somebody other than who created it, or abort it.`),
    'rollout.went_back': alertKind('critical', [0, 0], (fact) => `The rollout of ${say(fact)} goes back: ${String(fact.numbers.message)}`,
      ({ rollout, numbers }) => `\`reef rollout explain ${rollout}\` has every decision with its numbers. Mend ${numbers.workload === 'reef-agent' ? 'the release' : 'the version'} and roll it out again; this closes then, or ${newsHours} hours after its end.`),
  },
  sql: `
    SELECT CASE WHEN r.state = 'PAUSED' THEN 'rollout.needs_decision' WHEN r.state = 'AWAITING_APPROVAL' THEN 'rollout.awaits_approval' ELSE 'rollout.went_back' END AS kind, NULL AS device, NULL AS workload, r.id AS rollout,
      jsonb_build_object('name', r.name, 'version', r.version_ref, 'workload', r.workload, 'state', r.state, 'code', r.state_reason ->> 'code', 'message', r.state_reason ->> 'message', 'wave', r.wave + 1) AS numbers
    FROM rollouts r
    WHERE (r.state = 'PAUSED' AND r.state_reason ->> 'code' <> 'paused_by_person') OR r.state = 'AWAITING_APPROVAL'
      OR ((r.state = 'ROLLING_BACK' OR (r.state = 'ROLLED_BACK' AND r.ended_at > $1::timestamptz - interval '${newsHours} hours')) AND r.state_reason ->> 'code' NOT IN ('recalled', 'rollback_by_person')
        AND NOT EXISTS (SELECT 1 FROM rollouts n WHERE n.workload = r.workload AND n.started_at > r.started_at))`,
  read: asTheyAre,
}];
