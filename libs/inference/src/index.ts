export { answersOnce } from './answers.ts';
export { decodeBmp, isBmp } from './bmp.ts';
export { detectionHead, leastScore, matchBoxes, type Detection } from './detections.ts';
export { probeEdgeTpus, type EdgeTpuDevice, type EdgeTpuInfo } from './edgetpu.ts';
export { InferenceHost, openInferenceHost, type HostOptions, type LoadedModel } from './host.ts';
export { Interpreter, type InterpreterOptions } from './interpreter.ts';
export { tfliteLibraryPath } from './native.ts';
export { quantisePixels, readImage, resizePixels, type ImagePreprocessing } from './preprocess.ts';
export { classify, dequantise, numbersOf, quantiseTensor, softmax, topK, type ExpectedTensors, type TensorInfo, type TensorType } from './tensor.ts';
