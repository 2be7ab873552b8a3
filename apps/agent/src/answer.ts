import type { Manifest } from '@reefkeeper/bundle';
import { classify, dequantise, detectionHead, type Detection, type TensorInfo } from '@reefkeeper/inference';
import type { Slot } from './workload.ts';

/** The tensors of a loaded model, in order. */
export interface Tensors { inputs: readonly TensorInfo[]; outputs: readonly TensorInfo[] }

/** Path or bytes of an image file, or raw pixels row by row. */
export type Picture = string | Buffer | { pixels: Uint8Array; width: number; height: number; channels: 1 | 3 };

/** What a model is asked. It may be prepared more than once: a candidate beside the model that serves may want another size or scale. */
export interface Question {
  /** The bytes of the input tensors. Throws where the question itself is wrong; that is no error of the model. */
  prepare(model: { manifest: Manifest; tensors: Tensors }): Promise<Uint8Array[]> | Uint8Array[];
  /** What it was made from, where that is a picture. */
  picture?: Picture;
  /** By which feedback finds the answer again; none for frames of a folder. */
  id?: string;
  /** What is known to be on it: a class name or index. */
  label: string | null;
}

export interface Answer {
  slot: Slot;
  manifest: Manifest;
  tensors: Tensors;
  outputs: Uint8Array[];
  preprocessUs: number;
  /** The native call alone; all segments together, where the model has some. */
  invokeUs: number;
  /** Of each segment. */
  stagesUs: number[];
  /** Both and the way to the child and back; without the wait for the turn. */
  totalUs: number;
}

export type Reading = Pick<Answer, 'manifest' | 'tensors' | 'outputs'>;

/** The `k` best classes of a classifier, best first; undefined for models of another task. */
export function classesOf({ manifest, tensors, outputs }: Reading, k: number): { index: number; label: string; score: number }[] | undefined {
  return manifest.task === 'classification' ? classify(outputs[0]!, tensors.outputs[0]!, { labels: manifest.labels, k }) : undefined;
}

/** A detector's boxes; undefined where the outputs are not boxes that can be read. */
export function boxesOf({ manifest, tensors, outputs }: Reading, leastScore?: number): Detection[] | undefined {
  if (manifest.task !== 'detection') return undefined;
  const answer = outputs.map((bytes, index) => dequantise(bytes, tensors.outputs[index]!));
  return detectionHead(tensors.outputs, [answer], leastScore)?.(answer).sort((a, b) => b.score - a.score);
}

export function isRight(manifest: Manifest, top1: number, label: string): boolean {
  return label === manifest.labels?.[top1] || label === String(top1);
}
