import koffi, { type LibraryHandle, type TypeObject } from 'koffi';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Pointer } from './native.ts';

export interface EdgeTpuDevice {
  type: 'usb' | 'pci';
  /** As `edgetpu_list_devices` gave it. Never make one up: opening an unknown USB path blocks for 25 s. */
  path: string;
}

export interface EdgeTpuInfo {
  /** libedgetpu's own version line; null = the library is not installed. */
  version: string | null;
  /** RuntimeVersion(N) in it; a compiled model must not need a higher one. */
  runtime: number | null;
  devices: EdgeTpuDevice[];
}

export interface Delegate {
  pointer: Pointer;
  close(): void;
}

/** Names the dynamic loader finds where Coral's Debian packages are installed. */
const libraryNames = ['libedgetpu.so.1', 'libedgetpu.so.1.0', 'libedgetpu.1.dylib'];

type Library = ReturnType<typeof bind>;
let opened: { path: string | undefined; library: Library | null } | undefined;

/** Only the version and the list: opens no device. Run it in a child, since a broken driver may hang. */
export function probeEdgeTpus(libraryPath?: string): EdgeTpuInfo {
  const library = open(libraryPath);
  if (!library) return { version: null, runtime: null, devices: [] };
  const version = library.version();
  const runtime = /RuntimeVersion\((\d+)\)/.exec(version)?.[1];
  return { version, runtime: runtime === undefined ? null : Number(runtime), devices: listDevices(library) };
}

/**
 * Opens one Edge TPU for one interpreter. Calls libedgetpu directly: TFLite's external-delegate shim gives a delegate even for a
 * library that does not exist.
 * @throws ReefError `inference.no_device`
 */
export function openDelegate(device: EdgeTpuDevice, libraryPath?: string): Delegate {
  const library = open(libraryPath);
  const pointer = library && listDevices(library).some(({ path }) => path === device.path) ? library.create(typeCode(device.type), device.path, null, 0) : null;
  if (!library || !pointer) throw new ReefError('inference.no_device', 'unavailable', `The Edge TPU at ${device.path} does not answer. Check its cable or driver.`, { detail: { device } });
  return { pointer, close: () => library.free(pointer) };
}

function open(path?: string): Library | null {
  if (opened && opened.path === path) return opened.library;
  let library: Library | null = null;
  for (const name of path ? [path] : libraryNames) {
    try {
      library = bind(koffi.load(name));
      break;
    } catch {
      // Not under this name; none at all is an answer too.
    }
  }
  opened = { path, library };
  return library;
}

/** edgetpu_c.h: enum edgetpu_device_type { EDGETPU_APEX_PCI = 0, EDGETPU_APEX_USB = 1 }. */
function typeCode(type: EdgeTpuDevice['type']): number {
  return type === 'pci' ? 0 : 1;
}

let deviceStruct: TypeObject | undefined;

function bind(lib: LibraryHandle) {
  deviceStruct ??= koffi.struct('edgetpu_device', { type: 'int', path: 'const char *' });
  return {
    version: lib.func('const char *edgetpu_version()') as () => string,
    list: lib.func('void *edgetpu_list_devices(_Out_ size_t *count)') as (count: [number]) => Pointer,
    freeList: lib.func('void edgetpu_free_devices(void *devices)') as (devices: Pointer) => void,
    create: lib.func('void *edgetpu_create_delegate(int type, const char *name, const void *options, size_t count)') as (type: number, name: string, options: null, count: number) => Pointer,
    free: lib.func('void edgetpu_free_delegate(void *delegate)') as (delegate: Pointer) => void,
  };
}

function listDevices(library: Library): EdgeTpuDevice[] {
  const count: [number] = [0];
  const list = library.list(count);
  if (!list) return [];
  const found = koffi.decode(list, deviceStruct!, count[0]) as { type: number; path: string }[];
  const devices = found.map(({ type, path }): EdgeTpuDevice => ({ type: type === 0 ? 'pci' : 'usb', path }));
  library.freeList(list);
  return devices;
}
