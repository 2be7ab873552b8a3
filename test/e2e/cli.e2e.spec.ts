import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reef } from '../support/stack.ts';

// What a user gets wrong before anything runs. Each answer is a sentence, a code and an exit code by kind; never a stack trace.
let dir: string;
let holder: Server;
let taken: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-cli-'));
  await chmod(dir, 0o755);
  await mkdir(join(dir, 'empty'));
  await writeFile(join(dir, 'file'), 'x');
  holder = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => { holder.once('listening', resolve); });
  taken = String((holder.address() as AddressInfo).port);
});
afterAll(async () => {
  holder.close();
  await rm(dir, { recursive: true, force: true });
});

const nobody = ['--url', 'http://127.0.0.1:9', '--token', 'reef_x'];

interface Case { args: (dir: string) => string[]; exit: number; says: RegExp; code?: string; env?: Record<string, string> }
const cases: Record<string, Case> = {
  'an unknown command': { args: () => ['modle', 'ls'], exit: 2, says: /unknown command 'modle'\n\(Did you mean model\?\)/ },
  'an unknown subcommand': { args: () => ['device', 'list'], exit: 2, says: /unknown command 'list'/ },
  'an unknown option': { args: () => ['device', 'ls', '--selektor', 'a=b'], exit: 2, says: /Did you mean --selector\?/ },
  'a missing argument': { args: () => ['rollout', 'create'], exit: 2, says: /missing required argument 'version'/ },
  'no controller known': { args: (dir) => ['--dir', join(dir, 'empty'), 'device', 'ls'], exit: 3, says: /run where `reef up` keeps its data/, code: 'credentials.missing' },
  'a controller that does not answer': { args: () => [...nobody, 'device', 'ls'], exit: 6, says: /does not answer\. Start one with `reef up`/, code: 'controller.unreachable' },
  'a path that is not there': { args: () => [...nobody, 'model', 'push', '/nowhere/model'], exit: 4, says: /nothing at \/nowhere\/model/, code: 'file.missing' },
  'an empty folder': { args: (dir) => [...nobody, 'model', 'push', join(dir, 'empty')], exit: 4, says: /is empty/, code: 'file.missing' },
  'a label without a value': { args: () => [...nobody, 'device', 'label', 'd1', 'site'], exit: 2, says: /"site" is not a label; write key=value/, code: 'option.invalid' },
  'a number that is none': { args: () => [...nobody, 'rollout', 'create', 'm@1', '--soak', 'long'], exit: 2, says: /--soak takes a number, not "long"/, code: 'option.invalid' },
  'an abort that does not say which': { args: () => [...nobody, 'rollout', 'abort', 'x'], exit: 2, says: /--stop-new .* or --recall/, code: 'option.invalid' },
  'up: a number of agents that is none': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--agents', 'many'], exit: 2, says: /--agents takes a whole number from 0 to 50, not "many"/, code: 'option.invalid' },
  'up: the same port twice': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--port', '9001', '--gateway-port', '9001'], exit: 2, says: /must differ/, code: 'option.invalid' },
  'up: a file where its folder should be': { args: (dir) => ['--dir', join(dir, 'file'), 'up'], exit: 2, says: /There is a file where a folder should be/, code: 'file.in_the_way' },
  'up: a port in use': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--port', taken], exit: 5, says: /Port \d+ for the API and console is in use by process \d+ .*--port/s, code: 'port.busy' },
  'up: a gateway port in use': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--port', '0', '--gateway-port', taken], exit: 2, says: /--port takes a whole number from 1/, code: 'option.invalid' },
  'up: a database that does not answer': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--no-agents', ...freePorts()], exit: 6, says: /PostgreSQL at postgres:\/\/u:\*\*\*@127\.0\.0\.1:9\/x does not answer/, code: 'database.unreachable', env: { DATABASE_URL: 'postgres://u:secret@127.0.0.1:9/x' } },
  'up: settings that no process understands': { args: (dir) => ['--dir', join(dir, 'up'), 'up', '--no-agents', ...freePorts()], exit: 2, says: /LOG_LEVEL/, code: 'config.invalid', env: { DATABASE_URL: 'postgres://u:secret@127.0.0.1:9/x', LOG_LEVEL: 'loud' } },
  'demo: Python that is not there': { args: (dir) => ['--dir', join(dir, 'demo'), 'demo'], exit: 2, says: /found none at \/nowhere\/python/, code: 'python.missing', env: { PYTHON: '/nowhere/python', PYTHON_ENV_DIR: '/nowhere/env' } },
};

/** Far from those that other tests take. */
function freePorts(): string[] {
  const base = 20_000 + (process.pid % 10_000);
  return ['--port', `${base}`, '--gateway-port', `${base + 1}`, '--mqtt-port', `${base + 2}`];
}

describe('what the command line answers to mistakes', () => {
  it.each(Object.entries(cases))('%s', async (_name, { args, exit, says, code, env }) => {
    const said = await reef(args(dir), env ? { env } : {});
    expect(said.stderr).toMatch(says);
    expect(said.exitCode).toBe(exit);
    expect(said.stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
    expect(said.stderr).not.toContain('secret');
    if (code) expect(said.stderr).toContain(`code: ${code}`);
  });

  it('--json puts the error on stdout, as one document', async () => {
    const said = await reef([...nobody, '--json', 'device', 'ls']);
    expect(said).toMatchObject({ exitCode: 6, stderr: '', json: { error: { code: 'controller.unreachable', kind: 'unavailable' } } });
  });

  it('help, version and completion are no errors and need no controller', async () => {
    expect(await reef(['--version'])).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+$/) as string });
    expect(await reef(['rollout', 'create', '--help'])).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('Example') as string });
    expect((await reef(['completion'])).stdout).toContain("'rollout create') words='");
  });
});
