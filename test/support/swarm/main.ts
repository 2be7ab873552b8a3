// A process of simulated devices, driven over IPC: `swarm.ts` beside it is the other end.
import { setTimeout as sleep } from 'node:timers/promises';
import { randomOf } from '@reefkeeper/platform/random';
import { SimulatedDevice, type Behaviour } from './device.ts';

export interface SwarmOptions extends Behaviour { prefix: string; count: number; connectsPerS: number; seed: number }
export type Order = { kind: 'counts' | 'dump' | 'stop' } | { kind: 'cut' | 'reboot'; share: number } | { kind: 'behave'; bad: string[] };

const options = JSON.parse(process.env.SWARM!) as SwarmOptions;
const draw = randomOf(options.seed);
const devices = Array.from({ length: options.count }, (_, at) => new SimulatedDevice(deviceName(options.prefix, at), options, draw));

function deviceName(prefix: string, at: number): string {
  return `${prefix}-${String(at).padStart(6, '0')}`;
}

async function connectAll(): Promise<void> {
  for (const [at, device] of devices.entries()) {
    device.connect();
    if (at % 20 === 19) await sleep(20_000 / options.connectsPerS);
  }
}

function obey(order: Order): unknown {
  switch (order.kind) {
    case 'counts': return { connected: devices.filter(({ connected }) => connected).length };
    case 'dump': return devices.map((device) => device.state());
    case 'cut': for (const device of devices) if (draw() < order.share) device.cut(); return {};
    case 'reboot': for (const device of devices) if (draw() < order.share) device.reboot(); return {};
    case 'behave': options.bad.splice(0, options.bad.length, ...order.bad); return {};
    case 'stop': for (const device of devices) device.stop(); return {};
  }
}

process.on('message', ({ id, order }: { id: number; order: Order }) => { process.send!({ id, answer: obey(order) }); });
process.on('disconnect', () => process.exit(0));
void connectAll();
