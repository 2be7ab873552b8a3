"""ONNX models, turned into float TensorFlow Lite with channels last by onnx2tf. Runs in an environment of its own (requirements-onnx.txt),
without TensorFlow, and holds every result against ONNX Runtime: a layout that was understood wrongly shows up as other answers."""

import contextlib
import io
import os
from pathlib import Path
from typing import List, Optional, Sequence

from .events import progress, refuse

#: Float arithmetic in another order; a wrong layout is off by much more.
MOST_ERROR = 1e-3


def convert(source: Path, name: str, given: Optional[Sequence[int]], output: Path, scratch: Path) -> float:
    """Writes the float model and returns the largest difference of its answers. Raises ConvertError `source.*`, `convert.*`."""
    import onnx

    progress("load", 5, "loading the ONNX model")
    try:
        model = onnx.load_model_from_string(source.read_bytes())
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise many types
        weights_elsewhere = any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer) if "model" in locals() else False
        hint = " Its weights lie in another file: save it as one file (onnx.save_model without external data)." if weights_elsewhere else ""
        refuse("source.not_a_model", f"{name} is not a whole ONNX model: {_short(error)}{hint}")
    _refuse_foreign(model, name)
    shapes = _fix(model, given)
    scratch.mkdir(parents=True, exist_ok=True)
    fixed = scratch / "fixed.onnx"
    onnx.save(model, str(fixed))
    _onnx2tf(fixed, scratch / "converted", name)
    float_model = scratch / "converted" / "fixed_float32.tflite"
    progress("check", 80, "comparing with ONNX Runtime")
    error = _difference(fixed, float_model, shapes)
    if error > MOST_ERROR:
        refuse("convert.onnx_differs", f"{name} answers differently after onnx2tf: up to {error:.2g} on random input. Export the model to TensorFlow instead, or from a simpler graph (opset 17, onnxsim).", maxError=error)
    output.write_bytes(float_model.read_bytes())
    return error


def _refuse_foreign(model, name: str) -> None:
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        refuse("source.onnx_operators", f"{name} uses operators that are not ONNX's own: {', '.join(foreign)}. Export it without them.", operators=foreign)


def _fix(model, given: Optional[Sequence[int]]) -> List[List[int]]:
    """Closes what the inputs leave open, so that no shape arithmetic is left in the result: batch 1, the rest as given."""
    import onnx

    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    shapes = []
    for index, tensor in enumerate(inputs):
        dims = tensor.type.tensor_type.shape.dim
        wanted = list(given) if given and index == 0 else []
        if wanted and len(wanted) == len(dims) - 1:
            wanted = [1, *wanted]
        if wanted and len(wanted) != len(dims):
            refuse("source.shape_differs", f"The input {tensor.name} has {len(dims)} dimensions, the given shape {wanted} has {len(wanted)}. Give it as the ONNX model has it, channels first.")
        for axis, dim in enumerate(dims):
            if axis == 0:
                dim.dim_value = 1
            elif wanted and dim.dim_value in (0, wanted[axis]):
                dim.dim_value = wanted[axis]
            elif wanted:
                refuse("source.shape_differs", f"The input {tensor.name} has size {dim.dim_value} in dimension {axis}; {wanted} does not fit. Give it as the ONNX model has it, channels first.")
            elif dim.dim_value == 0:
                refuse("source.shape_unknown", f"The model leaves the size of its input {tensor.name} open. Give it with --input-shape as the ONNX model has it, such as 1,3,224,224.", input=tensor.name)
        shapes.append([dim.dim_value for dim in dims])
    if not shapes:
        refuse("source.not_a_model", "The ONNX model has no input.")
    # What was inferred for open sizes.
    del model.graph.value_info[:]
    for tensor in model.graph.output:
        tensor.type.tensor_type.ClearField("shape")
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    return shapes


def _onnx2tf(source: Path, folder: Path, name: str) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    import onnx2tf

    progress("convert", 20, "converting to TensorFlow Lite, channels last")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            onnx2tf.convert(input_onnx_file_path=str(source), output_folder_path=str(folder), batch_size=1, not_use_onnxsim=True, non_verbose=True)
    except (Exception, SystemExit) as error:  # it ends the process on some faults
        refuse("convert.onnx_failed", f"onnx2tf cannot convert {name}: {_short(error) or 'it did not say why'}")


def _difference(source: Path, converted: Path, shapes: List[List[int]]) -> float:
    import numpy as np
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    interpreter = Interpreter(str(converted))
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    values = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    expected = session.run(None, {one.name: value for one, value in zip(session.get_inputs(), values)})
    details = {one["name"].split(":")[0]: one for one in interpreter.get_input_details()}
    for index, (one, value) in enumerate(zip(session.get_inputs(), values)):
        detail = details.get(one.name) or interpreter.get_input_details()[index]
        if list(detail["shape"]) != list(value.shape):
            # Images: channels last.
            value = np.moveaxis(value, 1, -1)
        if list(detail["shape"]) != list(value.shape):
            refuse("convert.onnx_differs", f"The input {one.name} came out with the shape {list(detail['shape'])}, which is not the original's with channels last.")
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    worst = 0.0
    for index, (detail, wanted) in enumerate(zip(interpreter.get_output_details(), expected)):
        got = interpreter.get_tensor(detail["index"])
        if got.shape != wanted.shape and wanted.ndim > 2:
            wanted = np.moveaxis(wanted, 1, -1)
        if got.size != wanted.size:
            refuse("convert.onnx_differs", f"Output {index} came out with the shape {list(got.shape)}, the original's is {list(wanted.shape)}.")
        # Relative where answers are large.
        worst = max(worst, float(np.max(np.abs(got.reshape(wanted.shape) - wanted)) / max(1.0, float(np.max(np.abs(wanted))))))
    return worst


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
