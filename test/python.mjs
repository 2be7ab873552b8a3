// `npm run test:python`: the Python package's own tests, in the environment the worker uses, with pytest beside it.
import { execa } from 'execa';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensurePythonEnv } from '@reefkeeper/conversion/python';

const root = join(import.meta.dirname, '..');
const packageDir = join(root, 'libs/conversion/python');
const { python } = await ensurePythonEnv({ root: join(root, '.reef/python'), python: process.env.PYTHON, onProgress: (message) => process.stderr.write(`${message}\n`) });
// Beside the environment, not in it: what tests need never reaches a worker.
const extra = join(root, '.reef/python-tests');
await mkdir(extra, { recursive: true });
const inherit = { stdio: 'inherit', reject: false };
await execa(python, ['-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--require-hashes', '--upgrade', '--target', extra, '-r', join(packageDir, 'requirements-dev.txt')], inherit);
const { exitCode } = await execa(python, ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', join(packageDir, 'tests'), ...process.argv.slice(2)], {
  ...inherit, env: { PYTHONPATH: [packageDir, extra].join(':'), PYTHONDONTWRITEBYTECODE: '1', TF_CPP_MIN_LOG_LEVEL: '3', CUDA_VISIBLE_DEVICES: '-1' },
});
process.exitCode = exitCode;
