import { useEffect, useState, type FormEvent } from 'react';
import { Link } from 'wouter';
import { Act, useMay } from './act.tsx';
import { api, messageOf, picture, type Capture } from './api.ts';
import { Bundle } from './bundles.tsx';
import { usePages } from './pages.tsx';
import { Ago, Empty, Loaded, useTitle, useTyped } from './parts.tsx';

type Which = '-' | '*' | '';

/** Pictures on which devices were not sure, for people to say what they are. */
export function CapturesPage() {
  useTitle('Captures');
  const [selector, setSelector] = useTyped();
  const [which, setWhich] = useState<Which>('-');
  const { live, turn } = usePages<Capture>('/captures', { query: { label: which, selector }, size: 24, what: 'pictures' });
  const words = [...new Set(live.data?.items.flatMap(({ prediction, label }) => [prediction, ...(label ? [label] : [])]))].sort();
  return (
    <>
      <h1>Captures</h1>
      <p className="faint">Pictures on which a model was not sure: its two best scores were close. Say what they are, then <code>reef train --captures</code> or <code>reef learn --captures</code> learns from them.</p>
      <p className="filters">
        <input className="wide" placeholder="Select devices by labels, such as site=lyon" aria-label="Label selector" onChange={(event) => setSelector(event.target.value)} />
        <select aria-label="Which pictures" value={which} onChange={(event) => setWhich(event.target.value as Which)}><option value="-">without a label</option><option value="*">with a label</option><option value="">all</option></select>
      </p>
      <datalist id="labels">{words.map((word) => <option key={word} value={word} />)}</datalist>
      <Loaded live={live}>
        {({ items }) => items.length === 0
          ? <Empty>{selector ? 'No picture of a device that matches.' : which === '-' ? <>Nothing waits for a label. <code>reef device configure --selector site=lyon --capture 20</code> has devices send pictures.</> : which === '*' ? 'No picture has a label yet.' : <>No device has captured a picture. <code>reef device configure --selector site=lyon --capture 20</code> tells them to.</>}</Empty>
          : <ul className="pictures">{items.map((one) => <Card key={one.id} capture={one} done={live.reload} />)}</ul>}
      </Loaded>
      {turn}
    </>
  );
}

function Card({ capture, done }: { capture: Capture; done: () => void }) {
  const { id, prediction, score, margin, deviceId, workload, bundle, receivedAt, label } = capture;
  const [problem, setProblem] = useState('');
  const [saved, setSaved] = useState(false);
  const may = useMay();
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get('label')).trim();
    setProblem('');
    try {
      await api(`/captures/${id}`, { method: 'PATCH', body: { label: text || null } });
      setSaved(true);
      done();
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  return (
    <li className="card">
      <Picture id={id} alt={`Taken for ${prediction} by ${deviceId}`} />
      <p>Taken for <strong>{prediction}</strong> <span className="faint">score {score.toFixed(2)}, {margin.toFixed(2)} ahead of the next</span></p>
      <p className="faint"><Link href={`/devices/${deviceId}`}>{deviceId}</Link> {workload}, <Bundle of={bundle} />, <Ago at={receivedAt} /></p>
      {may ? (
        <form onSubmit={(event) => void submit(event)}>
          <input name="label" list="labels" aria-label={`What is on the picture of ${deviceId} that was taken for ${prediction}`} defaultValue={label ?? ''} placeholder={prediction} onChange={() => setSaved(false)} />
          <button type="submit">Label</button>
        </form>
      ) : <p>{label ? <>Is <strong>{label}</strong></> : <span className="faint">No label yet.</span>}</p>}
      {saved && <p role="status" className="faint">Saved.</p>}
      {problem && <p className="notice bad" role="alert">{problem}</p>}
      <Act text="Forget" ask={<p>The picture is deleted for good.</p>} tone="bad" run={async () => { await api(`/captures/${id}`, { method: 'DELETE' }); done(); }} />
    </li>
  );
}

/** An <img> cannot carry the token, so the bytes are fetched. */
function Picture({ id, alt }: { id: string; alt: string }) {
  const [source, setSource] = useState<string | null>();
  useEffect(() => {
    let made: string | undefined;
    let gone = false;
    picture(`/captures/${id}/image`).then((blob) => {
      if (gone) return;
      made = URL.createObjectURL(blob);
      setSource(made);
    }, () => { if (!gone) setSource(null); });
    return () => {
      gone = true;
      if (made) URL.revokeObjectURL(made);
    };
  }, [id]);
  return <div className="picture">{source ? <img src={source} alt={alt} /> : <span className="faint">{source === null ? 'The picture cannot be read.' : 'Loading…'}</span>}</div>;
}
