import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseRef, refOf, sizeOf, variantFor, versionMoves, versionStates, type VersionState } from './version.ts';

const cpu = { name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null } as const;
const tpu = (minRuntime: number) => ({ name: `edgetpu-${minRuntime}`, kind: 'edgetpu', minRuntime }) as const;
const cut = (minRuntime: number, segments: number) => ({ ...tpu(minRuntime), name: `edgetpu-${minRuntime}-x${segments}` }) as const;
const ready = (...variants: (typeof cpu | ReturnType<typeof tpu> | ReturnType<typeof cut>)[]) => ({ state: 'READY' as VersionState, variants });
const coral = (edgetpuRuntime: number | null) => ({ edgetpuRuntime, edgetpus: [{ type: 'usb', path: '/dev/bus/usb/001/002' }] });
const pair = (edgetpuRuntime: number, count = 2) => ({ edgetpuRuntime, pipelines: true as const, edgetpus: Array.from({ length: count }, (_, at) => ({ type: 'pci', path: `/dev/apex_${at}` })) });
const plain = { edgetpuRuntime: null, edgetpus: [] };

describe('variantFor', () => {
  it.each([
    ['a TPU with the runtime', ready(cpu, tpu(14)), coral(14), true, 'edgetpu-14'],
    ['a TPU with a newer runtime', ready(cpu, tpu(13)), coral(14), true, 'edgetpu-13'],
    ['the highest runtime that fits', ready(tpu(10), tpu(14), tpu(13), cpu), coral(13), true, 'edgetpu-13'],
    ['a runtime too old, fallback', ready(cpu, tpu(14)), coral(13), true, 'cpu-int8'],
    ['a runtime too old, strict', ready(cpu, tpu(14)), coral(13), false, 'runtime_too_old'],
    ['a runtime not known, fallback', ready(cpu, tpu(14)), coral(null), true, 'cpu-int8'],
    ['a runtime not known, strict', ready(cpu, tpu(14)), coral(null), false, 'runtime_unknown'],
    ['a runtime without a TPU', ready(cpu, tpu(14)), { edgetpuRuntime: 14, edgetpus: [] }, false, 'no_accelerator'],
    ['no TPU, fallback', ready(cpu, tpu(14)), plain, true, 'cpu-int8'],
    ['no TPU, strict', ready(cpu, tpu(14)), plain, false, 'no_accelerator'],
    ['no TPU, nothing to fall back to', ready(tpu(14)), plain, true, 'no_cpu_variant'],
    ['not compiled, fallback', ready(cpu), coral(14), true, 'cpu-int8'],
    ['not compiled, strict', ready(cpu), coral(14), false, 'not_compiled'],
    ['as many TPUs as segments', ready(cpu, tpu(14), cut(14, 2)), pair(14), true, 'edgetpu-14-x2'],
    ['more TPUs than segments', ready(cpu, cut(14, 2), cut(14, 3)), pair(14, 4), true, 'edgetpu-14-x3'],
    ['segments for a newer runtime', ready(cpu, tpu(13), cut(14, 2)), pair(13), true, 'edgetpu-13'],
    ['too few TPUs, compiled whole, too', ready(cpu, tpu(14), cut(14, 3)), pair(14), true, 'edgetpu-14'],
    ['too few TPUs, fallback', ready(cpu, cut(14, 2)), coral(14), true, 'cpu-int8'],
    ['too few TPUs, strict', ready(cpu, cut(14, 3)), pair(14), false, 'too_few_accelerators'],
    ['an agent that chains no segments', ready(cpu, cut(14, 2)), { ...pair(14), pipelines: undefined }, false, 'too_few_accelerators'],
    ['capabilities never told', ready(cpu, tpu(14)), null, true, 'cpu-int8'],
    ['not ready', { state: 'BUILDING' as VersionState, variants: [cpu] }, plain, true, 'version_not_ready'],
  ])('%s', (_what, version, device, cpuFallback, expected) => {
    const choice = variantFor(version, device, { cpuFallback });
    expect(choice.ok ? choice.variant.name : choice.reason).toBe(expected);
  });

  it.each([[undefined, 'edgetpu-14-x2'], ['pci', 'edgetpu-14-x2'], ['usb', 'edgetpu-14'], ['pci:0', 'edgetpu-14'], ['/dev/apex_0', 'edgetpu-14']])('a workload that may use %s gets %s', (device, expected) => {
    expect(variantFor(ready(cpu, tpu(14), cut(14, 2)), pair(14), { cpuFallback: true, device })).toMatchObject({ ok: true, variant: { name: expected } });
  });

  it('never hands a device what its runtime cannot load', () => {
    const runtimes = fc.integer({ min: 10, max: 16 });
    fc.assert(fc.property(fc.uniqueArray(runtimes, { maxLength: 4 }), fc.option(runtimes), fc.boolean(), fc.boolean(), (built, runtime, hasTpu, cpuFallback) => {
      const choice = variantFor(ready(cpu, ...built.map(tpu)), { edgetpuRuntime: runtime, edgetpus: hasTpu ? [1] : [] }, { cpuFallback });
      if (choice.ok && choice.variant.kind === 'edgetpu') expect(hasTpu && runtime !== null && choice.variant.minRuntime <= runtime).toBe(true);
      if (choice.ok && choice.variant.kind === 'cpu-int8') expect(cpuFallback).toBe(true);
    }));
  });
});

it('a variant is as big as all its segments', () => {
  expect(sizeOf({ bytes: 10, details: null })).toEqual({ segments: 1, totalBytes: 10 });
  expect(sizeOf({ bytes: 10, details: { onChipBytes: 9, moreSegments: [{ digest: 'a', bytes: 20 }, { digest: 'b', bytes: 30 }] } })).toEqual({ segments: 3, totalBytes: 60 });
});

describe('refs', () => {
  it.each([['lite0@3', { model: 'lite0', version: 3 }], ['lite0', { model: 'lite0', version: null }], ['lite0@0', undefined], ['Lite', undefined], ['a@b', undefined], ['', undefined]])('%s', (ref, parsed) => {
    expect(parseRef(ref)).toEqual(parsed);
  });

  it('come back as written', () => {
    expect(parseRef(refOf({ model: 'a-b', version: 12 }))).toEqual({ model: 'a-b', version: 12 });
  });
});

it('a READY version never changes its state', () => {
  expect(versionMoves.READY).toEqual([]);
  for (const state of versionStates) expect(versionMoves[state]).not.toContain('DRAFT');
});
