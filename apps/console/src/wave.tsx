import type { Rollout, Verdict, Wave } from './api.ts';
import { counted, number, Sentence, Stack, State, Table, When } from './parts.tsx';
import { sharesOf } from './progress.ts';
import { duration } from './time.tsx';

/** Open where somebody has to look: the present one, and those that went wrong. */
export function WaveCard({ wave, current }: { wave: Wave; current: boolean }) {
  const { index, state, size, canary, of, counts, waiting, faults, verdicts, startedAt, analysingAt, deadlineAt, endedAt } = wave;
  return (
    <details className={`card wave ${current ? 'current' : ''}`} open={current || state === 'FAILED' || state === 'INCONCLUSIVE'}>
      <summary>
        <h2>Wave {index + 1}{canary && ', canary'}{of && `, ${of.by} ${of.value || '(none)'}`} <State of={state} /></h2>
        <span className="faint">{counted(size, 'device')}{startedAt && endedAt && `, took ${duration(Date.parse(endedAt) - Date.parse(startedAt))}`}{waiting > 0 && `, ${number(waiting)} waiting by their own word`}{faults > 0 && <strong className="bad">{`, ${number(faults)} left it after their success`}</strong>}</span>
        <Stack of={sharesOf(counts)} />
      </summary>
      {state === 'ANALYSING' && deadlineAt && <p className="faint">Every device has answered{analysingAt && <> since <When at={analysingAt} /></>}. A wave that is undecided on <When at={deadlineAt} /> waits for a person.</p>}
      {verdicts.length > 0 && (
        <Table label={`Gates of wave ${index + 1}`} head={['Gate', 'Verdict', 'Now', 'Before', 'Limit', 'Against the limit', 'Judged on']}>
          {verdicts.map((verdict) => <VerdictRow key={verdict.gate} verdict={verdict} />)}
        </Table>
      )}
    </details>
  );
}

const unitWords: Record<string, string> = { percent: '\u00a0%', celsius: '\u00a0°C', number: '', psi: '\u00a0PSI' };

function VerdictRow({ verdict }: { verdict: Verdict }) {
  const { gate, value, baseline, limit, unit, interval, sample, method, message, stillNeeded } = verdict;
  const bare = (at: number) => `${Number(at.toPrecision(4))}`;
  const show = (at: number | null) => (at === null ? '-' : `${bare(at)}${unitWords[unit] ?? `\u00a0${unit}`}`);
  return (
    <tr title={verdict.basis}>
      <th scope="row">{gate.replaceAll('_', ' ')}</th>
      <td><State of={verdict.verdict} /></td>
      <td>{show(value)}{interval && <div className="faint nowrap">{bare(interval[0])} to {show(interval[1])}</div>}</td>
      <td>{show(baseline)}</td><td>{show(limit)}</td>
      <td><Interval verdict={verdict} show={show} /></td>
      <td className="faint words">
        {[counted(sample.devices, 'device'), ...(sample.inferences > 0 ? [counted(sample.inferences, unit === 'number' ? 'number' : 'inference')] : []), method === 'sequential' ? 'an interval that holds at every look' : 'a threshold'].join(', ')}
        {verdict.verdict !== 'PASSED' && <div><Sentence of={message} /></div>}
        {stillNeeded && <div><strong>Still needed: {stillNeeded}</strong></div>}
      </td>
    </tr>
  );
}

const width = 160;
const height = 26;

/** Where the value is, how sure that is, and where the limit is; the value before is the small mark. The side beyond the limit is red. */
function Interval({ verdict: { value, baseline, limit, interval, verdict, gate }, show }: { verdict: Verdict; show: (at: number | null) => string }) {
  if (value === null || limit === null) return <span className="faint">-</span>;
  const ends = [value, limit, ...(baseline === null ? [] : [baseline]), ...(interval ?? [])];
  const high = Math.max(...ends);
  const least = Math.min(...ends);
  // From 0 on, unless everything is far away from it: 81 and 85 degrees would be one point.
  const low = least > high - least ? least : Math.min(0, least);
  const room = (high - low || 1) * 0.08;
  const x = (at: number) => ((at - low + room) / (high - low + 2 * room)) * width;
  // Of a share of right answers less is worse; of everything else more is, but for numbers of a site's own, which say so by their verdict.
  const less = gate === 'accuracy' || gate === 'shadow_agreement' || (gate.startsWith('custom') && (verdict === 'PASSED') === value > limit);
  const words = `${show(value)}${interval ? `, between ${show(interval[0])} and ${show(interval[1])}` : ''}; the limit is ${show(limit)}${baseline === null ? '' : `, before it was ${show(baseline)}`}`;
  const tone = { PASSED: 'good', FAILED: 'bad', INCONCLUSIVE: 'warn' }[verdict] ?? 'busy';
  return (
    <svg className={`interval ${tone}`} viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="img" aria-label={words}>
      <title>{words}</title>
      <rect className="beyond" x={less ? 0 : x(limit)} width={less ? x(limit) : width - x(limit)} y={3} height={height - 6} />
      <line className="axis" x1={0} x2={width} y1={height / 2} y2={height / 2} />
      {baseline !== null && <line className="before" x1={x(baseline)} x2={x(baseline)} y1={8} y2={height - 8} />}
      {interval && <line className="sure" x1={x(interval[0])} x2={x(interval[1])} y1={height / 2} y2={height / 2} />}
      <line className="limit" x1={x(limit)} x2={x(limit)} y1={2} y2={height - 2} />
      <circle cx={x(value)} cy={height / 2} r={4.5} />
    </svg>
  );
}

/** Longer than this nobody reads; the cards below have all. */
const mostRows = 24;

/** When each wave was told and judged, one under the other. */
export function Timeline({ rollout }: { rollout: Rollout }) {
  const begun = rollout.waves.filter(({ startedAt }) => startedAt !== null);
  if (begun.length === 0) return null;
  const at = (text: string | null) => (text === null ? undefined : Date.parse(text));
  const from = at(begun[0]!.startedAt)!;
  const to = at(rollout.endedAt) ?? Date.now();
  const span = Math.max(1, to - from);
  const place = (begin: number, end: number) => ({ marginLeft: `${((begin - from) / span) * 100}%`, width: `${Math.max(0.4, ((end - begin) / span) * 100)}%` });
  const outcome: Record<string, string> = { PASSED: 'good', FAILED: 'bad', INCONCLUSIVE: 'warn', SKIPPED: 'idle' };
  const shown = begun.slice(-mostRows);
  return (
    <figure className="timeline">
      <figcaption><span><When at={begun[0]!.startedAt!} /> to {rollout.endedAt ? <When at={rollout.endedAt} /> : 'now'}, {duration(span)}</span> <span className="swatch busy">told, installing</span> <span className="swatch soft">serving, judged</span></figcaption>
      {begun.length > shown.length && <p className="faint">{begun.length - shown.length} earlier waves are not drawn.</p>}
      {shown.map((wave) => {
        const start = at(wave.startedAt)!;
        const judged = at(wave.analysingAt) ?? at(wave.endedAt) ?? to;
        const end = at(wave.endedAt) ?? (wave.state === 'INCONCLUSIVE' ? judged : to);
        const words = `Wave ${wave.index + 1}, ${counted(wave.size, 'device')}: installed within ${duration(judged - start)}${wave.analysingAt ? `, judged for ${duration(end - judged)}` : ''}`;
        return (
          <div className="lane" key={wave.index} role="img" aria-label={words} title={words}>
            <span>{number(wave.index + 1)}</span>
            <div><i className="busy" style={place(start, judged)} />{wave.analysingAt && <i className={outcome[wave.state] ?? 'soft'} style={{ ...place(judged, end), marginLeft: 0 }} />}</div>
          </div>
        );
      })}
    </figure>
  );
}
