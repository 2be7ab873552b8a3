import { useState, type ReactNode } from 'react';
import { Link } from 'wouter';
import { Act, useMay } from './act.tsx';
import { addressOf, api, Problem, type Config, type ConfigRule, type Device, type Page } from './api.ts';
import { configText, ruleIn } from './config.ts';
import { Field, Fields, useDone, type Done } from './form.tsx';
import { useLive } from './live.ts';
import { Ago, counted, Empty, Loaded, number, Table, useTitle, useTyped } from './parts.tsx';

/** What devices are configured to by their labels, and which rule goes before which. */
export function ConfigRulesPage() {
  useTitle('Configuration');
  const live = useLive<{ items: ConfigRule[] }>('/config-rules');
  const may = useMay();
  const [said, done] = useDone(live);
  return (
    <>
      <h1>Configuration</h1>
      <p className="faint">A rule configures every device whose labels match, those that are enrolled or relabelled later, too. Setting by setting, what <code>reef device configure</code> told a device itself goes first, then the rule with the highest priority (of equals, the first by name), then the default.</p>
      {said}
      <Loaded live={live}>
        {({ items }) => (
          <>
            <p className="buttons"><RuleForm text="Add a rule" rules={items} done={done} /></p>
            {items.length === 0 ? <Empty>No rule yet: devices are configured as they say themselves, or as they were told one by one. <code>reef config set lte --selector link=lte --data-budget 20MB/day</code> would keep every device with the label link=lte to 20 MB a day.</Empty> : (
              <Table label="Rules, those that win first" head={['Rule', 'Devices', 'Matching', 'Configures', 'Set', ...(may ? ['Change'] : [])]}>
                {items.map((rule) => (
                  <tr key={rule.name}>
                    <th scope="row">{rule.name}<div className="faint">priority {rule.priority}</div></th>
                    <td>{rule.devices > 0 ? <Link href={devicesAt(rule.selector)} aria-label={`${counted(rule.devices, 'device')} of ${rule.name}`}>{number(rule.devices)}</Link> : 'none now'}</td>
                    <td className="words">{rule.selector ? <code>{rule.selector}</code> : 'every device'}</td>
                    <td className="words">{configText(rule.config)}</td>
                    <td className="faint"><Ago at={rule.setAt} /> by {rule.setBy}</td>
                    {may && <td className="nowrap"><RuleForm text="Edit" rules={items} rule={rule} done={done} /> <Remove rule={rule} done={done} /></td>}
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

/** The first page, showing these alone. */
export const devicesAt = (selector: string): string => addressOf('/', { selector });

const told = (changed: number): string => `${changed === 0 ? 'nobody is' : `${counted(changed, 'device')} ${changed === 1 ? 'is' : 'are'}`} told something new`;

const ruleAt = (name: string): string => `/config-rules/${encodeURIComponent(name)}`;

function Remove({ rule: { name, devices }, done }: { rule: ConfigRule; done: Done }) {
  const run = async () => {
    const { changed } = await api<{ changed: number }>(ruleAt(name), { method: 'DELETE' });
    done(`${name} is removed; ${told(changed)}.`);
  };
  return <Act text="Remove" about={name} tone="bad" ask={<p>{devices === 0 ? 'No device goes by it now.' : `${counted(devices, 'device')} that match go by the other rules then, or by the defaults.`}</p>} run={run} />;
}

function RuleForm({ text, rules, rule, done }: { text: string; rules: readonly ConfigRule[]; rule?: ConfigRule; done: Done }) {
  const run = async (form: FormData) => {
    const { name, body } = ruleIn(form, rule);
    // Setting one replaces it: nobody who adds a rule means that.
    if (!rule && rules.some((one) => one.name === name)) throw new Problem(409, 'config.rule_there', '', [{ field: 'name', message: `There is a rule ${name} already. Edit it, or give this one another name.` }]);
    const { devices, changed } = await api<ConfigRule & { changed: number }>(ruleAt(name), { method: 'PUT', body });
    done(`${name} is set for ${counted(devices, 'device')} now, and those that come to match later; ${told(changed)}.`);
  };
  return (
    <Act text={text} {...(rule ? { about: rule.name } : {})} ask={rule ? <p>Devices that match are told at once, and those that do not any more.</p> : <p>Devices that match are told at once; later ones when they come in.</p>} run={run}>
      {!rule && <Field name="name" label="Name" required maxLength={63} pattern="[A-Za-z0-9][A-Za-z0-9_.\-]*" title="Letters, digits, _ . -, beginning with a letter or digit" autoComplete="off" />}
      <Selector initial={rule?.selector ?? ''} />
      <Field name="priority" label="Priority" type="number" required min={-1_000} max={1_000} step={1} defaultValue={rule?.priority ?? 0} hint="Where several rules match, the higher one wins." />
      <Settings of={rule?.config ?? {}} />
    </Act>
  );
}

/** With what it comes to now, or why it is none, while it is written. */
function Selector({ initial }: { initial: string }) {
  const [selector, type] = useTyped(initial);
  const { data, error } = useLive<Page<Device> & { total: number }>(addressOf('/devices', { limit: '1', total: 'true', selector }));
  return <Field name="selector" label="Labels of the devices" maxLength={2_000} defaultValue={initial} placeholder="site=lyon,line in (a,b)" autoComplete="off" onChange={(event) => type(event.target.value)} hint={<span role="status">{error ? error.message : data ? `${selector ? counted(data.total, 'device') : `Every device, ${number(data.total)},`} ${data.total === 1 || !selector ? 'matches' : 'match'} now.` : 'Counting…'}</span>} />;
}

const own = 'as the device says';

function Settings({ of: { link, dataBudget, telemetryBytesPerHour, telemetryWindowS, maxFps, capture } }: { of: Config }) {
  const kept = (capture?.masks?.length ?? 0) + (capture?.workloads?.length ?? 0) > 0;
  return (
    <Fields name="config" legend="What they are configured to">
      <Field name="config.link" label="Link" defaultValue={link === undefined ? '' : String(link)} choices={{ '': unsaid, metered: 'metered', unmetered: 'unmetered', null: own }} />
      <Setting name="config.dataBudget" label="Downloads over a metered link" is={dataBudget} lifted={own}>
        <Field name="config.dataBudget.bytes" label="Megabytes" type="number" required min={0.000_001} max={9e9} step="any" defaultValue={dataBudget ? dataBudget.bytes / 1e6 : 20} />
        <Field name="config.dataBudget.per" label="In a" defaultValue={dataBudget?.per ?? 'day'} choices={{ day: 'day', month: 'month' }} />
      </Setting>
      <Setting name="config.telemetryBytesPerHour" label="Telemetry in any hour" is={telemetryBytesPerHour} lifted="all of it">
        <Field name="telemetryKilobytes" label="Kilobytes" type="number" required min={16.384} max={1e9} step="any" defaultValue={telemetryBytesPerHour ? telemetryBytesPerHour / 1e3 : 64} hint="Windows are made longer to keep it." />
      </Setting>
      <Setting name="config.telemetryWindowS" label="Length of a window of telemetry" is={telemetryWindowS} said="set">
        <Field name="telemetryWindow" label="Seconds" type="number" required min={1} max={3_600} step="any" defaultValue={telemetryWindowS ?? 60} />
      </Setting>
      <Setting name="config.maxFps" label="Frames inferred" is={maxFps} lifted="every one">
        <Field name="framesPerSecond" label="A second, per workload" type="number" required min={0.001} max={1_000} step="any" defaultValue={maxFps ?? 10} />
      </Setting>
      <Setting name="config.capture" label="Pictures for people to label" is={capture} lifted="none">
        <Field name="config.capture.perHour" label="An hour" type="number" required min={1} max={3_600} step={1} defaultValue={capture?.perHour ?? 20} />
        <Field name="config.capture.uncertainBelow" label="Not sure below" type="number" required min={0} max={1} step="any" defaultValue={capture?.uncertainBelow ?? 0.2} hint={`Difference of the two best scores.${kept ? ' Masks and workloads stay as they are.' : ''}`} />
      </Setting>
    </Fields>
  );
}

const unsaid = 'not by this rule';

/** Whether the rule says something of it, and what: its fields are there when it does. */
function Setting({ name, label, is, said = 'at most', lifted, children }: { name: string; label: string; is: unknown; said?: string; lifted?: string; children: ReactNode }) {
  const initial = is === undefined ? '' : is === null ? 'null' : 'value';
  const [choice, setChoice] = useState(initial);
  return (
    <div className="setting">
      <Field name={name} label={label} defaultValue={initial} onChoice={setChoice} choices={{ '': unsaid, value: said, ...(lifted ? { null: lifted } : {}) }} />
      {choice === 'value' && children}
    </div>
  );
}
