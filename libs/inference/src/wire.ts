import type { EdgeTpuDevice, EdgeTpuInfo } from './edgetpu.ts';
import type { ExpectedTensors, TensorInfo } from './tensor.ts';

/** What the host asks its child, one answer each, matched by `id`. */
export type Request =
  | { kind: 'load'; path: string; digest: string; threads: number; expect: ExpectedTensors | null; edgetpu: { device: EdgeTpuDevice; library?: string } | null }
  | { kind: 'infer'; model: number; inputs: Uint8Array[] }
  | { kind: 'bench'; model: number; inputs: Uint8Array[]; runs: number }
  | { kind: 'unload'; model: number }
  | { kind: 'probe'; library?: string };

export interface Answers {
  load: { model: number; inputs: TensorInfo[]; outputs: TensorInfo[]; backend: 'cpu' | 'edgetpu'; tfliteVersion: string };
  infer: { outputs: Uint8Array[]; invokeUs: number };
  bench: { totalUs: Float64Array; cpuUs: number };
  unload: Record<string, never>;
  probe: EdgeTpuInfo & { tfliteVersion: string };
}

export type Call = Request & { id: number };
export type Reply = { id: number; ok: true; answer: Answers[Request['kind']] } | { id: number; ok: false; code: string; kind: string; message: string };

/** What the child writes to stderr before it reports a failure. */
export function stderrMark(id: number): string {
  return `\n<end of call ${id}>\n`;
}
