import type { CompileAttempt } from './attempts.ts';
import type { JobWithSteps } from './jobs.service.ts';
import type { StepOutputs } from './steps.ts';
import type { TrainingReport, VertexReport } from './training-report.ts';
import type { BuildRequest, JobError, JobState, StepName, StepState } from './job.ts';

export interface StepView {
  name: StepName;
  state: StepState;
  percent: number | null;
  etaS: number | null;
  message: string | null;
  tries: number;
  startedAt: Date | null;
  endedAt: Date | null;
  error: JobError | null;
}

/** A job as the API shows it: no leases, no outputs. */
export interface JobView {
  id: string;
  model: string;
  /** `name@3` */
  version: string;
  versionId: string;
  state: JobState;
  /** Higher goes first. */
  priority: number;
  cancelRequested: boolean;
  error: JobError | null;
  request: BuildRequest;
  createdAt: Date;
  createdBy: string;
  startedAt: Date | null;
  endedAt: Date | null;
  steps: StepView[];
  /** Of a job that trained: epochs, held-out accuracy and confusion, what was wrong with the images. */
  training: TrainingReport | VertexReport | null;
}

export function jobView(job: JobWithSteps): JobView {
  const { id, model, ref, versionId, state, priority, error, request, createdAt, createdBy, startedAt, endedAt } = job;
  return {
    id, model, version: ref, versionId, state, priority, cancelRequested: job.cancelRequestedAt !== null, error, request, createdAt, createdBy, startedAt, endedAt,
    steps: job.steps.map((step) => ({
      name: step.name, state: step.state, percent: step.percent, etaS: step.etaS, message: step.message, tries: step.tries, startedAt: step.startedAt, endedAt: step.endedAt, error: step.error,
    })),
    training: reportOf(job),
  };
}

function reportOf({ steps }: JobWithSteps): TrainingReport | VertexReport | null {
  const output = steps.find(({ name }) => name === 'train')?.output as StepOutputs['train'] | null | undefined;
  if (!output) return null;
  const { model: _model, calibration: _calibration, evaluation: _evaluation, ...report } = output;
  return report;
}

/** A run of edgetpu_compiler as the API shows it. */
export type AttemptView = Omit<CompileAttempt, 'recipe' | 'jobId'>;

export function attemptView({ id, inputs, compilerVersion, flags, startedAt, durationMs, exitCode, signal, result, message, final, outputs, logDigest }: CompileAttempt): AttemptView {
  return { id, inputs, compilerVersion, flags, startedAt, durationMs, exitCode, signal, result, message, final, outputs, logDigest };
}
