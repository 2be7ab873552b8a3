import { createContext, useContext, useId, useRef, useState, type FormEvent, type ReactNode } from 'react';
import { messageOf } from './api.ts';

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
  /** What it will do: asked before it is done. Without it, it is done at once. */
  ask?: ReactNode;
  /** Inputs of the question; `run` gets what is in them. */
  children?: ReactNode;
  needs?: Role;
  tone?: 'bad';
  run: (form: FormData) => Promise<unknown>;
}

/** A button for something that changes the fleet: only where the role allows it, never twice at a time, with the answer when it was refused. */
export function Act({ text, ask, children, needs = 'operator', tone, run }: ActProps) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string>();
  const dialog = useRef<HTMLDialogElement>(null);
  const title = useId();
  if (!useMay(needs)) return null;
  const act = async (form: FormData) => {
    setBusy(true);
    setProblem(undefined);
    try {
      await run(form);
      dialog.current?.close();
    } catch (error) {
      setProblem(messageOf(error));
    } finally {
      setBusy(false);
    }
  };
  const answer = problem && <p className="notice bad" role="alert">{problem}</p>;
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    void act(new FormData(event.currentTarget));
  };
  if (ask === undefined) return <><button type="button" disabled={busy} onClick={() => void act(new FormData())}>{text}</button>{answer}</>;
  return (
    <>
      <button type="button" className={tone} onClick={() => { setProblem(undefined); dialog.current?.showModal(); }}>{text}</button>
      <dialog ref={dialog} aria-labelledby={title}>
        <form onSubmit={submit}>
          <h2 id={title}>{text}</h2>
          <div>{ask}</div>
          {children}
          {answer}
          <p className="buttons"><button type="submit" className={tone} disabled={busy}>{text}</button><button type="button" className="quiet" onClick={() => dialog.current?.close()}>Cancel</button></p>
        </form>
      </dialog>
    </>
  );
}
