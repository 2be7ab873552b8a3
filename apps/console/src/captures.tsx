import { useEffect, useState, type FormEvent } from 'react';
import { api, picture, type Capture, type Page } from './api.ts';
import { useLive } from './live.ts';
import { Ago, Digest, Empty, Loaded } from './parts.tsx';

/** Pictures on which devices were not sure, for people to say what they are. */
export function CapturesPage() {
  const [selector, setSelector] = useState('');
  const [waiting, setWaiting] = useState(true);
  const live = useLive<Page<Capture>>(`/captures?limit=100${waiting ? '&label=-' : ''}${selector ? `&selector=${encodeURIComponent(selector)}` : ''}`);
  return (
    <>
      <h1>Captures</h1>
      <p className="faint">Pictures on which a model was not sure. Label them, then <code>reef train --captures --name NAME</code> learns from them.</p>
      <input className="wide" placeholder="Select devices by labels, such as site=lyon" aria-label="Label selector" onChange={(event) => setSelector(event.target.value.trim())} />
      <label><input type="checkbox" checked={waiting} onChange={(event) => setWaiting(event.target.checked)} /> only those without a label</label>
      <Loaded live={live}>
        {({ items }) => items.length === 0
          ? <Empty>{waiting ? 'Nothing waits for a label.' : <>No device has captured a picture. <code>reef device configure --capture 20</code> tells them to.</>}</Empty>
          : (
            <table>
              <thead><tr><th>Picture</th><th>Taken for</th><th>Score</th><th>Device</th><th>Bundle</th><th>Received</th><th>Is</th></tr></thead>
              <tbody>{items.map((one) => <Row key={one.id} capture={one} done={live.reload} />)}</tbody>
            </table>
          )}
      </Loaded>
    </>
  );
}

function Row({ capture, done }: { capture: Capture; done: () => void }) {
  const [problem, setProblem] = useState('');
  const label = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget).get('label')).trim();
    await api(`/captures/${capture.id}`, { method: 'PATCH', body: { label: text || null } }).then(done, (error: Error) => setProblem(error.message));
  };
  return (
    <tr>
      <td><Picture id={capture.id} /></td>
      <td>{capture.prediction}</td>
      <td>{capture.score.toFixed(2)} <span className="faint">+{capture.margin.toFixed(2)}</span></td>
      <td>{capture.deviceId} <span className="faint">{capture.workload}</span></td>
      <td><Digest of={capture.bundle} /></td>
      <td><Ago at={capture.receivedAt} /></td>
      <td>
        <form onSubmit={(event) => void label(event)}>
          <input name="label" aria-label={`What ${capture.id} is`} defaultValue={capture.label ?? ''} placeholder={capture.prediction} />
          <button type="submit">Label</button>
        </form>
        {problem && <span role="alert">{problem}</span>}
      </td>
    </tr>
  );
}

/** An <img> cannot carry the token, so the bytes are fetched. */
function Picture({ id }: { id: string }) {
  const [source, setSource] = useState<string>();
  useEffect(() => {
    let made: string | undefined;
    let gone = false;
    picture(`/captures/${id}/image`).then((blob) => {
      if (gone) return;
      made = URL.createObjectURL(blob);
      setSource(made);
    }, () => {});
    return () => {
      gone = true;
      if (made) URL.revokeObjectURL(made);
    };
  }, [id]);
  return source ? <img src={source} alt="" width={160} /> : <span className="faint">...</span>;
}
