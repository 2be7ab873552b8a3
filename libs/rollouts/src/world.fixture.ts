import { randomUUID } from 'node:crypto';
import { Desired, Devices, devicesSchema, Reports } from '@reefkeeper/devices';
import { ManualClock, openLogger } from '@reefkeeper/platform';
import { Registry, registrySchema, Variant, Version } from '@reefkeeper/registry';
import { Telemetry, telemetrySchema } from '@reefkeeper/telemetry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { DeviceFleet } from './device-fleet.ts';
import { RolloutEngine } from './engine.ts';
import { Freezes } from './freezes.service.ts';
import { FakeFleet } from './fake-fleet.fixture.ts';
import { createRollout } from './rollout.ts';
import { Rollouts } from './rollouts.service.ts';
import { rolloutsSchema } from './index.ts';
import { SiteLimits } from './site-limits.service.ts';
import { viewOf, type RolloutView } from './views.ts';
import type { z } from 'zod';

export const workload = 'classifier';

/** Real services on a database of their own; only the clock is ours and the devices are in memory. */
export interface World {
  database: TestDatabase;
  clock: ManualClock;
  telemetry: Telemetry;
  devices: Devices;
  engine: RolloutEngine;
  rollouts: Rollouts;
  freezes: Freezes;
  limits: SiteLimits;
  fleet: FakeFleet;
  /** A READY version with the variants named; returns its bundle digest. */
  version(number: number, variants?: string[], details?: Record<string, unknown>): Promise<string>;
  create(body: Partial<z.input<typeof createRollout>>, actor?: string): Promise<RolloutView>;
  /** Time passes second by second: the devices do a round, the loop does a pass. Stops when `until` holds or after `seconds`. */
  run(seconds: number, id?: string, until?: (view: RolloutView) => boolean): Promise<RolloutView>;
  view(id: string): Promise<RolloutView>;
  /** Version `number` runs on every device that can be reached, with telemetry of a minute. */
  installed(number: number): Promise<string>;
}

export async function openWorld(): Promise<World> {
  const database = await testDatabase([devicesSchema, registrySchema, telemetrySchema, rolloutsSchema]);
  const { db } = database;
  const clock = new ManualClock(new Date('2026-11-25T08:00:00Z'));
  const log = openLogger('test', 'error');
  const telemetry = new Telemetry(db, clock);
  const devices = new Devices(db, clock);
  const desired = new Desired(db, clock);
  const reports = new Reports(db, clock, desired);
  const registry = new Registry(db, clock, undefined as never);
  const deviceFleet = new DeviceFleet(desired);
  const engine = new RolloutEngine(db, clock, log, deviceFleet, telemetry);
  const rollouts = new Rollouts(db, clock, log, deviceFleet, registry, engine, telemetry);
  const fleet = new FakeFleet({
    telemetry,
    enrol: async (id, labels) => { await db.query('INSERT INTO devices (id, labels, enrolled_at) VALUES ($1, $2, $3)', [id, labels, clock.now()]); },
    online: (id, online, session) => devices.presence([{ device: id, presence: { online, session } }]),
    desiredOf: async (ids) => new Map((await desired.messages([...ids])).map(({ device, message }) => [device, message])),
    report: async (id, reported) => { await reports.ingest([{ device: id, report: reported }]); },
  }, workload);

  const world: World = {
    database, clock, telemetry, devices, engine, rollouts, freezes: new Freezes(db, clock), limits: new SiteLimits(db, clock), fleet,
    async version(number, variants = ['cpu-int8'], details) {
      const bundle = number.toString(16).padStart(64, '0');
      const id = randomUUID();
      await db.query('INSERT INTO models (name, created_at, created_by) VALUES ($1, now(), $2) ON CONFLICT DO NOTHING', ['m', 'test']);
      await db.getRepository(Version).insert({ id, model: 'm', version: number, state: 'READY', task: 'classification', labels: null, notes: null, lineage: null, parity: null, analysis: null, error: null, bundleDigest: bundle, envelopeDigest: bundle, createdAt: clock.now(), createdBy: 'test', readyAt: clock.now() } as object);
      await db.getRepository(Variant).insert(variants.map((name) => ({ versionId: id, name, kind: name.startsWith('edgetpu') ? 'edgetpu' : 'cpu-int8', minRuntime: name.startsWith('edgetpu') ? Number(name.split('-')[1]) : null, digest: bundle, bytes: 1, details: (name.startsWith('edgetpu') && details) || null })) as object[]);
      return bundle;
    },
    create: (body, actor = 'olga') => rollouts.create(createRollout.parse({ version: 'm@2', workload, soakS: 5, deadlineS: 30, installTimeoutS: 60, rollbackTimeoutS: 60, ...body }), actor),
    async run(seconds, id, until) {
      for (let second = 0; second < seconds; second++) {
        await fleet.tick();
        clock.advance(1_000);
        await engine.advanceDue();
        if (id && until) {
          const view = await viewOf(db, id);
          if (until(view)) return view;
        }
      }
      return id ? viewOf(db, id) : undefined as never;
    },
    view: (id) => viewOf(db, id),
    async installed(number) {
      const bundle = await world.version(number);
      const { id } = await world.create({ version: `m@${number}`, waves: [{ percent: 100 }], soakS: 2, gates: { installFailures: { maxUnansweredPercent: 100 } } });
      const view = await world.run(30, id, ({ state }) => state !== 'RUNNING');
      if (view.state !== 'SUCCEEDED') throw new Error(`could not install: ${JSON.stringify(view.stateReason)}`);
      return bundle;
    },
  };
  return world;
}

export const ended = ({ state }: RolloutView): boolean => ['SUCCEEDED', 'ROLLED_BACK', 'ABORTED', 'PAUSED'].includes(state);
