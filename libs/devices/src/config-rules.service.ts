import { Inject, Injectable } from '@nestjs/common';
import { hint, ReefError, type Clock, type Tx } from '@reefkeeper/platform';
import type { AgentConfig } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { record } from './audit.ts';
import { matches, parseSelector } from './selector.ts';

/** What devices that match are configured to, those that come to match later too. */
export interface ConfigRule { name: string; selector: string; config: Partial<AgentConfig>; /** Of several that match, the higher one wins, setting by setting; of equals the one whose name comes first. */ priority: number; setAt: Date; setBy: string }
export type ConfigRuleView = ConfigRule & { /** In service and matching now. */ devices: number };
export type ChangedConfigRule = ConfigRuleView & { /** Devices that are told something new. */ changed: number };

/** Rules change one after another, and no device changes its labels or comes in meanwhile: else one could be configured by rules or labels of before. */
const rulesLock = "hashtext('reef.config-rules')";

/**
 * Configuration by selector that is kept. What applies to a device is worked out where it can change (a rule, its labels, its enrolment) and stored beside its own configuration, so that its revision rises
 * exactly when what it is told does.
 */
@Injectable()
export class ConfigRules {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** In the order in which they win. The devices of each are those that go by it: what a rule comes to is stored wherever it can change. */
  async list(): Promise<ConfigRuleView[]> {
    return this.db.query(`
      SELECT ${ruleColumns}, coalesce(matching.devices, 0) AS devices FROM config_rules c LEFT JOIN (
        SELECT rule, count(*)::int AS devices FROM devices v JOIN desired d ON d.device_id = v.id CROSS JOIN LATERAL jsonb_array_elements_text(d.rules) AS rule WHERE v.retired_at IS NULL GROUP BY 1
      ) matching ON matching.rule = c.name ORDER BY ${winningFirst}`);
  }

  /** @returns the rule, and for how many devices something changed @throws ReefError `selector.invalid` */
  async set(name: string, { selector, config, priority }: Pick<ConfigRule, 'selector' | 'config' | 'priority'>, actor: string): Promise<ChangedConfigRule> {
    parseSelector(selector);
    const at = this.clock.now();
    const changed = await this.db.transaction(async (tx) => {
      await tx.query(`SELECT pg_advisory_xact_lock(${rulesLock})`);
      await tx.query(`
        INSERT INTO config_rules (name, selector, config, priority, set_at, set_by) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (name) DO UPDATE SET selector = excluded.selector, config = excluded.config, priority = excluded.priority, set_at = excluded.set_at, set_by = excluded.set_by`, [name, selector, config, priority, at, actor]);
      await record(tx, { at, actor, action: 'config.rule_set', subject: name, detail: { selector, config, priority } });
      return applyRules(tx);
    });
    return { ...(await this.list()).find((one) => one.name === name)!, changed };
  }

  /** @returns for how many devices something changed @throws ReefError `config.no_rule` */
  async remove(name: string, actor: string): Promise<number> {
    const at = this.clock.now();
    return this.db.transaction(async (tx) => {
      await tx.query(`SELECT pg_advisory_xact_lock(${rulesLock})`);
      const [gone] = await tx.query<[unknown[], number]>('DELETE FROM config_rules WHERE name = $1 RETURNING name', [name]);
      if (gone.length === 0) throw new ReefError('config.no_rule', 'not_found', `There is no rule ${name}. \`reef config ls\` lists them.`, { detail: { rule: name } });
      await record(tx, { at, actor, action: 'config.rule_remove', subject: name, detail: {} });
      return applyRules(tx);
    });
  }
}

/** Before labels of a device change or it comes in, in the same transaction and before any row of it is touched. */
export async function keepRules(tx: Pick<Tx, 'query'>): Promise<void> {
  await tx.query(`SELECT pg_advisory_xact_lock_shared(${rulesLock})`);
}

/**
 * Works out what the rules say for every device in service, or for these; those for whom that changed are told. The caller has the lock, or keeps the rules.
 * @returns how many
 */
export async function applyRules(tx: Tx, only?: readonly string[]): Promise<number> {
  const rules = await rulesOf(tx);
  // In the order in which rollouts lock them, too.
  const devices = await tx.query<{ id: string; labels: Record<string, string> }[]>('SELECT id, labels FROM devices WHERE retired_at IS NULL AND ($1::text[] IS NULL OR id = ANY($1)) ORDER BY id FOR NO KEY UPDATE', [only ?? null]);
  const parsed = rules.map((rule) => ({ ...rule, requirements: parseSelector(rule.selector) }));
  const ruled = devices.map(({ labels }) => {
    const own = parsed.filter(({ requirements }) => matches(requirements, labels));
    return { config: Object.assign({}, ...own.toReversed().map(({ config }) => config)) as Partial<AgentConfig>, names: own.map(({ name }) => name) };
  });
  const configured = devices.flatMap(({ id }, at) => (ruled[at]!.names.length > 0 ? [id] : []));
  await tx.query('INSERT INTO desired (device_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING', [configured]);
  // What a device is told is its own configuration over that of the rules.
  const [changed] = await tx.query<[{ told: boolean }[], number]>(`
    UPDATE desired d SET ruled = r.config, rules = r.names, revision = d.revision + was.differs::int
    FROM unnest($1::text[], $2::jsonb[], $3::jsonb[]) AS r(id, config, names) JOIN LATERAL (SELECT (b.ruled || b.config) <> (r.config || b.config) AS differs FROM desired b WHERE b.device_id = r.id) was ON true
    WHERE d.device_id = r.id AND (d.ruled <> r.config OR d.rules <> r.names) RETURNING was.differs AS told`,
    [devices.map(({ id }) => id), ruled.map(({ config }) => JSON.stringify(config)), ruled.map(({ names }) => JSON.stringify(names))]);
  const told = changed.filter((one) => one.told).length;
  if (told > 0) await hint(tx, { kind: 'desired', id: '*' });
  return told;
}

const ruleColumns = 'name, selector, config, priority, set_at AS "setAt", set_by AS "setBy"';
const winningFirst = 'priority DESC, name';

async function rulesOf(on: Pick<Tx, 'query'>): Promise<ConfigRule[]> {
  return on.query(`SELECT ${ruleColumns} FROM config_rules ORDER BY ${winningFirst}`);
}
