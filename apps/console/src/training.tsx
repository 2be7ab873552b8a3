import { useMemo } from 'react';
import type { Training } from './api.ts';
import { Confusions } from './parity.tsx';
import { percent } from './parts.tsx';
import { TimePlot, type Line } from './plot.tsx';

/** How a new last layer learned: epochs, what it confuses on images it has not seen, and what was wrong with the images. */
export function TrainingReport({ training }: { training: Training }) {
  const { epochs, heldOut, best, stopped, classes } = training;
  const lines = useMemo((): Line[] => [
    { label: 'training', colour: 0, points: (epochs ?? []).map(({ epoch, accuracy }) => ({ at: epoch, value: accuracy * 100 })) },
    { label: 'validation', colour: 1, points: (epochs ?? []).map(({ epoch, validationAccuracy }) => ({ at: epoch, value: validationAccuracy * 100 })) },
  ], [epochs]);
  const labels = heldOut?.labels ?? training.labels ?? [];
  const cells = (heldOut?.confusion ?? []).flatMap((row, truth) => row.map((count, answer) => ({ truth: labels[truth] ?? `${truth}`, answer: labels[answer] ?? `${answer}`, count }))).filter(({ count }) => count > 0);
  return (
    <>
      <h2>Training</h2>
      <ul className="figures">
        {heldOut?.accuracy != null && <li><strong>{percent(heldOut.accuracy)}</strong> right on held-out images</li>}
        {epochs && <li><strong>{epochs.length}</strong> epochs, the best was {best}; {stopped}</li>}
      </ul>
      {training.issues.map(({ code, message }) => <p key={code + message} className="notice warn">{message} <code>{code}</code></p>)}
      {epochs && epochs.length > 1 && <><h3>Accuracy per epoch</h3><TimePlot lines={lines} unit="%" over="count" title="Accuracy per epoch" /></>}
      {cells.length > 0 && <Confusions cells={cells} />}
      {classes && <table><thead><tr><th>Class</th><th>Training</th><th>Validation</th><th>Held out</th></tr></thead><tbody>{classes.map((one) => <tr key={one.label}><td>{one.label}</td><td>{one.train}</td><td>{one.validation}</td><td>{one.heldOut}</td></tr>)}</tbody></table>}
    </>
  );
}
