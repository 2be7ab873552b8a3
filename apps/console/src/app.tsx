import { useState, type FormEvent } from 'react';
import { Link, Route, Switch, useLocation } from 'wouter';
import { api, Problem, token } from './api.ts';
import { CapturesPage } from './captures.tsx';
import { DevicePage } from './device.tsx';
import { FleetPage } from './fleet.tsx';
import { JobPage } from './job.tsx';
import { reconnect } from './live.ts';
import { ModelPage, ModelsPage } from './models.tsx';
import { RolloutPage } from './rollout.tsx';
import { RolloutsPage } from './rollouts.tsx';
import { VersionPage } from './version.tsx';

const places = [['/', 'Fleet'], ['/models', 'Models'], ['/rollouts', 'Rollouts'], ['/captures', 'Captures']] as const;

export function App() {
  // `reef up` prints a link with the token behind '#', which browsers never send to a server.
  const [signedIn, setSignedIn] = useState(() => { takeTokenFromLink(); return token.get() !== ''; });
  const [location] = useLocation();
  if (!signedIn) return <SignIn done={() => { reconnect(); setSignedIn(true); }} />;
  return (
    <>
      <header>
        <Link href="/" className="brand"><img src="/reef.svg" alt="" /> Reefkeeper</Link>
        <nav>
          {places.map(([href, name]) => (
            <Link key={href} href={href} className={(href === '/' ? location === '/' || location.startsWith('/devices') : location.startsWith(href)) ? 'here' : ''}>{name}</Link>
          ))}
        </nav>
        <a className="faint" href="/docs">API</a>
        <button type="button" className="quiet" onClick={() => { token.forget(); reconnect(); setSignedIn(false); }}>Sign out</button>
      </header>
      <main>
        <Switch>
          <Route path="/" component={FleetPage} />
          <Route path="/devices/:id">{({ id }) => <DevicePage id={id} />}</Route>
          <Route path="/models" component={ModelsPage} />
          <Route path="/models/:name">{({ name }) => <ModelPage name={name} />}</Route>
          <Route path="/models/:name/:number">{({ name, number }) => <VersionPage name={name} number={number} />}</Route>
          <Route path="/jobs/:id">{({ id }) => <JobPage id={id} />}</Route>
          <Route path="/captures" component={CapturesPage} />
          <Route path="/rollouts" component={RolloutsPage} />
          <Route path="/rollouts/:id">{({ id }) => <RolloutPage id={id} />}</Route>
          <Route><p>There is no such page. <Link href="/">To the fleet</Link></p></Route>
        </Switch>
      </main>
    </>
  );
}

function takeTokenFromLink(): void {
  const match = /^#token=(.+)$/.exec(location.hash);
  if (!match) return;
  token.set(decodeURIComponent(match[1]!));
  history.replaceState(null, '', location.pathname);
}

function SignIn({ done }: { done: () => void }) {
  const [problem, setProblem] = useState<string>();
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    token.set(String(new FormData(event.currentTarget).get('token')).trim());
    try {
      await api('/devices?limit=1');
      done();
    } catch (error) {
      token.forget();
      setProblem(error instanceof Problem && error.status === 401 ? 'The controller does not know this token.' : 'The controller does not answer.');
    }
  };
  return (
    <form className="sign-in" onSubmit={(event) => void submit(event)}>
      <h1><img src="/reef.svg" alt="" /> Reefkeeper</h1>
      <label htmlFor="token">API token</label>
      <input id="token" name="token" type="password" autoComplete="current-password" required autoFocus />
      {problem && <p className="notice bad" role="alert">{problem}</p>}
      <button type="submit">Sign in</button>
      <p className="faint"><code>reef up</code> prints the first one; <code>reef token create</code> makes more.</p>
    </form>
  );
}
