import type { Parity } from './api.ts';
import { counted, percent } from './parts.tsx';

/** More classes than these make a matrix that nobody can read. */
const mostClasses = 24;

/** How close the quantised model is to its original, and where it is not. */
export function ParityReport({ parity, learnt }: { parity: Parity; /** A head from a device, which has no float original to be held against. */ learnt: boolean }) {
  const { accuracy, boxes, masks } = parity;
  const agreement = boxes ? 'agreement on boxes' : masks ? 'agreement on pixels' : 'top-1 agreement';
  return (
    <>
      <h2>{learnt ? 'Computed again by the worker' : 'Float against int8'}, {counted(parity.samples, 'sample')}</h2>
      <ul className="figures">
        {parity.agreement !== null && <li><strong>{percent(parity.agreement)}</strong> {agreement}</li>}
        {accuracy && <>{!learnt && <li><strong>{percent(accuracy.float)}</strong> accuracy float</li>}<li><strong>{percent(accuracy.int8)}</strong> accuracy int8</li></>}
        {boxes && <li><strong>{boxes.matched}</strong> of {boxes.original} boxes found again, {boxes.quantised - boxes.matched} others; mean overlap {percent(boxes.meanIou)}</li>}
        {masks && <li><strong>{percent(masks.meanIou)}</strong> mean overlap of areas</li>}
        {parity.outputs.filter(({ cosine }) => cosine !== null).map((output) => <li key={output.name}><strong>{output.cosine?.toFixed(4) ?? '-'}</strong> cosine, largest error {output.maxError?.toPrecision(2) ?? '-'} <span className="faint">{output.name}</span></li>)}
      </ul>
      {parity.findings?.map(({ code, severity, message }) => <p key={code + message} className={`notice ${severity === 'error' ? 'bad' : 'warn'}`}>{message} <code>{code}</code></p>)}
      {parity.perClass.length > 0 && <Bars title="Accuracy per class" rows={worstFirst(parity.perClass, (one) => one.int8 - one.float).map((one) => ({ name: one.label, note: `${one.count}`, values: [one.float, one.int8] }))} series={['float', 'int8']} />}
      {masks && <Bars title="Overlap per class" rows={worstFirst(masks.perClass, (one) => one.iou).map((one) => ({ name: one.label, values: [one.iou] }))} series={['intersection over union']} />}
      {parity.confusions && <Confusions cells={parity.confusions} />}
    </>
  );
}

function worstFirst<T>(rows: readonly T[], by: (row: T) => number): T[] {
  return rows.toSorted((a, b) => by(a) - by(b)).slice(0, mostClasses);
}

/** Shares of 1 as bars, a row per class. */
function Bars({ title, rows, series }: { title: string; rows: { name: string; note?: string; values: number[] }[]; series: string[] }) {
  return (
    <figure className="chart">
      <figcaption>{title} {series.length > 1 && series.map((name, index) => <span key={name} className={`key s${index}`}>{name}</span>)}</figcaption>
      <table className="bars">
        <tbody>
          {rows.map(({ name, note, values }) => (
            <tr key={name}>
              <th scope="row">{name} {note && <span className="faint">{note}</span>}</th>
              <td>{values.map((value, index) => <div key={series[index]} className={`s${index}`} title={`${name}, ${series[index]}: ${percent(value)}`} style={{ width: `${Math.max(0.5, value * 100)}%` }} />)}</td>
              <td className="number">{values.map((value) => percent(value)).join(' → ')}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </figure>
  );
}

/** Rows are true classes, columns the quantised model's answers; colour is the share of the row. A long list instead where there are many classes. */
export function Confusions({ cells }: { cells: NonNullable<Parity['confusions']> }) {
  const names = [...new Set(cells.flatMap(({ truth, answer }) => [truth, answer]))].sort();
  const wrong = cells.filter(({ truth, answer }) => truth !== answer);
  if (names.length > mostClasses) {
    return wrong.length === 0 ? null : (
      <figure className="chart">
        <figcaption>Confused most often</figcaption>
        <table><thead><tr><th>Class</th><th>Answered as</th><th>Times</th></tr></thead><tbody>{wrong.slice(0, mostClasses).map(({ truth, answer, count }) => <tr key={`${truth} ${answer}`}><td>{truth}</td><td>{answer}</td><td>{count}</td></tr>)}</tbody></table>
      </figure>
    );
  }
  const countOf = (truth: string, answer: string) => cells.find((cell) => cell.truth === truth && cell.answer === answer)?.count ?? 0;
  const rows = names.map((truth) => ({ truth, total: names.reduce((sum, answer) => sum + countOf(truth, answer), 0) })).filter(({ total }) => total > 0);
  return (
    <figure className="chart">
      <figcaption>Confusion matrix: true class down, answer across</figcaption>
      <table className="matrix">
        <thead><tr><td />{names.map((name) => <th key={name} scope="col" title={name}><span>{name}</span></th>)}</tr></thead>
        <tbody>
          {rows.map(({ truth, total }) => (
            <tr key={truth}>
              <th scope="row">{truth}</th>
              {names.map((answer) => {
                const count = countOf(truth, answer);
                return <td key={answer} className={truth === answer ? 'right' : 'wrong'} style={{ '--share': `${Math.round((100 * count) / total)}%` } as React.CSSProperties} title={`${truth} answered as ${answer}: ${count} of ${total}`}>{count > 0 && count}</td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </figure>
  );
}
