"""Full-integer quantisation, and the original's own answers to compare with."""

import inspect
from pathlib import Path
from typing import List, Sequence

from .events import ConvertError, progress, refuse
from .samples import Samples, sameness
from .sources import Source, _short, tensorflow


def convert(source: Source, shapes: List[List[int]], calibration: Samples, output: Path, io_type: str, allow_float_ops: bool) -> List[str]:
    """Writes the int8 model to `output` and returns warnings. Raises ConvertError `convert.*`."""
    warnings: List[str] = list(source.notes)
    if calibration.count < 20:
        warnings.append(f"The calibration set has only {calibration.count} samples; activation ranges may be too narrow. 100 or more are good.")
    same = sameness(calibration)
    if same:
        warnings.append(same)
    data = _from_tflite(source, shapes, calibration, allow_float_ops) if source.tflite is not None else _from_function(source, shapes, calibration, io_type, allow_float_ops)
    progress("check", 96, "checking that everything is int8")
    warnings += check(data, io_type, allow_float_ops)
    progress("write", 98, "writing the model")
    part = output.with_suffix(".part")
    part.write_bytes(data)
    part.rename(output)
    return warnings


def _from_function(source: Source, shapes: List[List[int]], calibration: Samples, io_type: str, allow_float_ops: bool) -> bytes:
    tf = tensorflow()
    frozen = source.concrete(shapes)
    # An empty module as owner: nothing but the frozen function is written on the way, and it gets a signature whatever the source was.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen.function], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    names = [tensor.op.name for tensor in frozen.function.inputs]
    converter.representative_dataset = lambda: _counted(calibration, frozen.function.inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, *([tf.lite.OpsSet.TFLITE_BUILTINS] if allow_float_ops else [])]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io_type)
    # From 2.19 on dense layers get one weight scale per channel by default, still labelled version 4: older runtimes load that without a
    # word and answer garbage.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    progress("convert", 10, "converting to TensorFlow Lite")
    try:
        return in_order(converter.convert(), names, len(frozen.function.outputs))
    except ConvertError:
        raise
    except Exception as error:
        refuse("convert.failed", f"TensorFlow cannot quantise this model to int8: {_short(error)}")


def in_order(model: bytes, inputs: Sequence[str], outputs: int) -> bytes:
    """The converter shuffles inputs and outputs, and only the signature it writes says which is which. Puts them back in the source's order."""
    from tensorflow.lite.python import schema_py_generated as schema

    data = bytearray(model)
    root = schema.Model.GetRootAs(data, 0)
    graph = root.Subgraphs(0)
    for order, wanted, count, entry in (
        (graph.InputsAsNumpy(), list(inputs), "InputsLength", "Inputs"),
        (graph.OutputsAsNumpy(), [f"output_{index}" for index in range(outputs)], "OutputsLength", "Outputs"),
    ):
        if len(wanted) < 2:
            continue
        signature = root.SignatureDefs(0) if root.SignatureDefsLength() == 1 else None
        entries = [getattr(signature, entry)(index) for index in range(getattr(signature, count)())] if signature else []
        tensors = {one.Name().decode(): one.TensorIndex() for one in entries}
        if set(tensors) != set(wanted) or sorted(tensors.values()) != sorted(order.tolist()):
            refuse("convert.order_lost", f"The converter does not say which of the converted model's {entry.lower()} is which ({', '.join(sorted(tensors))}). Rename them to plain, different names.")
        # The vector lies in the file as it is: a permutation of it needs no other byte to change.
        order[:] = [tensors[name] for name in wanted]
    return bytes(data)


def closed(model: bytes, shapes: Sequence[Sequence[int]]) -> bytes:
    """The model with exactly these input shapes, and no size left open anywhere: devices do not resize. Raises ConvertError `source.shape_refused`."""
    tf = tensorflow()
    from tensorflow.lite.python import schema_py_generated as schema

    interpreter = tf.lite.Interpreter(model_content=model, experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    try:
        for detail, shape in zip(interpreter.get_input_details(), shapes):
            interpreter.resize_tensor_input(detail["index"], shape)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        refuse("source.shape_refused", f"The model does not take the input {', '.join(map(str, shapes))}: {_short(error)}")
    sizes = {detail["index"]: detail["shape"] for detail in interpreter.get_tensor_details()}
    data = bytearray(model)
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        for vector in (tensor.ShapeAsNumpy(), tensor.ShapeSignatureAsNumpy()):
            # The vectors lie in the file as they are (numpy views of it); where there is none, 0 comes back.
            if not isinstance(vector, int) and index in sizes and len(vector) == len(sizes[index]):
                vector[:] = sizes[index]
    return bytes(data)


def _from_tflite(source: Source, shapes: List[List[int]], calibration: Samples, allow_float_ops: bool) -> bytes:
    tf = tensorflow()
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    progress("convert", 10, "quantising the float TFLite model")
    # TensorFlow 2.15 does not know the option, nor does it what the option stops.
    option = "disable_per_channel_quantization_for_dense_layers"
    per_tensor = {option: True} if option in inspect.signature(Calibrator.calibrate_and_quantize).parameters else {}
    try:
        return Calibrator(closed(source.tflite, shapes)).calibrate_and_quantize(
            lambda: _counted(calibration, None), tf.int8, tf.int8, allow_float_ops, **per_tensor
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
            # Several go by name, since the converter's own order is another.
            if len(sample) > 1:
                sample = {tensor.op.name: array for array, tensor in zip(sample, tensors)}
        yield sample
    progress("quantise", 92, "quantising")


def check(model: bytes, io_type: str, allow_float_ops: bool) -> List[str]:
    """The converter says done with models that are wrong or not all int8. Returns warnings, raises ConvertError `convert.*`."""
    tf = tensorflow()
    import numpy as np

    try:
        interpreter = tf.lite.Interpreter(model_content=model, experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        refuse("convert.not_loadable", f"TensorFlow Lite cannot load its own conversion of this model: {_short(error)}")
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    border: List[str] = []
    for detail in [*interpreter.get_input_details(), *interpreter.get_output_details()]:
        if any(size < 1 for size in detail["shape_signature"]):
            refuse("convert.dynamic_shape", f"The size of {detail['name']} depends on the input: {list(detail['shape_signature'])}. Devices need fixed sizes; cut off what selects or filters (such as non-maximum suppression) and do it outside of the model.")
        if detail["dtype"] is np.float32:
            if allow_float_ops:
                border.append(f"{detail['name']}, shape {detail['shape'].tolist()}, stays float although {io_type} was asked for: it is converted on the device's CPU for every frame.")
                continue
            refuse("convert.float_border", f"{detail['name']} stays float although {io_type} was asked for. The model's first or last operator cannot be quantised; cut it off and do it outside of the model, or allow float parts.")
    islands = []
    for op in interpreter._get_ops_details():
        if op["op_name"] == "FULLY_CONNECTED" and len(tensors[op["inputs"][1]]["quantization_parameters"]["scales"]) > 1:
            refuse("convert.per_channel_dense", "A dense layer came out with one weight scale per channel, which the devices' runtime computes wrongly without saying so. This is a fault of the TensorFlow in use; use the pinned one.")
        if op["op_name"] not in ("QUANTIZE", "DEQUANTIZE") and any(index in tensors and tensors[index]["dtype"] is np.float32 for index in op["outputs"]):
            islands.append(op["op_name"])
    if not islands:
        return border
    kinds = ", ".join(f"{name} ({islands.count(name)}x)" if islands.count(name) > 1 else name for name in sorted(set(islands)))
    message = f"TensorFlow left these operators in float: {kinds}. They cannot run on an Edge TPU, nor can what comes after them."
    if not allow_float_ops:
        refuse("convert.float_ops", f"{message} Replace them (such as ELU by ReLU6, LayerNormalization by BatchNormalization), or allow float parts.", operators=sorted(set(islands)))
    return [*border, message]


def evaluate(source: Source, shapes: List[List[int]], samples: Samples, output: Path) -> None:
    """Runs the float original on every sample, and writes `input_<i>` and `output_<i>` arrays (samples first) to an .npz."""
    import numpy as np

    check_labels(source, samples)
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


def check_labels(source: Source, samples: Samples) -> None:
    """Labels that are numbers must be classes of the model. Raises ConvertError `samples.labels_mismatch`."""
    shape = source.outputs[0].shape if source.outputs else []
    width = shape[-1] if len(shape) == 2 else None
    wrong = sorted({int(label) for label in samples.labels if label is not None and label.isdigit() and width is not None and int(label) >= width})
    if wrong:
        refuse("samples.labels_mismatch", f"The samples are labelled with class {wrong[-1]}, and the model has the classes 0 to {width - 1}. Is labels.csv of another model?", classes=width, labels=wrong[:20])
