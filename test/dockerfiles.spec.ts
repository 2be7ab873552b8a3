import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

// There is no Docker where the tests run: this reads what a build would trip over.
const root = join(import.meta.dirname, '..');
const folder = join(root, 'deploy/docker');
const files = readdirSync(folder).filter((name) => name.endsWith('Dockerfile'));

interface Instruction { word: string; rest: string }
interface Stage { name: string; base: string; instructions: Instruction[] }

export function stagesOf(text: string): Stage[] {
  const stages: Stage[] = [];
  const lines = text.replaceAll(/^\s*#.*\n/gm, '').replaceAll(/\\\n\s*/g, ' ').split('\n').map((line) => line.trim()).filter(Boolean);
  for (const line of lines) {
    const [, word = '', rest = ''] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
    if (word === 'FROM') {
      const [, base = '', name] = /^(\S+)(?:\s+AS\s+(\S+))?$/.exec(rest) ?? [];
      stages.push({ name: name ?? base, base, instructions: [] });
    } else {
      const stage = stages.at(-1);
      if (!stage) throw new Error(`before the first FROM: ${line}`);
      stage.instructions.push({ word, rest });
    }
  }
  return stages;
}

const known = new Set(['RUN', 'CMD', 'COPY', 'USER', 'ENV', 'WORKDIR', 'EXPOSE', 'HEALTHCHECK', 'ENTRYPOINT', 'ARG', 'LABEL', 'VOLUME', 'STOPSIGNAL']);

describe.each(files)('%s', (file) => {
  const stages = stagesOf(readFileSync(join(folder, file), 'utf8'));
  const before = (stage: Stage) => stages.slice(0, stages.indexOf(stage)).map(({ name }) => name);
  /** A stage's instructions with those it inherits. */
  const whole = (stage: Stage): Instruction[] => {
    const base = stages.find(({ name }) => name === stage.base && name !== stage.name);
    return [...(base ? whole(base) : []), ...stage.instructions];
  };

  it('has only instructions that there are', () => {
    expect(stages.length).toBeGreaterThan(0);
    for (const { word, rest } of stages.flatMap(({ instructions }) => instructions)) expect([word, known.has(word)], rest).toEqual([word, true]);
  });

  it('builds on images with a version, or on its own stages', () => {
    for (const stage of stages) if (!before(stage).includes(stage.base)) expect(stage.base).toMatch(/^[a-z0-9./-]+:[a-z0-9.-]*\d|^[a-z0-9./-]+:bookworm-slim$/);
  });

  it('copies what is there', () => {
    for (const stage of stages) {
      for (const { rest } of stage.instructions.filter(({ word }) => word === 'COPY')) {
        const words = rest.split(/\s+/);
        const from = words.find((word) => word.startsWith('--from='))?.slice(7);
        if (from) expect(before(stage)).toContain(from);
        else for (const source of words.filter((word) => !word.startsWith('--')).slice(0, -1)) expect([source, existsSync(join(root, source))]).toEqual([source, true]);
      }
    }
  });

  it('installs no more than it names and leaves no package lists', () => {
    for (const { rest } of stages.flatMap(({ instructions }) => instructions).filter(({ word, rest }) => word === 'RUN' && rest.includes('apt-get install'))) {
      for (const [install] of rest.matchAll(/apt-get install[^&]*/g)) expect(install).toContain('--no-install-recommends');
      expect(rest).toMatch(/rm -rf \/var\/lib\/apt\/lists\/\*/);
      // Packages of others come with their key, and for that repository alone.
      if (rest.includes('sources.list.d')) expect(rest).toMatch(/signed-by=(\S+?)\]/);
    }
  });

  it('runs as somebody else than root, and starts a program that is built', () => {
    for (const stage of stages.filter(({ name }) => name !== 'build')) {
      expect([stage.name, whole(stage).findLast(({ word }) => word === 'USER')?.rest]).toEqual([stage.name, expect.stringMatching(/^(?!root$).+/)]);
      const start = whole(stage).findLast(({ word }) => word === 'CMD' || word === 'ENTRYPOINT')!;
      const program = JSON.parse(start.rest) as string[];
      for (const word of program.filter((one) => one.endsWith('.js'))) expect([word, existsSync(join(root, word.replace('/dist/', '/src/').replace(/\.js$/, '.ts')))]).toEqual([word, true]);
    }
  });
});

it('docker-compose.yml builds targets that there are', () => {
  const targets = [...readFileSync(join(root, 'docker-compose.yml'), 'utf8').matchAll(/dockerfile: ([^,\s]+), target: ([^\s}]+)/g)];
  expect(targets.length).toBeGreaterThan(0);
  for (const [, file, target] of targets) expect(stagesOf(readFileSync(join(root, file!), 'utf8')).map(({ name }) => name)).toContain(target);
});
