import { ReefError } from '@reefkeeper/platform/errors';

/** One requirement of a label selector. All must hold. */
export type Requirement =
  | { key: string; operator: 'in' | 'notin'; values: string[] }
  | { key: string; operator: 'exists' | 'absent' };

const word = '[A-Za-z0-9](?:[A-Za-z0-9_./-]*[A-Za-z0-9])?';
const patterns = {
  set: new RegExp(`^(${word})\\s+(in|notin)\\s*\\(([^()]*)\\)$`),
  equal: new RegExp(`^(${word})\\s*(=|==|!=)\\s*(${word}|)$`),
  exists: new RegExp(`^(!?)\\s*(${word})$`),
};

/**
 * Kubernetes label selector syntax: `site=lyon,line in (a,b),!spare`. The empty text selects everything.
 * @throws ReefError `selector.invalid` naming the part that cannot be read
 */
export function parseSelector(text: string): Requirement[] {
  if (text.trim() === '') return [];
  // Commas inside brackets separate values, not requirements.
  return text.split(/,(?![^(]*\))/).map((part): Requirement => {
    const trimmed = part.trim();
    const set = patterns.set.exec(trimmed);
    if (set) {
      const values = set[3]!.split(',').map((value) => value.trim()).filter(Boolean);
      if (values.length > 0) return { key: set[1]!, operator: set[2] as 'in' | 'notin', values };
    }
    const equal = patterns.equal.exec(trimmed);
    if (equal) return { key: equal[1]!, operator: equal[2] === '!=' ? 'notin' : 'in', values: [equal[3]!] };
    const exists = patterns.exists.exec(trimmed);
    if (exists) return { key: exists[2]!, operator: exists[1] ? 'absent' : 'exists' };
    throw new ReefError('selector.invalid', 'invalid', `"${trimmed}" in the selector "${text}" cannot be read. Write key=value, key!=value, key in (a,b), key notin (a,b), key or !key, separated by commas.`, { detail: { part: trimmed } });
  });
}

/** As in Kubernetes, `!=` and `notin` also hold where the label is absent. */
export function matches(selector: Requirement[], labels: Record<string, string>): boolean {
  return selector.every((one) => {
    const value = labels[one.key];
    switch (one.operator) {
      case 'exists': return value !== undefined;
      case 'absent': return value === undefined;
      case 'in': return value !== undefined && one.values.includes(value);
      case 'notin': return value === undefined || !one.values.includes(value);
    }
  });
}

/** The same as a condition on a jsonb column, with its parameters counted from `$first`. */
export function selectorSql(selector: Requirement[], column: string, first: number): { sql: string; params: unknown[] } {
  const params: unknown[] = [];
  const put = (value: unknown) => `$${first + params.push(value) - 1}`;
  const conditions = selector.map((one) => {
    switch (one.operator) {
      case 'exists': return `${column} ? ${put(one.key)}`;
      case 'absent': return `NOT ${column} ? ${put(one.key)}`;
      case 'in': return `${column} ->> ${put(one.key)} = ANY(${put(one.values)})`;
      case 'notin': return `COALESCE(${column} ->> ${put(one.key)} <> ALL(${put(one.values)}), true)`;
    }
  });
  return { sql: conditions.length === 0 ? 'true' : conditions.join(' AND '), params };
}
