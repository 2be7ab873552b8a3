import { openInferenceHost, type EdgeTpuDevice, type InferenceHost } from '@reefkeeper/inference';
import type { ReefError } from '@reefkeeper/platform/errors';

export interface HostsOptions {
  tflite?: string | undefined;
  /** A child ended by itself or was killed for hanging; once per child. */
  onEnd?: (device: EdgeTpuDevice | undefined, why: ReefError) => void;
}

/** Held by a model that is loaded in `host`. */
export interface Lease {
  host: InferenceHost;
  /** The last one out ends the child. */
  release(): Promise<void>;
}

/** How long a child that was killed may take to let go of its Edge TPU before it is tried without. */
const lettingGoMs = 5_000;

/**
 * The inference children. An Edge TPU opens in one process at a time, so all its models live in one child; a model on the CPU has a child to
 * itself, since there nothing is shared and whoever crashes crashes alone.
 */
export class Hosts {
  private readonly shared = new Map<string, { host: InferenceHost; leases: number }>();
  /** By device path: ends when no earlier child can hold it any more. */
  private readonly lettingGo = new Map<string, Promise<void>>();

  constructor(private readonly options: HostsOptions = {}) {}

  async take(device?: EdgeTpuDevice): Promise<Lease> {
    if (!device) {
      const host = this.open(undefined);
      return { host, release: () => host.close() };
    }
    await this.lettingGo.get(device.path);
    let one = this.shared.get(device.path);
    if (!one) {
      one = { host: this.open(device), leases: 0 };
      this.shared.set(device.path, one);
    }
    one.leases += 1;
    const mine = one;
    let released = false;
    return {
      host: mine.host,
      release: async () => {
        if (released) return;
        released = true;
        mine.leases -= 1;
        if (mine.leases > 0) return;
        this.forget(device, mine.host);
        await mine.host.close();
      },
    };
  }

  private open(device: EdgeTpuDevice | undefined): InferenceHost {
    const host = openInferenceHost(this.options.tflite ? { library: this.options.tflite } : {});
    // As many as there are models on it.
    host.setMaxListeners(0);
    // First in line, so that whoever hears of the end after us already gets a new child.
    host.on('exit', (why) => {
      if (device) this.forget(device, host);
      this.options.onEnd?.(device, why);
    });
    return host;
  }

  private forget({ path }: EdgeTpuDevice, host: InferenceHost): void {
    if (this.shared.get(path)?.host !== host) return;
    this.shared.delete(path);
    let timer: NodeJS.Timeout;
    const gone = Promise.race([host.gone, new Promise<void>((resolve) => { timer = setTimeout(resolve, lettingGoMs); })]).finally(() => {
      clearTimeout(timer);
      if (this.lettingGo.get(path) === gone) this.lettingGo.delete(path);
    });
    this.lettingGo.set(path, gone);
  }
}
