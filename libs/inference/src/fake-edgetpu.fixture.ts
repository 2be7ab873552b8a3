import { execFileSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Whether this machine can build the stand-in for libedgetpu; tests that need it are skipped by name where not. */
export const canBuildFakeEdgeTpu = process.platform === 'linux' && works('gcc', '--version');

/** Paths the stand-in lists, by how they behave (fake-edgetpu.c). */
export const fakeDevices = {
  good: { type: 'usb', path: '/fake/good' },
  dead: { type: 'pci', path: '/fake/dead' },
  old: { type: 'usb', path: '/fake/old' },
  lost: { type: 'usb', path: '/fake/lost' },
  hang: { type: 'usb', path: '/fake/hang' },
} as const;

export interface FakeDevice { type: 'usb' | 'pci'; path: string; mood?: 'good' | 'dead' | 'old' | 'lost' | 'hang' | 'slow' | 'crash' | 'wrong' }

/** Builds the stand-in against the headers of TFLite 2.9 that npm ships. */
export function buildFakeEdgeTpu(): { library: string; plug(...devices: FakeDevice[]): void; remove(): void } {
  const dir = mkdtempSync(join(tmpdir(), 'reef-fake-edgetpu-'));
  const library = join(dir, 'libedgetpu.so.1');
  const headers = join(dirname(createRequire(import.meta.url).resolve('tfjs-tflite-node/package.json')), 'cc_deps/include');
  execFileSync('gcc', ['-shared', '-fPIC', '-O1', '-I', headers, '-o', library, join(import.meta.dirname, 'fake-edgetpu.c'), '-ldl']);
  // Renamed into place: a child that reads it now sees all of it.
  const plug = (...devices: FakeDevice[]) => {
    writeFileSync(join(dir, 'devices.new'), devices.map(({ type, path, mood = 'good' }) => `${type} ${path} ${mood}\n`).join(''));
    renameSync(join(dir, 'devices.new'), join(dir, 'devices'));
  };
  return { library, plug, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

/** What the stand-in answers for these inputs, `bytes` bytes long. */
export function fakeAnswer(inputs: readonly Uint8Array[], bytes: number): Buffer {
  const sum = inputs.reduce((all, input) => input.reduce((one, byte) => one + byte, all), 0);
  return Buffer.from(Array.from({ length: bytes }, (_, at) => (sum + at) & 0xff));
}

function works(command: string, ...args: string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
