export { readModel, elementsOf, constantInts } from './model.ts';
export type { KnownOptions, OperatorOptions, Operator, Quantisation, Signature, Subgraph, Tensor, TfliteModel } from './model.ts';
export { looksLike, type FileKind } from './file-kind.ts';
export type { TensorType } from './tflite-schema.ts';
export { analyze, defaultRuntime, edgeTpuOp, type Analysis, type AnalyzeOptions, type OpForecast, type Unverified, type Verdict } from './analyze.ts';
export type { Fault, FaultCode, TensorRef } from './faults.ts';
export { status as opStatus, type OpStatus } from './rules.ts';
export { partition, type DataFlow, type Subset } from './partition.ts';
export type { ParameterEstimate } from './parameters.ts';
export {
  describeTensor, inspectCompiled, inspectModel, cachedTogether, residencyOf, type CompiledModel, type CompiledPart, type CompiledTensor, type Executable, type ExecutableType,
} from './compiled.ts';
export {
  parseCompilerReport, parseCompilerLog, parseSize, type CompileAttempt, type CompiledModelReport, type CompileFailure, type CompileFailureCode, type CompilerExit,
  type CompilerReport, type OpCount, type RetryClass,
} from './compiler-report.ts';
export {
  busOf, calibrateHost, hostTerms, latencyFeatures, predictLatency, type CalibratedHost, type HostClass, type HostTerms, type LatencyFeatures, type LatencyPrediction, type MeasuredRun,
} from './latency.ts';
export { writeModel, type WritableModel } from './write-model.ts';
export { closeOpenShapes, cutModel, type CutOptions } from './cut-model.ts';
export { describePart, findFailingPart, type BisectOptions, type DescribedOperator, type FailingPart, type OperatorRange } from './bisect.ts';
export { opTable, type OpTableRow } from './op-table.ts';
export { metadataOf, type TfliteMetadata } from './tflite-metadata.ts';
export { zipEntries } from './zip.ts';
export {
  appendHead, extractorOf, headMethods, headModel, realEmbedding, scoresOf, withoutHead, type Extractor, type Head, type HeadMethod,
} from './head.ts';
export { judge, learn, learnDefaults, type Judgement, type LearnOptions, type LearnReport, type LearnResult, type LearnSample } from './learn.ts';
export { learnFromImages, type LearnCase, type LearnImage, type LearnStep, type LearnWorld, type Session } from './learn-session.ts';
export { regressionDefaults, type RegressionOptions } from './softmax-regression.ts';
