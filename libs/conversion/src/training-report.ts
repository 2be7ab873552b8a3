import { z } from 'zod';
import type { StoredObject } from '@reefkeeper/platform';
import type { BuildRequest, SourceOrigin, UploadedFile } from './job.ts';
import type { VertexResult } from './vertex.ts';

/** What `python -m reef_train train` answers with. */
export const trained = z.object({
  /** In the order of the outputs, and of the rows and columns of the confusion matrix. */
  labels: z.array(z.string()),
  preprocessing: z.object({ kind: z.literal('image'), width: z.number(), height: z.number(), channels: z.number(), resize: z.enum(['stretch', 'center-crop']), mean: z.array(z.number()), std: z.array(z.number()) }),
  base: z.object({ name: z.string(), digest: z.string(), features: z.number(), cut: z.string() }),
  /** Images on each side. */
  classes: z.array(z.object({ label: z.string(), train: z.number(), validation: z.number(), heldOut: z.number() })),
  /** Losses are mean cross entropies, accuracies 0 to 1. */
  epochs: z.array(z.object({ epoch: z.number(), loss: z.number(), accuracy: z.number(), validationLoss: z.number(), validationAccuracy: z.number() })),
  /** The epoch that was kept. */
  best: z.number(),
  stopped: z.string(),
  /** The part whose loss stopped it; with few images the held-out part itself, whose numbers then flatter. */
  stoppedOn: z.enum(['validation', 'held-out']),
  /** `confusion[true][answered]`, counts. */
  heldOut: z.object({ images: z.number(), accuracy: z.number(), loss: z.number(), confusion: z.array(z.array(z.number())) }),
  /** What was wrong with the images, by name. */
  issues: z.array(z.object({ code: z.string(), message: z.string(), count: z.number(), names: z.array(z.string()) })),
  calibrationSamples: z.number(),
  evaluationSamples: z.number(),
  tools: z.record(z.string(), z.string()),
});

export type TrainingReport = z.infer<typeof trained> & { seed: number; dataset: UploadedFile & { origin?: SourceOrigin } };

/** Of a training at Vertex AI, which tells less. */
export interface VertexReport {
  vertex: Omit<VertexResult, 'evaluation'> & { modelType: string; nodeHours: number };
  labels: string[] | null;
  preprocessing: BuildRequest['preprocessing'];
  /** Of Vertex AI's own held-out images, in its own order of labels; null where it gives no confusion matrix. */
  heldOut: VertexResult['evaluation'];
  dataset: UploadedFile & { origin?: SourceOrigin };
  issues: [];
}

type KeptFile = StoredObject & { filename: string };
export type TrainingOutput = (TrainingReport & { model: KeptFile; calibration: KeptFile; evaluation: KeptFile }) | (VertexReport & { model: KeptFile; calibration: null; evaluation: null });
