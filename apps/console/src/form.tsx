import { createContext, useContext, useId, useState, type InputHTMLAttributes, type ReactNode } from 'react';
import type { Fault } from './api.ts';
import type { Live } from './live.ts';

/** What the controller refused in the form around. */
export const FaultsContext = createContext<readonly Fault[]>([]);

interface FieldProps extends InputHTMLAttributes<HTMLInputElement> {
  name: string;
  label: string;
  hint?: ReactNode;
  /** A choice instead of a text: what is sent, and the words for it. */
  choices?: Record<string, string>;
  onChoice?: (value: string) => void;
}

/** An input with its name, what to write there, and what the controller said against it. */
export function Field({ label, hint, choices, onChoice, ...input }: FieldProps) {
  const id = useId();
  const faults = useContext(FaultsContext).filter(({ field }) => field === input.name);
  const about = { id, 'aria-invalid': faults.length > 0 || undefined, 'aria-describedby': [...(hint ? [`${id}-hint`] : []), ...(faults.length > 0 ? [`${id}-fault`] : [])].join(' ') || undefined };
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {choices ? <select {...about} name={input.name} defaultValue={input.defaultValue} onChange={(event) => onChoice?.(event.target.value)}>{Object.entries(choices).map(([value, words]) => <option key={value} value={value}>{words}</option>)}</select> : <input {...about} {...input} />}
      {hint && <p id={`${id}-hint`} className="faint">{hint}</p>}
      {faults.length > 0 && <p id={`${id}-fault`} className="notice bad" role="alert">{faults.map(({ message }) => message).join('; ')}</p>}
    </div>
  );
}

/** A form has done what it was for; the words for it. */
export type Done = (words: string) => void;

/** Where a page says what its last form has done, and whom the form tells: the list is read again. */
export function useDone({ reload }: Pick<Live<unknown>, 'reload'>): [said: ReactNode, done: Done] {
  const [words, say] = useState('');
  return [<p role="status" className={words && 'notice good'}>{words}</p>, (said) => { say(said); reload(); }];
}

/** Several fields that belong together. */
export function Fields({ name, legend, children }: { name: string; legend: string; children: ReactNode }) {
  const faults = useContext(FaultsContext).filter(({ field }) => field === name);
  return (
    <fieldset name={name}>
      <legend>{legend}</legend>
      {faults.length > 0 && <p className="notice bad" role="alert">{faults.map(({ message }) => message).join('; ')}</p>}
      {children}
    </fieldset>
  );
}
