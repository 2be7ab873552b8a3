import { useCallback, useEffect, useRef, useState, type FormEvent } from 'react';
import { Link, Route, Switch, useLocation } from 'wouter';
import { MeContext, type Me } from './act.tsx';
import { AlertPage, AlertsCount, AlertsPage } from './alerts.tsx';
import { api, Problem, token } from './api.ts';
import { Broken } from './broken.tsx';
import { CapturesPage } from './captures.tsx';
import { ConfigRulesPage } from './config-rules.tsx';
import { DevicePage } from './device.tsx';
import { FleetPage } from './fleet.tsx';
import { JobPage } from './job.tsx';
import { reconnect } from './live.ts';
import { ModelPage, ModelsPage } from './models.tsx';
import { useTitle } from './parts.tsx';
import { RolloutPage } from './rollout.tsx';
import { RolloutsPage } from './rollouts.tsx';
import { SitesPage } from './sites.tsx';
import { zone } from './time.tsx';
import { VersionPage } from './version.tsx';

/** Each with the addresses that belong to it. */
const places: [href: string, name: string, under: string[]][] = [
  ['/', 'Fleet', ['/devices']], ['/models', 'Models', ['/models', '/jobs']], ['/rollouts', 'Rollouts', ['/rollouts']], ['/alerts', 'Alerts', ['/alerts']], ['/captures', 'Captures', ['/captures']],
  ['/config', 'Configuration', ['/config']], ['/sites', 'Sites', ['/sites']],
];

export function App() {
  // `reef up` prints a link with the token behind '#', which browsers never send to a server.
  const [signedIn, setSignedIn] = useState(() => { takeTokenFromLink(); return token.get() !== ''; });
  const [why, setWhy] = useState<string>();
  const [me, setMe] = useState<Me>();
  const [location] = useLocation();
  const main = useRef<HTMLElement>(null);
  const leave = useCallback((because?: string) => { reconnect(); setMe(undefined); setSignedIn(false); setWhy(because); }, []);
  useEffect(() => {
    token.onRefused = () => leave('The controller no longer knows the token that you had signed in with.');
    return () => { token.onRefused = undefined; };
  }, [leave]);
  useEffect(() => {
    if (signedIn && !me) void api<Me>('/me').then(setMe, () => {});
  }, [signedIn, me]);
  // Whoever goes by keys or ears begins a new page at its top.
  const shown = useRef(location);
  useEffect(() => {
    if (location === shown.current) return;
    shown.current = location;
    main.current?.focus();
    scrollTo(0, 0);
  }, [location]);
  if (!signedIn) return <SignIn why={why} done={(who) => { setWhy(undefined); reconnect(); setMe(who); setSignedIn(true); }} />;
  return (
    <MeContext value={me}>
      <a className="skip" href="#main">To the content</a>
      <header>
        <Link href="/" className="brand"><img src="/reef.svg" alt="" /> Reefkeeper</Link>
        <nav aria-label="Pages">
          {places.map(([href, name, under]) => {
            const here = location === href || under.some((path) => location === path || location.startsWith(`${path}/`));
            return <Link key={href} href={href} className={here ? 'here' : ''} aria-current={here ? 'page' : undefined}>{name}{href === '/alerts' && <AlertsCount />}</Link>;
          })}
        </nav>
        <a className="faint" href="/docs">API</a>
        {me && <span className="faint who" title="The token that you signed in with">{me.name}, {me.role}</span>}
        <button type="button" className="quiet" onClick={() => { token.forget(); leave(); }}>Sign out</button>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <Broken of={location}>
          <Switch>
            <Route path="/" component={FleetPage} />
            <Route path="/devices/:id">{({ id }) => <DevicePage id={id} />}</Route>
            <Route path="/models" component={ModelsPage} />
            <Route path="/models/:name">{({ name }) => <ModelPage name={name} />}</Route>
            <Route path="/models/:name/:number">{({ name, number }) => <VersionPage name={name} number={number} />}</Route>
            <Route path="/jobs/:id">{({ id }) => <JobPage id={id} />}</Route>
            <Route path="/alerts" component={AlertsPage} />
            <Route path="/alerts/:id">{({ id }) => <AlertPage id={id} />}</Route>
            <Route path="/captures" component={CapturesPage} />
            <Route path="/config" component={ConfigRulesPage} />
            <Route path="/sites" component={SitesPage} />
            <Route path="/rollouts" component={RolloutsPage} />
            <Route path="/rollouts/:id">{({ id }) => <RolloutPage id={id} />}</Route>
            <Route><Nowhere /></Route>
          </Switch>
        </Broken>
      </main>
      <footer className="faint">Times are those of {zone}.</footer>
    </MeContext>
  );
}

function Nowhere() {
  useTitle('No such page');
  return <><h1>There is no such page</h1><p><Link href="/">To the fleet</Link></p></>;
}

function takeTokenFromLink(): void {
  const match = /^#token=(.+)$/.exec(location.hash);
  if (!match) return;
  token.set(decodeURIComponent(match[1]!));
  history.replaceState(null, '', location.pathname);
}

function SignIn({ why, done }: { why: string | undefined; done: (me: Me) => void }) {
  const [problem, setProblem] = useState(why);
  useTitle('Sign in');
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    token.set(String(new FormData(event.currentTarget).get('token')).trim());
    try {
      done(await api<Me>('/me'));
    } catch (error) {
      token.forget();
      setProblem(error instanceof Problem && error.status === 401 ? 'The controller does not know this token.' : 'The controller does not answer.');
    }
  };
  return (
    <main>
      <form className="sign-in" onSubmit={(event) => void submit(event)}>
        <h1><img src="/reef.svg" alt="" /> Reefkeeper</h1>
        <label htmlFor="token">API token</label>
        <input id="token" name="token" type="password" autoComplete="current-password" required autoFocus />
        {problem && <p className="notice bad" role="alert">{problem}</p>}
        <button type="submit">Sign in</button>
        <p className="faint"><code>reef up</code> prints the first one; <code>reef token create</code> makes more.</p>
      </form>
    </main>
  );
}
