import { useId } from 'react';
import { Link } from 'wouter';
import { Act, useMay } from './act.tsx';
import { api, Problem, type Site } from './api.ts';
import { devicesAt } from './config-rules.tsx';
import { Field, useDone, type Done } from './form.tsx';
import { useLive } from './live.ts';
import { bytes, counted, Empty, Loaded, number, Table, useTitle } from './parts.tsx';

/** Stands for every site that has no limit of its own. */
const anySite = '*';
const nameOf = (site: string): string => (site === anySite ? 'every other site' : site);
const own = ({ site, of }: Site): boolean => of === 'site' || (site === anySite && of !== null);

/** What the links of sites bear, and what is on its way there. */
export function SitesPage() {
  useTitle('Sites');
  const live = useLive<{ items: Site[] }>('/sites', 'subscription { rolloutChanged { id } }');
  const may = useMay();
  const [said, done] = useDone(live);
  return (
    <>
      <h1>Sites</h1>
      <p className="faint">The devices of a site, those with the same label <code>site</code>, share a link. A limit says how much of new versions may be on its way there at once, whatever rollouts bring it; rollouts take turns. The way back is never held up by it.</p>
      {said}
      <Loaded live={live}>
        {({ items }) => (
          <>
            <p className="buttons">
              <LimitForm text="Limit a site" sites={items} done={done} />
              {!items.some(({ site }) => site === anySite) && <LimitForm text="Limit every other site" site={{ site: anySite, maxInProgress: null, bytesPerSecond: null, of: null, devices: 0, inProgress: 0 }} sites={items} done={done} />}
            </p>
            {items.length === 0 ? <Empty>No device has the label site, and no site has a limit. <code>reef device label DEVICE site=lyon</code> says where a device is; <code>reef site limit lyon --concurrency 5 --rate 2MB</code> what the link there bears.</Empty> : (
              <Table label="Sites" head={['Site', 'Devices', 'On their way', 'Devices at once', 'Bytes a second', ...(may ? ['Change'] : [])]}>
                {items.map((one) => (
                  <tr key={one.site}>
                    <th scope="row">{nameOf(one.site)}</th>
                    {one.site === anySite ? <><td /><td /></> : <><td>{one.devices > 0 ? <Link href={devicesAt(`site=${one.site}`)} aria-label={`${counted(one.devices, 'device')} at ${one.site}`}>{number(one.devices)}</Link> : 'none now'}</td><td>{number(one.inProgress)}</td></>}
                    <td>{one.maxInProgress === null ? <span className="faint">any number</span> : <>{number(one.maxInProgress)} <Whose of={one} /></>}</td>
                    <td>{one.bytesPerSecond === null ? <span className="faint">as fast as it goes</span> : <>{bytes(one.bytesPerSecond)} <Whose of={one} /></>}</td>
                    {may && <td className="nowrap"><LimitForm text={own(one) ? 'Change' : 'Limit'} site={one} sites={items} done={done} /> {own(one) && <Remove site={one} done={done} />}</td>}
                  </tr>
                ))}
              </Table>
            )}
          </>
        )}
      </Loaded>
    </>
  );
}

const Whose = ({ of }: { of: Site }) => (of.site !== anySite && of.of === 'every site' ? <span className="faint">as every other site</span> : null);

const limitAt = (site: string): string => `/sites/${encodeURIComponent(site)}/limit`;

function Remove({ site: { site }, done }: { site: Site; done: Done }) {
  const run = async () => {
    await api(limitAt(site), { method: 'DELETE' });
    done(`The limit of ${nameOf(site)} is removed.`);
  };
  return <Act text="Remove" about={`the limit of ${nameOf(site)}`} tone="bad" ask={<p>{site === anySite ? 'Only sites with a limit of their own, and what a rollout states for itself, hold rollouts back then.' : 'What holds for every other site holds there then, and what a rollout states for itself.'} Those that wait go on at once.</p>} run={run} />;
}

function LimitForm({ text, site, sites, done }: { text: string; site?: Site; sites: readonly Site[]; done: Done }) {
  const names = useId();
  const run = async (form: FormData) => {
    const name = site?.site ?? String(form.get('site')).trim();
    const amount = (field: string, unit = 1) => (form.get(field) ? Math.round(Number(form.get(field)) * unit) : null);
    const limit = { maxInProgress: amount('maxInProgress'), bytesPerSecond: amount('bytesPerSecond', 1e6) };
    // Setting one replaces it: nobody who adds a limit means that.
    if (!site && sites.some((one) => one.site === name && own(one))) throw new Problem(409, 'site.limit_there', '', [{ field: 'site', message: `${nameOf(name)} has a limit already. Change it in the table.` }]);
    if ((limit.maxInProgress ?? limit.bytesPerSecond) === null) throw new Problem(400, 'site.no_amount', 'Say how many devices at once, how many megabytes a second, or both.');
    await api(limitAt(name), { method: 'PUT', body: limit });
    done(`The limit of ${nameOf(name)} is set. What is on its way there goes on; nobody new is told above it.`);
  };
  return (
    <Act text={text} {...(site && site.site !== anySite ? { about: site.site } : site && own(site) ? { about: nameOf(anySite) } : {})} ask={<p>It holds for all rollouts together{site?.site === anySite && ', at every site that has no limit of its own'}. What is left empty is not limited.</p>} run={run}>
      {!site && <><Field name="site" label="Value of the label site" required maxLength={63} list={names} autoComplete="off" /><datalist id={names}>{sites.filter((one) => !own(one)).map((one) => <option key={one.site} value={one.site} />)}</datalist></>}
      <Field name="maxInProgress" label="Devices at once" type="number" min={1} max={1_000_000} step={1} defaultValue={site && own(site) ? site.maxInProgress ?? '' : ''} hint="That were told and have not answered." />
      <Field name="bytesPerSecond" label="Megabytes a second" type="number" min={0.000_001} max={1e6} step="any" defaultValue={site && own(site) && site.bytesPerSecond !== null ? site.bytesPerSecond / 1e6 : ''} hint="Of the link; devices are told so far apart that their bundles fit through it." />
    </Act>
  );
}
