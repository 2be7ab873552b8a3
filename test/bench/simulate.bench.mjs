// A rollout of 100,000 virtual devices through the engine's own decisions, against its stated limit.
import { parseArgs } from 'node:util';
import { createRollout, sameAsBefore, simulate, usualFaults } from '../../libs/rollouts/dist/simulate.js';

const limitS = 60;
const usage = `npm run bench -- simulate [--devices 100000] [--seed 1]
Limit: ${limitS} s for the whole rollout, and the same transcript from the same seed a second time.`;

export default function bench(args) {
  const { values } = parseArgs({ args, options: { devices: { type: 'string', default: '100000' }, seed: { type: 'string', default: '1' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const body = createRollout.parse({ version: 'simulated@1', workload: 'classifier' });
  const runs = [0, 1].map(() => {
    const begin = performance.now();
    const run = simulate({ seed: Number(values.seed), devices: Number(values.devices), sites: 200, faults: usualFaults, version: sameAsBefore, body });
    return { ...run, realS: (performance.now() - begin) / 1_000 };
  });
  for (const { state, tookS, realS, digest } of runs) console.log(`${values.devices} devices: ${state} after ${Math.round(tookS / 60)} virtual minutes, in ${realS.toFixed(1)} s; transcript ${digest.slice(0, 16)}`);
  const same = runs[0].digest === runs[1].digest;
  const fast = runs.every(({ realS }) => realS <= limitS);
  console.log(`${fast && same ? 'PASS' : 'FAIL'}: at most ${limitS} s${same ? '' : '; the transcripts differ'}`);
  return fast && same;
}
