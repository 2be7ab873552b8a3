// `npm run test:python`: the Python package's own tests, in the environment the worker uses, with pytest beside it.
import { execa } from 'execa';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensurePythonEnv, environments } from '@reefkeeper/conversion/python';

const root = join(import.meta.dirname, '..');
const packageDir = join(root, 'libs/conversion/python');
const given = process.argv.slice(2);
const options = { root: join(root, '.reef/python'), python: process.env.PYTHON, onProgress: (message) => process.stderr.write(`${message}\n`) };
const { python } = await ensurePythonEnv(options);
// `--all`: the optional converters too, as far as there is a Python for them; test/e2e/converters.e2e.spec.ts runs where they are installed.
for (const extra of given.includes('--all') ? ['tf2.15', 'onnx'] : []) {
  await ensurePythonEnv({ ...options, requirements: environments[extra] }).catch((error) => process.stderr.write(`${extra} is left out: ${error.message}\n`));
}
// Beside the environment, not in it: what tests need never reaches a worker.
const extra = join(root, '.reef/python-tests');
await mkdir(extra, { recursive: true });
const inherit = { stdio: 'inherit', reject: false };
await execa(python, ['-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--require-hashes', '--upgrade', '--target', extra, '-r', join(packageDir, 'requirements-dev.txt')], inherit);
const { exitCode } = await execa(python, ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', join(packageDir, 'tests'), ...given.filter((one) => one !== '--all')], {
  ...inherit, env: { PYTHONPATH: [packageDir, extra].join(':'), PYTHONDONTWRITEBYTECODE: '1', TF_CPP_MIN_LOG_LEVEL: '3', CUDA_VISIBLE_DEVICES: '-1' },
});
process.exitCode = exitCode;
