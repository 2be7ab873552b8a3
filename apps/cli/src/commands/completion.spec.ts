import { Command } from 'commander';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { completionScript } from './completion.ts';

const program = new Command('reef').option('--json');
const model = program.command('model');
model.command('push <path>').option('--name <name>');
model.command('ls');

it.each([
  [['reef', ''], 1, 'model --json --help'],
  [['reef', 'model', 'p'], 2, 'push'],
  [['reef', '--json', 'model', ''], 3, 'push ls --help'],
  [['reef', 'model', 'push', '--n'], 3, '--name'],
])('completes %j', async (words, at, expected) => {
  const quoted = words.map((word) => `'${word}'`).join(' ');
  const { stdout } = await execa('bash', ['-c', `${completionScript(program)}\nCOMP_WORDS=(${quoted}); COMP_CWORD=${at}; _reef; echo "\${COMPREPLY[@]}"`]);
  expect(stdout).toBe(expected);
});
