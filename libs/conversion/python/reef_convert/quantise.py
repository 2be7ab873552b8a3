"""Full-integer quantisation, and the original's own answers to compare with."""

from pathlib import Path
from typing import List, Sequence

from .events import ConvertError, log, progress, refuse
from .samples import Samples
from .sources import Source, _short, tensorflow


def convert(source: Source, shapes: List[List[int]], calibration: Samples, output: Path, io_type: str) -> List[str]:
    """Writes the int8 model to `output` and returns warnings."""
    warnings: List[str] = []
    if calibration.count < 20:
        warnings.append(f"The calibration set has only {calibration.count} samples; activation ranges may be too narrow. 100 or more are good.")
    data = _from_tflite(source, calibration) if source.tflite is not None else _from_function(source, shapes, calibration, io_type)
    progress("write", 98, "writing the model")
    part = output.with_suffix(".part")
    part.write_bytes(data)
    part.rename(output)
    return warnings


def _from_function(source: Source, shapes: List[List[int]], calibration: Samples, io_type: str) -> bytes:
    tf = tensorflow()
    frozen = source.concrete(shapes)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen.function], frozen.keep)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: _counted(calibration, frozen.function.inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io_type)
    # From 2.19 on dense layers get one weight scale per channel by default, still labelled version 4: older runtimes load that without a
    # word and answer garbage.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    progress("convert", 10, "converting to TensorFlow Lite")
    try:
        return converter.convert()
    except ConvertError:
        raise
    except Exception as error:
        refuse("convert.failed", f"TensorFlow cannot quantise this model to int8: {_short(error)}")


def _from_tflite(source: Source, calibration: Samples) -> bytes:
    tf = tensorflow()
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    progress("convert", 10, "quantising the float TFLite model")
    try:
        return Calibrator(source.tflite).calibrate_and_quantize(
            lambda: _counted(calibration, None), tf.int8, tf.int8, False, disable_per_channel_quantization_for_dense_layers=True
        )
    except ConvertError:
        raise
    except Exception as error:
        refuse("convert.failed", f"TensorFlow cannot quantise this model to int8: {_short(error)}")


def _counted(calibration: Samples, tensors):
    """The one live view into the converter: it asks for one sample after the other."""
    for index, sample in enumerate(calibration):
        if index % max(1, calibration.count // 50) == 0:
            progress("calibrate", 15 + 75 * index / calibration.count, f"calibrating, sample {index + 1} of {calibration.count}")
        if tensors is not None:
            sample = [array.astype(tensor.dtype.as_numpy_dtype) for array, tensor in zip(sample, tensors)]
        yield sample
    progress("quantise", 92, "quantising")


def evaluate(source: Source, shapes: List[List[int]], samples: Samples, output: Path) -> None:
    """Runs the float original on every sample, and writes `input_<i>` and `output_<i>` arrays (samples first) to an .npz."""
    import numpy as np

    run = _runner(source, shapes)
    inputs: List[list] = []
    outputs: List[list] = []
    for index, sample in enumerate(samples):
        if index % max(1, samples.count // 25) == 0:
            progress("evaluate", 60 * index / samples.count, f"original, sample {index + 1} of {samples.count}")
        inputs.append(sample)
        outputs.append(run(sample))
    arrays = {}
    for kind, rows in (("input", inputs), ("output", outputs)):
        for column in range(len(rows[0])):
            arrays[f"{kind}_{column}"] = np.concatenate([np.asarray(row[column], np.float32).reshape((1, *np.asarray(row[column]).shape[1:])) for row in rows])
    np.savez(output, **arrays)


def _runner(source: Source, shapes: List[List[int]]):
    tf = tensorflow()
    if source.tflite is None:
        frozen = source.concrete(shapes)
        function = frozen.function
        keep = frozen.keep

        def run(sample: Sequence) -> list:
            _ = keep
            return [answer.numpy() for answer in tf.nest.flatten(function(*[tf.constant(array, dtype=tensor.dtype) for array, tensor in zip(sample, function.inputs)]))]

        return run
    interpreter = tf.lite.Interpreter(model_content=source.tflite)
    for detail, shape in zip(interpreter.get_input_details(), shapes):
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()

    def run_tflite(sample: Sequence) -> list:
        for detail, array in zip(interpreter.get_input_details(), sample):
            interpreter.set_tensor(detail["index"], array.astype(detail["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    return run_tflite


def check_labels(source: Source, labels: int) -> None:
    width = source.outputs[0].shape[-1] if source.outputs and source.outputs[0].shape else None
    if width is not None and width != labels:
        refuse("labels.mismatch", f"The model has {width} classes, the list of labels {labels}.", classes=width, labels=labels)
    if width is None:
        log("The model does not say how many classes it has; the labels are checked after conversion.")
