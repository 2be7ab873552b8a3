import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock, ReefError } from '@reefkeeper/platform';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { certificateRequest } from '../../../test/support/certificate-request.ts';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Authority, ConfigRules, controllerName, Desired, Devices, devicesSchema, Enrolment, matches, parseSelector, revokedSerials } from './index.ts';

let database: TestDatabase;
let dir: string;
let authority: Authority;
let enrolment: Enrolment;
let devices: Devices;
const clock = new ManualClock(new Date());

beforeAll(async () => {
  database = await testDatabase([devicesSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-keys-'));
  authority = await Authority.loadOrCreate(dir);
  enrolment = new Enrolment(database.db, clock, authority);
  devices = new Devices(database.db, clock);
});
afterAll(async () => {
  await database?.drop();
  await rm(dir, { recursive: true, force: true });
});

it('processes that start together make one authority', async () => {
  const fresh = await mkdtemp(join(tmpdir(), 'reef-keys-'));
  const made = await Promise.all(Array.from({ length: 8 }, () => Authority.loadOrCreate(fresh)));
  expect(new Set(made.map(({ fingerprint }) => fingerprint)).size).toBe(1);
  const own = await Promise.all(made.map((one) => one.ownFiles(fresh, 'controller', { commonName: controllerName, client: true })));
  for (const { certificate, key } of own) expect(new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key))).toBe(true);
  expect((await stat(join(fresh, 'ca-key.pem'))).mode & 0o077).toBe(0);
  const ca = new X509Certificate(await readFile(join(fresh, 'ca.pem')));
  expect(ca.verify(ca.publicKey)).toBe(true);
  expect(ca.ca).toBe(true);
  await rm(fresh, { recursive: true });
});

it('our own certificates name their hosts, are kept, and are made anew when a name is missing', async () => {
  const first = await authority.ownFiles(dir, 'gateway', { commonName: 'reef-gateway', hosts: ['localhost', '127.0.0.1'] });
  const certificate = new X509Certificate(first.certificate);
  expect(certificate.subjectAltName).toBe('DNS:localhost, IP Address:127.0.0.1');
  expect(certificate.checkHost('localhost')).toBe('localhost');
  expect(certificate.verify(new X509Certificate(authority.certificatePem).publicKey)).toBe(true);
  expect((await authority.ownFiles(dir, 'gateway', { commonName: 'reef-gateway', hosts: ['localhost'] })).certificate).toBe(first.certificate);
  const wider = await authority.ownFiles(dir, 'gateway', { commonName: 'reef-gateway', hosts: ['localhost', 'reef.example'] });
  expect(new X509Certificate(wider.certificate).checkHost('reef.example')).toBe('reef.example');
});

it('a token lets one device in, once; the name in the certificate is ours to give', async () => {
  const { token } = await enrolment.createToken({ labels: { site: 'lyon' } }, 'ana');
  const fingerprint = createHash('sha256').update(new X509Certificate(authority.certificatePem).raw).digest('hex');
  expect(token).toMatch(new RegExp(`^reef1\\.[A-Za-z0-9_-]{32}\\.${fingerprint.slice(0, 32)}$`));
  const asked = await certificateRequest('reef-controller');
  const issued = await enrolment.enrol({ token, csr: asked.csr, deviceId: 'cam-1' });
  const certificate = new X509Certificate(issued.certificate);
  expect(certificate.subject).toBe('CN=cam-1');
  expect(certificate.checkPrivateKey(asked.key)).toBe(true);
  expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
  expect(certificate.verify(new X509Certificate(authority.certificatePem).publicKey)).toBe(true);
  expect(await devices.get('cam-1')).toMatchObject({ labels: { site: 'lyon' } });
  expect(await devices.mayConnect('cam-1', certificate.serialNumber)).toBe(true);
  await expect(enrolment.enrol({ token, csr: asked.csr, deviceId: 'cam-2' })).rejects.toMatchObject({ code: 'enrolment.token_invalid', kind: 'forbidden' });
  expect(JSON.stringify(await database.db.query('SELECT * FROM enrolment_tokens'))).not.toContain(token.split('.')[1]!);
});

it('refuses what it cannot vouch for, and a refusal uses nothing up', async () => {
  const { csr } = await certificateRequest('x');
  const { token } = await enrolment.createToken({ deviceId: 'cam-3' }, 'ana');
  await expect(enrolment.enrol({ token: token.replace('reef1.', 'reef1.x'), csr })).rejects.toMatchObject({ code: 'enrolment.token_invalid' });
  await expect(enrolment.enrol({ token: 'nonsense', csr })).rejects.toMatchObject({ code: 'enrolment.token_invalid' });
  await expect(enrolment.enrol({ token, csr, deviceId: 'cam-4' })).rejects.toMatchObject({ code: 'enrolment.token_invalid' });
  await expect(enrolment.enrol({ token, csr: 'not a request' })).rejects.toMatchObject({ code: 'enrolment.csr_invalid' });
  await expect(enrolment.createToken({ labels: { 'a b': 'c' } }, 'ana')).rejects.toMatchObject({ code: 'labels.invalid' });
  expect(await enrolment.enrol({ token, csr })).toMatchObject({ deviceId: 'cam-3' });

  const open = (await enrolment.createToken({ uses: 9 }, 'ana')).token;
  await expect(enrolment.enrol({ token: open, csr, deviceId: controllerName })).rejects.toMatchObject({ code: 'enrolment.id_invalid' });
  await expect(enrolment.enrol({ token: open, csr, deviceId: 'cam-3' })).rejects.toMatchObject({ code: 'enrolment.id_taken', kind: 'conflict' });
  expect((await enrolment.enrol({ token: open, csr })).deviceId).toMatch(/^device-[0-9a-f]{8}$/);

  const short = (await enrolment.createToken({ ttlS: 60 }, 'ana')).token;
  clock.advance(61_000);
  await expect(enrolment.enrol({ token: short, csr })).rejects.toMatchObject({ code: 'enrolment.token_invalid' });
});

it('a token with one use is used once, also by many at once', async () => {
  const { token } = await enrolment.createToken({}, 'ana');
  const requests = await Promise.all(Array.from({ length: 5 }, () => certificateRequest('x')));
  const answers = await Promise.allSettled(requests.map(({ csr }, n) => enrolment.enrol({ token, csr, deviceId: `race-${n}` })));
  expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
});

it('a device set up anew takes its id back: old certificate dead, old report gone, state sent again', async () => {
  const first = await enrolment.enrol({ token: (await enrolment.createToken({ deviceId: 'cam-5' }, 'ana')).token, csr: (await certificateRequest('x')).csr });
  const desired = new Desired(database.db, clock);
  await database.db.transaction((tx) => desired.assign(tx, { deviceIds: ['cam-5'], workload: 'w', target: { bundle: 'a'.repeat(64), versionId: null, variantOf: () => 'cpu-int8', policy: { cpuFallback: true, observeS: 1, timeoutS: 9 } } }));
  await desired.markPublished([{ device: 'cam-5', revision: 1 }]);
  await devices.presence([{ device: 'cam-5', presence: { online: true, session: 70 } }]);
  const second = await enrolment.enrol({ token: (await enrolment.createToken({ deviceId: 'cam-5' }, 'ana')).token, csr: (await certificateRequest('x')).csr });
  expect(await devices.mayConnect('cam-5', first.serial)).toBe(false);
  expect(await devices.mayConnect('cam-5', second.serial)).toBe(true);
  expect(await desired.unpublished(10)).toMatchObject([{ device: 'cam-5', message: { revision: 1 } }]);
  await devices.presence([{ device: 'cam-5', presence: { online: true, session: 0 } }]);
  expect(await devices.get('cam-5')).toMatchObject({ online: true, session: 0, reported: null });
});

it('renewal gives a second good certificate; the revocation list names what was revoked', async () => {
  const { csr } = await certificateRequest('x');
  const first = await enrolment.enrol({ token: (await enrolment.createToken({ deviceId: 'cam-6' }, 'ana')).token, csr });
  const second = await enrolment.renew('cam-6', (await certificateRequest('x')).csr);
  expect(await devices.mayConnect('cam-6', first.serial)).toBe(true);
  expect(await devices.mayConnect('cam-6', second.serial)).toBe(true);
  await devices.retire('cam-6', 'sold', 'ana');
  await expect(enrolment.renew('cam-6', csr)).rejects.toMatchObject({ code: 'device.unknown' });
  const list = await authority.revocationList(await devices.revoked());
  expect(list).toContain('BEGIN X509 CRL');
  expect([...await revokedSerials(list, authority.certificatePem)]).toEqual(expect.arrayContaining([first.serial, second.serial]));
  const other = await mkdtemp(join(tmpdir(), 'reef-keys-'));
  await expect(revokedSerials(list, (await Authority.loadOrCreate(other)).certificatePem)).rejects.toMatchObject({ code: 'revocation_list.forged' });
  await rm(other, { recursive: true });
});

it('configuration by selector is kept: for devices that are enrolled or relabelled later, setting by setting, the device\'s own before rules, and nobody is told what it knows', async () => {
  const rules = new ConfigRules(database.db, clock);
  const desired = new Desired(database.db, clock);
  const enrolled = async (deviceId: string, labels: Record<string, string>): Promise<void> => {
    const { token } = await enrolment.createToken({ deviceId, labels }, 'ana');
    await enrolment.enrol({ token, csr: (await certificateRequest(deviceId)).csr });
  };
  const toldOf = async (id: string) => { const [told] = await desired.messages([id]); return told && { revision: told.message.revision, link: told.message.config.link, bytes: told.message.config.dataBudget?.bytes ?? null, fps: told.message.config.maxFps }; };
  const day = (bytes: number) => ({ bytes, per: 'day' as const });

  await enrolled('early', { link: 'lte' });
  await enrolled('other', { link: 'fibre' });
  const set = await rules.set('lte', { selector: 'link=lte', config: { link: 'metered', dataBudget: day(20) }, priority: 0 }, 'olga');
  expect(set).toMatchObject({ name: 'lte', devices: 1, changed: 1 });
  expect(await toldOf('early')).toEqual({ revision: 1, link: 'metered', bytes: 20, fps: null });
  expect(await toldOf('other')).toBeUndefined();
  // The same again tells nobody.
  expect(await rules.set('lte', { selector: 'link=lte', config: { link: 'metered', dataBudget: day(20) }, priority: 0 }, 'olga')).toMatchObject({ changed: 0 });

  await enrolled('late', { link: 'lte', site: 'nancy' });
  expect(await toldOf('late')).toEqual({ revision: 1, link: 'metered', bytes: 20, fps: null });
  await rules.set('all', { selector: '', config: { maxFps: 5, dataBudget: day(1) }, priority: -5 }, 'olga');
  await rules.set('nancy', { selector: 'site=nancy', config: { dataBudget: day(50) }, priority: 10 }, 'olga');
  expect([await toldOf('early'), await toldOf('late'), await toldOf('other')]).toMatchObject([{ link: 'metered', bytes: 20, fps: 5 }, { link: 'metered', bytes: 50, fps: 5 }, { link: null, bytes: 1, fps: 5 }]);
  expect((await rules.list()).map(({ name, devices: n }) => [name, n])).toEqual([['nancy', 1], ['lte', 2], ['all', (await devices.select('')).length]]);
  expect((await devices.get('late')).desired).toMatchObject({ rules: ['nancy', 'lte', 'all'], own: {}, config: { link: 'metered', dataBudget: { bytes: 50 } } });

  // Its own goes before; what it hands back is the rules' again.
  await desired.configure(['late'], { dataBudget: day(7) }, 'olga');
  const { revision } = (await toldOf('late'))!;
  await rules.set('nancy', { selector: 'site=nancy', config: { dataBudget: day(60) }, priority: 10 }, 'olga');
  expect(await toldOf('late')).toMatchObject({ revision, bytes: 7 });
  await desired.configure(['late'], {}, 'olga', ['dataBudget']);
  expect(await toldOf('late')).toMatchObject({ bytes: 60 });

  // Labels decide, whenever they change; a rule that is gone says nothing any more.
  await devices.label('other', { link: 'lte' }, 'ana');
  expect(await toldOf('other')).toMatchObject({ link: 'metered', bytes: 20 });
  await devices.label('early', {}, 'ana');
  expect(await toldOf('early')).toMatchObject({ link: null, bytes: 1 });
  expect(await rules.remove('all', 'olga')).toBeGreaterThan(0);
  expect(await toldOf('early')).toMatchObject({ bytes: null, fps: null });
  await expect(rules.remove('all', 'olga')).rejects.toMatchObject({ code: 'config.no_rule' });
  await expect(rules.set('bad', { selector: 'a b', config: {}, priority: 0 }, 'olga')).rejects.toMatchObject({ code: 'selector.invalid' });
});

it('a rule counts the devices in service that match, whatever has happened to rules, labels and devices', async () => {
  const rules = new ConfigRules(database.db, clock);
  const ids = Array.from({ length: 6 }, (_, i) => `counted-${i}`);
  const requests = await Promise.all(ids.map((id) => certificateRequest(id)));
  const enrol = async (i: number, labels: Record<string, string>) => { await enrolment.enrol({ token: (await enrolment.createToken({ deviceId: ids[i]!, labels }, 'ana')).token, csr: requests[i]!.csr }); };
  const expected = async () => {
    const { items } = await devices.list({ limit: 1_000 });
    return (await rules.list()).map(({ name, selector, devices: counted }) => [name, counted, items.filter(({ labels }) => matches(parseSelector(selector), labels)).length] as const);
  };
  const labels: Record<string, string>[] = [{}, { site: 'a' }, { site: 'b', line: '1' }, { line: '2' }];
  const step = fc.oneof(
    fc.record({ what: fc.constant('set' as const), name: fc.constantFrom('x', 'y', 'z'), selector: fc.constantFrom('', 'site=a', 'site!=a', 'line', '!line', 'site in (a,b),line notin (1)') }),
    fc.record({ what: fc.constant('remove' as const), name: fc.constantFrom('x', 'y', 'z') }), fc.record({ what: fc.constant('retire' as const), device: fc.nat(5) }),
    fc.record({ what: fc.constantFrom('label' as const, 'enrol' as const), device: fc.nat(5), labels: fc.constantFrom(...labels) }),
  );
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 12 }), async (steps) => {
    for (const one of steps) {
      // What is not there cannot be removed, labelled or retired; that is said, and changes nothing.
      const done = one.what === 'set' ? rules.set(one.name, { selector: one.selector, config: { maxFps: 1 }, priority: 0 }, 'olga') : one.what === 'remove' ? rules.remove(one.name, 'olga')
        : one.what === 'retire' ? devices.retire(ids[one.device]!, 'sold', 'olga') : one.what === 'label' ? devices.label(ids[one.device]!, one.labels, 'ana') : enrol(one.device, one.labels);
      await (done as Promise<unknown>).catch((error: unknown) => { if (!(error instanceof ReefError && error.kind === 'not_found')) throw error; });
      for (const [name, counted, matching] of await expected()) expect(counted, name).toBe(matching);
    }
  }), { numRuns: 12 });
});

it('a device that comes in while a rule is made gets it all the same', async () => {
  const rules = new ConfigRules(database.db, clock);
  const desired = new Desired(database.db, clock);
  const tokens = await Promise.all(Array.from({ length: 6 }, (_, i) => enrolment.createToken({ deviceId: `race-${i}`, labels: { race: 'yes' } }, 'ana')));
  const requests = await Promise.all(tokens.map((_, i) => certificateRequest(`race-${i}`)));
  await Promise.all([...tokens.map(({ token }, i) => enrolment.enrol({ token, csr: requests[i]!.csr })), rules.set('race', { selector: 'race', config: { maxFps: 3 }, priority: 0 }, 'olga')]);
  const told = await desired.messages(tokens.map((_, i) => `race-${i}`));
  expect(told.map(({ message }) => message.config.maxFps)).toEqual(Array(6).fill(3));
});
