import colours from 'picocolors';
import type { Client } from '../client.ts';
import { facts, optional, tone } from '../output.ts';
import { eventText, type RolloutEvent } from './rollouts.ts';

interface Explained {
  rollout: string; name: string; state: string; wave: number; why: { code: string; message: string }; late: string | null;
  waitsFor: { what: string; until: string | null }[]; moves: { verb: string; command: string; does: string }[]; decisions: RolloutEvent[];
}

export async function explanationOf(api: Client, id: string): Promise<Explained> {
  const path = `/rollouts/${encodeURIComponent(id)}`;
  const [explanation, decisions] = await Promise.all([api.get<Omit<Explained, 'decisions'>>(`${path}/explanation`), api.all<RolloutEvent>(`${path}/events`)]);
  return { ...explanation, decisions };
}

export function explanationText(one: Explained): string {
  return [
    facts([['rollout', `${one.name} (${one.rollout})`], ['state', tone(one.state)], ['why', `${one.why.message} ${colours.dim(`(${one.why.code})`)}`], ...optional('came late', one.late)]),
    section('It waits for', one.waitsFor.map(({ what, until }) => `${what}${until ? `: ${until}` : ''}`), 'nothing: only a person moves it'),
    section('What would move it', one.moves.map(({ command, does }) => `${command}\n    ${does}`), 'nothing: it has ended for good'),
    section('Decisions', one.decisions.flatMap((event) => {
      const numbers = numbersText(event.numbers);
      return [`${eventText(event)} ${colours.dim(`(${event.code}, ${event.actor})`)}${numbers ? `\n    ${colours.dim(numbers)}` : ''}`];
    }), 'none'),
  ].join('\n\n');
}

const section = (title: string, lines: string[], none: string): string => `${colours.bold(title)}\n${(lines.length > 0 ? lines : [none]).map((line) => `  ${line}`).join('\n')}`;

/** The numbers behind a decision on one line: a gate's as value against limit, others as they are; what is itself a document stays in --json. */
export function numbersText(numbers: Record<string, unknown>): string {
  return Object.entries(numbers).flatMap(([name, value]) => {
    if (value === null || value === undefined) return [];
    if (typeof value !== 'object') return [`${name} ${value}`];
    const gate = value as { verdict?: string; value?: number | null; limit?: number | null; unit?: string };
    if (typeof gate.verdict === 'string') return [`${name} ${gate.verdict}${gate.value === null || gate.value === undefined ? '' : ` at ${gate.value}`}${gate.limit === null || gate.limit === undefined ? '' : ` of ${gate.limit} ${gate.unit}`}`];
    const counts = Object.entries(value).filter(([, n]) => typeof n === 'number' && n !== 0);
    if (!Array.isArray(value)) return counts.length > 0 ? [`${name}: ${counts.map(([what, n]) => `${n} ${what.replaceAll('_', ' ').replaceAll(/([a-z])([A-Z])/g, '$1 $2').toLowerCase()}`).join(', ')}`] : [];
    return value.every((item) => typeof item === 'string') ? [`${name} ${value.slice(0, 10).join(', ')}${value.length > 10 ? `, and ${value.length - 10} more` : ''}`] : [];
  }).join('; ');
}
