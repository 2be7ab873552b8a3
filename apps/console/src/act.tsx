import { createContext, useContext, useId, useLayoutEffect, useRef, useState, type FormEvent, type ReactNode } from 'react';
import { messageOf, Problem, type Fault } from './api.ts';
import { FaultsContext } from './form.tsx';

const roles = ['viewer', 'operator', 'approver', 'admin'] as const;
export type Role = (typeof roles)[number];
export interface Me { name: string; role: Role }

/** Who has signed in; undefined until the controller has said. */
export const MeContext = createContext<Me | undefined>(undefined);

/** Whether this token may do what `needs` that role. Nothing that will be refused is offered. */
export function useMay(needs: Role = 'operator'): boolean {
  const me = useContext(MeContext);
  return me !== undefined && roles.indexOf(me.role) >= roles.indexOf(needs);
}

export interface ActProps {
  text: string;
  /** Of several with the same text on a page: what it is about, for whoever does not see where it stands. */
  about?: string;
  /** What it will do: asked before it is done. Without it, it is done at once. */
  ask?: ReactNode;
  /** Inputs of the question; `run` gets what is in them. */
  children?: ReactNode;
  needs?: Role;
  tone?: 'bad';
  run: (form: FormData) => Promise<unknown>;
}

/** A button for something that changes the fleet: only where the role allows it, never twice at a time, with the answer when it was refused: at the field that it is about, else below. */
export function Act({ text, about, ask, children, needs = 'operator', tone, run }: ActProps) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string>();
  const [faults, setFaults] = useState<readonly Fault[]>([]);
  const dialog = useRef<HTMLDialogElement>(null);
  const title = useId();
  // Only while it is asked, so that the inputs begin with what is so now.
  useLayoutEffect(() => { if (open) dialog.current?.showModal(); }, [open]);
  if (!useMay(needs)) return null;
  const ready = () => { setProblem(undefined); setFaults([]); };
  const act = async (data: FormData, form?: HTMLFormElement) => {
    setBusy(true);
    ready();
    try {
      await run(data);
      dialog.current?.close();
    } catch (error) {
      const [at, others] = faultsIn(form, error);
      setFaults(at);
      if (at.length === 0 || others.length > 0) setProblem(others.length > 0 ? others.map(({ message }) => message).join('; ') : messageOf(error));
      const first = form?.elements.namedItem(at[0]?.field ?? '');
      (first instanceof HTMLFieldSetElement ? first.elements[0] as HTMLElement : first as HTMLElement | null)?.focus();
    } finally {
      setBusy(false);
    }
  };
  const answer = problem && <p className="notice bad" role="alert">{problem}</p>;
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    void act(new FormData(event.currentTarget), event.currentTarget);
  };
  const name = about && `${text} ${about}`;
  if (ask === undefined) return <><button type="button" aria-label={name} disabled={busy} onClick={() => void act(new FormData())}>{text}</button>{answer}</>;
  return (
    <>
      <button type="button" className={tone} aria-label={name} onClick={() => { ready(); setOpen(true); }}>{text}</button>
      {open && (
        <dialog ref={dialog} aria-labelledby={title} onClose={() => setOpen(false)}>
          <form onSubmit={submit}>
            <h2 id={title}>{text}{about && ` ${about}`}</h2>
            <div>{ask}</div>
            <FaultsContext value={faults}>{children}</FaultsContext>
            {answer}
            <p className="buttons"><button type="submit" className={tone} disabled={busy}>{text}</button><button type="button" className="quiet" onClick={() => dialog.current?.close()}>Cancel</button></p>
          </form>
        </dialog>
      )}
    </>
  );
}

/** Those that a field of the form is about, and the others. */
function faultsIn(form: HTMLFormElement | undefined, error: unknown): [at: Fault[], others: Fault[]] {
  const faults = error instanceof Problem ? error.faults : [];
  const known = new Set([...(form?.elements ?? [])].map((one) => (one as HTMLInputElement).name));
  return [faults.filter(({ field }) => known.has(field)), faults.filter(({ field }) => !known.has(field))];
}
