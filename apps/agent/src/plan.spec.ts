import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { desired as desiredMessage, terminalStates, type Desired } from '@reefkeeper/protocol';
import { chooseVariant, plan, unsaidWaits, type Accelerator, type Actual, type InstalledBundle, type Step } from './plan.ts';
import { quiet, reportOf } from './report.ts';
import { activated, begun, booted, closed, committed, crashedAgain, deferred, did, emptyWorkload, entered, failed, faulted, isOpen, left, maxTrials, onTrial, refetched, removed, resumed, returned, served, type Slot, type WorkloadState } from './workload.ts';

const [A, B, C] = ['a', 'b', 'c'].map((letter) => letter.repeat(64)) as [string, string, string];
const both: InstalledBundle = { variants: [{ name: 'cpu-int8', minRuntime: null }, { name: 'edgetpu-14', minRuntime: 14 }] };
const cut: InstalledBundle = { variants: [...both.variants, { name: 'edgetpu-14-x2', minRuntime: 14 }, { name: 'edgetpu-14-x3', minRuntime: 14 }] };
const usbs = (count: number): Accelerator => (count === 0 ? { present: false } : { present: true, runtime: 14, devices: Array.from({ length: count }, (_, at) => ({ type: 'usb' as const, path: `/sys/bus/usb/devices/${at + 1}-1` })) });
const cpu = (bundle: string): Slot => ({ bundle, variant: 'cpu-int8', backend: 'cpu' });
const settled = (bundle: string, revision: number, previous: Slot | null = null): WorkloadState => ({
  ...emptyWorkload,
  running: cpu(bundle), good: cpu(bundle), previous,
  execution: { revision, bundle, wantedVariant: 'cpu-int8', rollback: false, state: 'SUCCEEDED', step: null, percent: null, failure: null, done: [], elapsedMs: 0, trials: 0, waiting: null },
});

interface Wish { bundle: string; variant?: string; rollback?: boolean; rollbackTo?: string | null; policy?: { cpuFallback?: boolean; timeoutS?: number; observeS?: number; shadow?: object } }
function wish(revision: number, workloads: Record<string, Wish>): Desired {
  return desiredMessage.schema.parse({ revision, workloads: Object.fromEntries(Object.entries(workloads).map(([name, one]) => [name, { variant: 'cpu-int8', manifestUrl: '/x', ...one }])) });
}
function actual(workloads: Record<string, WorkloadState> = {}, installed: string[] = [], accelerator: Accelerator = { present: false }): Actual {
  return { workloads, installed: new Map(installed.map((bundle) => [bundle, both])), stored: new Set(installed), accelerator, unfit: new Set() };
}
const kinds = (steps: Step[]) => steps.map(({ kind }) => kind);

describe('after the commit', () => {
  const why = { code: 'inference.crashed', message: 'gone' };
  const proving = (probationMs: number) => committed(activated(begun(settled(A, 1), 2, wish(2, { w: { bundle: B } }).workloads.w!), cpu(B)), probationMs);
  const crash = (state: WorkloadState, times: number, inARow = 1) => Array.from({ length: times }).reduce<WorkloadState>((now) => crashedAgain(now, B, why, inARow), state);
  const next = (state: WorkloadState, installed = [A, B], revision = 2) => plan(wish(revision, { w: { bundle: B } }), actual({ w: state }, installed));

  it('three crashes on probation lead back, however far apart; two do not, and neither do three later', () => {
    expect(proving(1_000)).toMatchObject({ good: cpu(B), previous: cpu(A), probation: { leftMs: 1_000 } });
    expect(next(crash(proving(1_000), 2))).toEqual([]);
    const faulty = crash(proving(1_000), 3);
    expect(faulty.fault).toMatchObject({ bundle: B, failure: { code: 'probation.crashed' } });
    expect(next(faulty)).toEqual([{ kind: 'leave', workload: 'w', to: cpu(A) }]);
    expect(next(crash(served(served(proving(1_000), 600), 500), 3))).toEqual([]);
  });

  it('later only a crash loop does, and only where there is something to go back to', () => {
    expect(crash(proving(0), 1, 4).fault).toMatchObject({ failure: { code: 'service.crash_loop' } });
    expect(crash({ ...proving(0), previous: null }, 1, 9).fault).toBeNull();
  });

  it('once back it stays, until something else has proved itself', () => {
    const back = left(crash(proving(1_000), 3), cpu(A));
    expect(back).toMatchObject({ running: cpu(A), good: cpu(A), previous: null, probation: null, fault: { bundle: B } });
    expect(next(back)).toEqual([]);
    const again = begun(back, 3, wish(3, { w: { bundle: B } }).workloads.w!);
    expect(committed(activated(again, cpu(B)), 0).fault).toBeNull();
  });

  it('stays where it is when the one before is not on disk, and leaves before it begins anything new', () => {
    expect(kinds(next(crash(proving(1_000), 3), [B]))).toEqual([]);
    expect(kinds(next(crash(proving(1_000), 3), [A, B], 3))).toEqual(['leave']);
  });

  it('on a disk that cannot be written nothing new begins, going back does', () => {
    const disk = 'DISK_READ_ONLY' as const;
    const facts = { ...actual({ w: settled(B, 2, cpu(A)) }, [A, B, C]), disk };
    expect(plan(wish(3, { w: { bundle: C } }), facts)).toMatchObject([{ kind: 'begin' }, { kind: 'wait', reason: disk }]);
    expect(kinds(plan(wish(3, { w: { bundle: A, rollback: true } }), facts))).toEqual(['begin', 'activate', 'commit']);
    // Nor is rubbish collected, or a fault a reason to stay.
    expect(plan(wish(2, { w: { bundle: B } }), facts)).toEqual([]);
    expect(kinds(plan(wish(2, { w: { bundle: B } }), { ...facts, workloads: { w: crash(proving(1_000), 3) } }))).toEqual(['leave']);
  });

  it('a damaged bundle is mended, where it can be', () => {
    const facts = { ...actual({ w: settled(B, 2) }, [B]), damaged: new Set(['w']) };
    expect(plan(wish(2, { w: { bundle: B } }), facts)).toEqual([{ kind: 'repair', workload: 'w', slot: cpu(B) }]);
    expect(plan(wish(2, { w: { bundle: B } }), { ...facts, disk: 'DISK_FULL' as const })).toEqual([]);
  });

  it('an agent that dies again and again is the bundle\'s doing, one that is stopped is not', () => {
    let state = proving(1_000);
    for (let start = 0; start < 20; start += 1) state = booted(booted(state, 1), -1);
    expect(state.fault).toBeNull();
    for (let start = 0; start < maxTrials; start += 1) state = booted(state, 1);
    expect(state.fault).toMatchObject({ failure: { code: 'probation.agent_crash_loop' } });
  });

  it('what happens to another bundle, or while an execution is open, is not its fault', () => {
    expect(crashedAgain(proving(1_000), A, why, 9)).toEqual(proving(1_000));
    const open = begun(proving(1_000), 3, wish(3, { w: { bundle: C } }).workloads.w!);
    expect(faulted(open, B, why)).toBe(open);
  });
});

describe('plan', () => {
  it('does nothing without a wish', () => {
    expect(plan(null, actual({ w: settled(A, 1) }, [A]))).toEqual([]);
  });

  it('begins and fetches what is not here; the rest is foreseen when the manifest is known', () => {
    expect(kinds(plan(wish(1, { w: { bundle: A } }), actual()))).toEqual(['begin', 'download', 'verify', 'install']);
    expect(kinds(plan(wish(1, { w: { bundle: A } }), actual({}, [A])))).toEqual(['begin', 'download', 'verify', 'install', 'golden', 'activate', 'observe', 'commit']);
  });

  it('goes on where it was', () => {
    const state = did(did(did(begun(settled(A, 1), 2, wish(2, { w: { bundle: B } }).workloads.w!), 'download'), 'verify'), 'install');
    expect(kinds(plan(wish(2, { w: { bundle: B } }), actual({ w: state }, [A, B])))).toEqual(['golden', 'activate', 'observe', 'commit']);
  });

  it('runs a candidate beside what serves, where that is asked for and there is something', () => {
    const shadow = { shadow: {} };
    const beside = (state: WorkloadState | undefined, wanted: Desired, accelerator?: Accelerator, installed = [A, B]) => plan(wanted, actual(state ? { w: state } : {}, installed, accelerator));
    const wanted = wish(2, { w: { bundle: B, policy: shadow } });
    expect(kinds(beside(settled(A, 1), wanted)).slice(4)).toEqual(['golden', 'shadow', 'activate', 'observe', 'commit']);
    expect(kinds(beside(undefined, wanted))).not.toContain('shadow');
    expect(kinds(beside(settled(A, 1), wish(2, { w: { bundle: B, rollback: true, policy: shadow } })))).not.toContain('shadow');
    // Cut off behind the switch: the candidate is not compared with itself.
    const switched = activated(['download', 'verify', 'install', 'golden', 'shadow'].reduce((now, step) => did(now, step as 'golden'), begun(settled(A, 1), 2, wanted.workloads.w!)), cpu(B));
    expect(kinds(beside(switched, wanted))).toEqual(['observe', 'commit']);
    // On an Edge TPU it runs on the CPU, or not at all.
    const tpu: Accelerator = { present: true, runtime: 14, devices: [] };
    const onTpu = wish(2, { w: { bundle: B, variant: 'edgetpu-14', policy: shadow } });
    expect(beside(settled(A, 1), onTpu, tpu).find(({ kind }) => kind === 'shadow')).toMatchObject({ slot: cpu(B) });
    const only = { ...actual({ w: settled(A, 1) }, [A, B], tpu), installed: new Map([[A, both], [B, { variants: both.variants.slice(1) }]]) };
    expect(plan(onTpu, only).find(({ kind }) => kind === 'shadow')).toMatchObject({ slot: null });
  });

  it('keeps what was done for the same bundle under a lower revision', () => {
    const state = did(begun(settled(A, 1), 2, wish(2, { w: { bundle: B } }).workloads.w!), 'download');
    expect(kinds(plan(wish(3, { w: { bundle: B } }), actual({ w: state }, [A])))).toEqual(['begin', 'verify', 'install']);
    expect(kinds(plan(wish(3, { w: { bundle: C } }), actual({ w: state }, [A])))).toEqual(['begin', 'download', 'verify', 'install']);
  });

  it('only says so when the bundle runs already', () => {
    expect(plan(wish(2, { w: { bundle: A } }), actual({ w: settled(A, 1) }, [A]))).toEqual([
      expect.objectContaining({ kind: 'begin', revision: 2 }), { kind: 'close', workload: 'w', state: 'SUCCEEDED' },
    ]);
  });

  it('takes a rollback from its own disk: no download, no observation', () => {
    expect(kinds(plan(wish(3, { w: { bundle: A, rollback: true } }), actual({ w: settled(B, 2, cpu(A)) }, [A, B])))).toEqual(['begin', 'activate', 'commit']);
  });

  it('fetches for a rollback only what is gone', () => {
    expect(kinds(plan(wish(3, { w: { bundle: A, rollback: true } }), actual({ w: settled(B, 2) }, [B])))).toEqual(['begin', 'download', 'verify', 'install']);
  });

  it.each([['good', null, cpu(A)], ['the one named', C, cpu(C)], ['good, when the one named is not here', 'd'.repeat(64), cpu(A)]])('returns from a failed trial to %s', (_, rollbackTo, to) => {
    const trial = failed(activated(begun(settled(A, 1, cpu(C)), 2, wish(2, { w: { bundle: B } }).workloads.w!), cpu(B)), { code: 'observe.crashed', message: 'x' });
    expect(plan(wish(2, { w: { bundle: B, rollbackTo } }), actual({ w: trial }, [A, B, C]))).toEqual([{ kind: 'rollback', workload: 'w', to }, { kind: 'close', workload: 'w', state: 'FAILED' }]);
  });

  it('closes what failed before the switch without touching what runs', () => {
    const state = failed(begun(settled(A, 1), 2, wish(2, { w: { bundle: B } }).workloads.w!), { code: 'golden.failed', message: 'x' });
    expect(plan(wish(2, { w: { bundle: B } }), actual({ w: state }, [A, B]))).toEqual([{ kind: 'close', workload: 'w', state: 'FAILED' }]);
  });

  it('gives up on time and on agents that die while observing', () => {
    const open = begun(settled(A, 1), 2, wish(2, { w: { bundle: B } }).workloads.w!);
    const late = { ...open, execution: { ...open.execution!, elapsedMs: 700_000 } };
    expect(plan(wish(2, { w: { bundle: B } }), actual({ w: late }, [A]))).toMatchObject([{ kind: 'fail', code: 'activation.timeout' }]);
    const dying = { ...open, execution: { ...open.execution!, trials: maxTrials } };
    expect(plan(wish(2, { w: { bundle: B } }), actual({ w: dying }, [A, B]))).toMatchObject([{ kind: 'fail', code: 'observe.agent_crash_loop' }]);
  });

  it('waits for an accelerator only where the CPU may not help out', () => {
    const here = did(did(did(begun(emptyWorkload, 1, wish(1, { w: { bundle: A, variant: 'edgetpu-14' } }).workloads.w!), 'download'), 'verify'), 'install');
    const stubborn = wish(1, { w: { bundle: A, variant: 'edgetpu-14', policy: { cpuFallback: false } } });
    expect(plan(stubborn, actual({ w: here }, [A]))).toEqual([{ kind: 'wait', workload: 'w', reason: 'NO_ACCELERATOR' }]);
    expect(kinds(plan(stubborn, actual({ w: here }, [A], { present: true, runtime: 14, devices: [] })))).toEqual(['golden', 'activate', 'observe', 'commit']);
    expect(plan(wish(1, { w: { bundle: A, variant: 'edgetpu-14' } }), actual({ w: here }, [A]))[0]).toMatchObject({ kind: 'golden', slot: cpu(A) });
  });

  it('waits for the data budget without failing, and goes on where it was', () => {
    const wanted = wish(2, { w: { bundle: B } });
    const waiting = deferred(entered(begun(settled(A, 1), 2, wanted.workloads.w!), 'download'), { code: 'budget_exceeded', message: 'too much' });
    expect(waiting.execution).toMatchObject({ state: 'QUEUED', failure: null });
    expect(plan(wanted, actual({ w: waiting }, [A]))).toEqual([{ kind: 'wait', workload: 'w', reason: 'budget_exceeded' }]);
    expect(plan(wanted, actual({ w: resumed(waiting) }, [A])).map(({ kind }) => kind)).toEqual(['download', 'verify', 'install']);
    // Something else wanted ends the wait.
    expect(plan(wish(3, { w: { bundle: A } }), actual({ w: waiting }, [A])).map(({ kind }) => kind)).toEqual(['begin', 'close']);
  });

  it('says once what it waits for, whatever it is, and neither says nor keeps it once it goes on', () => {
    const begunFor = (revision: number): WorkloadState => begun(settled(A, 1), revision, wish(revision, { w: { bundle: B } }).workloads.w!);
    for (const [facts, code] of [[{ ...actual({ w: begunFor(2) }, [A]), disk: 'DISK_READ_ONLY' as const }, 'disk_read_only'], [actual({ w: did(did(did(begunFor(2), 'download'), 'verify'), 'install') }, [A, B]), 'no_accelerator']] as const) {
      const wanted = wish(2, { w: { bundle: B, variant: 'edgetpu-14', policy: { cpuFallback: false } } });
      const said = unsaidWaits(plan(wanted, facts), facts.workloads);
      expect([...said]).toEqual([['w', expect.objectContaining({ code })]]);
      const waiting = deferred(facts.workloads.w!, said.get('w')!);
      expect(reportOf({ schema: 1, session: 1, desired: wanted, workloads: { w: waiting } }, quiet).workloads.w!.execution).toMatchObject({ state: 'QUEUED', failure: { code } });
      expect(unsaidWaits(plan(wanted, { ...facts, workloads: { w: waiting } }), { w: waiting }).size).toBe(0);
      // Nothing has to resume it: there is a next step as soon as the world allows one.
      expect(plan(wanted, { ...facts, disk: null, accelerator: { present: true, runtime: 14, devices: [] }, workloads: { w: waiting } })[0]).toMatchObject({ kind: code === 'no_accelerator' ? 'golden' : 'download' });
      expect(entered(waiting, 'golden').execution).toMatchObject({ state: 'IN_PROGRESS', waiting: null });
      expect(closed(waiting, 'FAILED').execution).toMatchObject({ state: 'FAILED', waiting: null });
    }
  });

  it('changes the variant in place when an accelerator comes or goes, unless it has proved unfit', () => {
    const wanted = wish(1, { w: { bundle: A, variant: 'edgetpu-14' } });
    const tpu: Accelerator = { present: true, runtime: null, devices: [] };
    expect(plan(wanted, actual({ w: settled(A, 1) }, [A], tpu))).toMatchObject([{ kind: 'reseat', slot: { variant: 'edgetpu-14', backend: 'edgetpu' } }]);
    expect(plan(wanted, { ...actual({ w: settled(A, 1) }, [A], tpu), unfit: new Set([`${A}/edgetpu-14`]) })).toEqual([]);
    expect(plan(wanted, actual({ w: settled(A, 1) }, [A]))).toEqual([]);
    // It says so, for as long as something else serves the same bundle.
    const conditions = (bundle: string, variant: string, unfit = new Set([`${A}/${variant}`])) => reportOf({ schema: 1, session: 1, desired: wish(1, { w: { bundle, variant } }), workloads: { w: settled(A, 1) } }, { ...quiet, accelerator: usbs(1), unfit }).conditions;
    expect([conditions(A, 'edgetpu-14'), conditions(A, 'edgetpu-14', new Set()), conditions(A, 'cpu-int8'), conditions(B, 'edgetpu-14')]).toEqual([['VARIANT_UNFIT'], [], [], []]);
  });

  it('a model in segments that lacks Edge TPUs is served by what the bundle has for fewer, then by the CPU where it may be, and comes back', () => {
    const serves = (variant: string): WorkloadState => ({ ...settled(A, 1), running: { bundle: A, variant, backend: variant === 'cpu-int8' ? 'cpu' : 'edgetpu' }, good: { bundle: A, variant, backend: variant === 'cpu-int8' ? 'cpu' : 'edgetpu' } });
    const facts = (variant: string, count: number, bundle = cut) => ({ ...actual({ w: serves(variant) }, [A], usbs(count)), installed: new Map([[A, bundle]]) });
    const wanted = (policy: object = {}) => wish(1, { w: { bundle: A, variant: 'edgetpu-14-x3', policy } });
    const to = (variant: string) => [{ kind: 'reseat', slot: { bundle: A, variant, backend: variant === 'cpu-int8' ? 'cpu' : 'edgetpu' } }];
    for (const [from, count, next] of [['edgetpu-14-x3', 2, 'edgetpu-14-x2'], ['edgetpu-14-x3', 1, 'edgetpu-14'], ['edgetpu-14-x2', 1, 'edgetpu-14'], ['edgetpu-14', 0, 'cpu-int8'], ['cpu-int8', 1, 'edgetpu-14'], ['edgetpu-14', 2, 'edgetpu-14-x2'], ['edgetpu-14', 3, 'edgetpu-14-x3']] as const) {
      expect(plan(wanted(), facts(from, count))).toMatchObject(to(next));
      expect(plan(wanted(), facts(next, count))).toEqual([]);
    }
    // The policy is about the CPU only.
    expect(plan(wanted({ cpuFallback: false }), facts('edgetpu-14-x3', 1))).toMatchObject(to('edgetpu-14'));
    expect(plan(wanted({ cpuFallback: false }), facts('edgetpu-14', 0))).toEqual([{ kind: 'wait', workload: 'w', reason: 'NO_ACCELERATOR' }]);
    // A pin counts: one Edge TPU of that kind is one.
    expect(plan(wanted({ device: 'usb:1' }), facts('edgetpu-14-x3', 3))).toMatchObject(to('edgetpu-14'));
    // What did not prove itself is passed over, what serves is not; a file that is not here, and a runtime too old, likewise.
    const unfit = (...names: string[]) => ({ unfit: new Set(names.map((name) => `${A}/${name}`)) });
    expect(plan(wanted(), { ...facts('edgetpu-14-x3', 1), ...unfit('edgetpu-14') })).toMatchObject(to('cpu-int8'));
    expect(plan(wanted(), { ...facts('edgetpu-14', 3), ...unfit('edgetpu-14-x3') })).toMatchObject(to('edgetpu-14-x2'));
    expect(plan(wanted(), { ...facts('edgetpu-14', 3), ...unfit('edgetpu-14-x3', 'edgetpu-14-x2', 'edgetpu-14') })).toEqual([]);
    expect(plan(wanted(), facts('edgetpu-14-x3', 1, { variants: cut.variants.filter(({ name }) => name !== 'edgetpu-14') }))).toMatchObject(to('cpu-int8'));
    expect(plan(wanted(), facts('edgetpu-14-x3', 1, { variants: cut.variants.map((one) => (one.name === 'edgetpu-14' ? { ...one, name: 'edgetpu-16', minRuntime: 16 } : one)) }))).toMatchObject(to('cpu-int8'));
  });

  it('a model in segments begins as what the bundle has for the Edge TPUs that are there', () => {
    const wanted = wish(1, { w: { bundle: A, variant: 'edgetpu-14-x2', policy: { cpuFallback: false } } });
    const here = did(did(did(begun(emptyWorkload, 1, wanted.workloads.w!), 'download'), 'verify'), 'install');
    const facts = (count: number) => ({ ...actual({ w: here }, [A], usbs(count)), installed: new Map([[A, cut]]) });
    expect(plan(wanted, facts(1))[0]).toMatchObject({ kind: 'golden', slot: { variant: 'edgetpu-14', backend: 'edgetpu' } });
    expect(plan(wanted, facts(2))[0]).toMatchObject({ kind: 'golden', slot: { variant: 'edgetpu-14-x2', backend: 'edgetpu' } });
    expect(plan(wanted, facts(0))).toEqual([{ kind: 'wait', workload: 'w', reason: 'NO_ACCELERATOR' }]);
  });

  it('does not serve a runtime that is too old', () => {
    const wanted = wish(1, { w: { bundle: A, variant: 'edgetpu-14', policy: { cpuFallback: false } } }).workloads.w!;
    expect(chooseVariant(wanted, both, { present: true, runtime: 13, devices: [] })).toMatchObject({ ok: false, reason: 'NO_ACCELERATOR' });
    const [usb, pci] = [{ type: 'usb' as const, path: '/sys/bus/usb/devices/1-1' }, { type: 'pci' as const, path: '/dev/apex_0' }];
    const pinned = { ...wanted, policy: { ...wanted.policy, device: 'pci' } };
    expect(chooseVariant(pinned, both, { present: true, runtime: 14, devices: [usb] })).toMatchObject({ ok: false, reason: 'NO_ACCELERATOR', message: expect.stringContaining('the Edge TPU pci') });
    expect(chooseVariant(pinned, both, { present: true, runtime: 14, devices: [usb, pci] })).toMatchObject({ ok: true, variant: { backend: 'edgetpu' } });
    expect(chooseVariant({ ...wanted, variant: 'other' }, both, { present: true, runtime: 13, devices: [] })).toMatchObject({ ok: false, reason: 'bundle.variant_missing' });
  });

  it('removes what is no longer wanted, then its files', () => {
    const wanted = wish(2, {});
    expect(kinds(plan(wanted, actual({ w: settled(A, 1) }, [A])))).toEqual(['remove']);
    expect(plan(wanted, actual({ w: removed(settled(A, 1), 2) }, [A]))).toEqual([{ kind: 'collect', keep: [] }]);
  });

  it('keeps the running, the good, the previous and the named bundle; nothing else, and only when idle', () => {
    const wanted = wish(2, { w: { bundle: B, rollbackTo: C } });
    expect(plan(wanted, actual({ w: settled(B, 2, cpu(A)) }, [A, B, C, 'd'.repeat(64)]))).toEqual([{ kind: 'collect', keep: [A, B, C] }]);
    expect(plan(wanted, actual({ w: settled(B, 2, cpu(A)) }, [A, B, C]))).toEqual([]);
  });
});

/** A device in memory whose steps succeed, fail or are cut off as `luck` says. */
class Device {
  workloads: Record<string, WorkloadState> = {};
  installed = new Set<string>();
  installs: string[] = [];
  ends: string[] = [];
  constructor(private readonly luck: () => 'ok' | 'fail' | 'cut', public accelerator: Accelerator = { present: false }, private readonly bundle = both) {}

  get actual(): Actual {
    return { ...actual(this.workloads, [...this.installed], this.accelerator), installed: new Map([...this.installed].map((digest) => [digest, this.bundle])) };
  }

  /** @returns steps taken until nothing but waiting is left */
  settle(wanted: Desired, limit = 500): number {
    for (let taken = 0; taken < limit; taken += 1) {
      const step = plan(wanted, this.actual).find(({ kind }) => kind !== 'wait');
      if (!step) return taken;
      this.take(step);
    }
    throw new Error(`no end after ${limit} steps: ${JSON.stringify(plan(wanted, this.actual))}`);
  }

  private take(step: Step): void {
    if (step.kind === 'collect') {
      for (const bundle of this.installed) if (!step.keep.includes(bundle)) this.installed.delete(bundle);
      return;
    }
    const move = (change: (state: WorkloadState) => WorkloadState) => { this.workloads = { ...this.workloads, [step.workload]: change(this.workloads[step.workload] ?? emptyWorkload) }; };
    switch (step.kind) {
      case 'begin': return move((now) => begun(now, step.revision, step.wanted));
      case 'fail': return move((now) => failed(now, step));
      case 'rollback': return move((now) => returned(now, step.to));
      case 'leave': return move((now) => left(now, step.to));
      case 'refetch': return move(refetched);
      case 'remove': return move((now) => removed(now, step.revision));
      case 'commit':
        this.ends.push(`${step.workload}@${this.workloads[step.workload]!.execution!.revision}`);
        return move((now) => committed(now));
      case 'close':
        this.ends.push(`${step.workload}@${this.workloads[step.workload]!.execution!.revision}`);
        return move((now) => closed(now, step.state));
      case 'reseat': return move((now) => ({ ...now, running: step.slot, good: step.slot }));
      case 'repair': case 'wait': return;
      default: {
        move((now) => entered(now, step.kind));
        const luck = this.luck();
        if (luck === 'fail') return move((now) => failed(now, { code: `${step.kind}.failed`, message: 'x' }));
        if (step.kind === 'install' && !this.installed.has(step.bundle)) {
          this.installed.add(step.bundle);
          this.installs.push(step.bundle);
        }
        // Cut off: the effect is there, the note is not.
        if (luck === 'cut') return;
        move((now) => (step.kind === 'activate' ? activated(now, step.slot) : did(now, step.kind)));
      }
    }
  }
}

describe('plan, for any history', () => {
  const luck = fc.infiniteStream(fc.oneof({ weight: 6, arbitrary: fc.constant('ok' as const) }, { weight: 1, arbitrary: fc.constant('fail' as const) }, { weight: 2, arbitrary: fc.constant('cut' as const) }));
  const workload = fc.record({ bundle: fc.constantFrom(A, B, C), variant: fc.constantFrom('cpu-int8', 'edgetpu-14'), rollback: fc.boolean(), rollbackTo: fc.option(fc.constantFrom(A, B, C)), policy: fc.record({ cpuFallback: fc.boolean() }) });
  const history = fc.array(fc.dictionary(fc.constantFrom('v', 'w'), workload, { maxKeys: 2 }), { minLength: 1, maxLength: 8 });

  it('ends, stays settled, ignores repeats, and leaves every device on something good', () => {
    fc.assert(fc.property(history, luck, fc.boolean(), (wishes, lucky, tpu) => {
      const stream = lucky[Symbol.iterator]();
      const device = new Device(() => stream.next().value as 'ok', tpu ? { present: true, runtime: 14, devices: [] } : { present: false });
      for (const [index, workloads] of wishes.entries()) {
        const wanted = wish(index + 1, workloads);
        device.settle(wanted);
        const after = JSON.stringify(device.workloads);
        expect(device.settle(wanted)).toBe(0);
        expect(JSON.stringify(device.workloads)).toBe(after);
        for (const [name, state] of Object.entries(device.workloads)) {
          if (!workloads[name]) continue;
          const waiting = plan(wanted, device.actual).some((step) => 'workload' in step && step.workload === name && step.kind === 'wait');
          // A wait leaves the last good one running; everything else has ended, and nothing is left on trial.
          expect(isOpen(state.execution)).toBe(waiting && isOpen(state.execution));
          expect(onTrial(state)).toBe(false);
          expect(state.execution!.revision).toBe(index + 1);
          if (state.execution!.state === 'SUCCEEDED') expect(state.running!.bundle).toBe(workloads[name].bundle);
          if (state.running) expect(device.installed.has(state.running.bundle)).toBe(true);
          if (state.previous) expect(state.previous.bundle).not.toBe(state.running?.bundle);
        }
      }
      // One end per revision and workload, however often the work was cut off.
      expect(new Set(device.ends).size).toBe(device.ends.length);
    }), { numRuns: 500 });
  });

  it('serves the best that the Edge TPUs which are there can run, whatever came and went before', () => {
    const pipelines = fc.record({ bundle: fc.constantFrom(A, B), variant: fc.constantFrom('edgetpu-14', 'edgetpu-14-x2', 'edgetpu-14-x3'), policy: fc.record({ cpuFallback: fc.boolean() }) });
    const moves = fc.array(fc.oneof({ weight: 3, arbitrary: fc.nat(4) }, { weight: 1, arbitrary: pipelines }), { minLength: 1, maxLength: 12 });
    const takes = (variant: string | undefined) => ['cpu-int8', 'edgetpu-14', 'edgetpu-14-x2', 'edgetpu-14-x3'].indexOf(variant ?? '-');
    fc.assert(fc.property(pipelines, moves, (first, steps) => {
      const device = new Device(() => 'ok', usbs(0), cut);
      let [wanted, revision, count] = [first, 1, 0];
      for (const step of steps) {
        if (typeof step === 'number') count = step;
        else [wanted, revision] = [step, revision + 1];
        device.accelerator = usbs(count);
        const desired = wish(revision, { w: wanted });
        device.settle(desired);
        expect(device.settle(desired)).toBe(0);
        const { running, good } = device.workloads.w!;
        const waits = plan(desired, device.actual).some(({ kind }) => kind === 'wait');
        expect(waits).toBe(count === 0 && !wanted.policy.cpuFallback);
        // Where it waits, what ran before is kept, and may come up again by itself.
        if (!waits) expect(running).toMatchObject({ bundle: wanted.bundle, backend: count === 0 ? 'cpu' : 'edgetpu' });
        if (!waits) expect(takes(running!.variant)).toBe(Math.min(count, takes(wanted.variant)));
        expect(good).toEqual(running);
      }
      expect(new Set(device.ends).size).toBe(device.ends.length);
    }), { numRuns: 300 });
  });

  it('a terminal state is never left within a revision', () => {
    fc.assert(fc.property(workload, luck, fc.array(fc.constantFrom(did, entered), { maxLength: 5 }), (one, lucky, moves) => {
      const stream = lucky[Symbol.iterator]();
      const device = new Device(() => stream.next().value as 'ok', { present: true, runtime: 14, devices: [] });
      device.settle(wish(1, { w: one }));
      const end = device.workloads.w!;
      expect(terminalStates.has(end.execution!.state)).toBe(true);
      expect(moves.reduce((state, move) => move(state, 'observe'), failed(closed(end, 'FAILED'), { code: 'x', message: 'x' }))).toEqual(end);
    }), { numRuns: 200 });
  });
});
