"""Every kind of source as one thing: a float function with static shapes, batch 1, named inputs and outputs in a fixed order."""

import importlib.util
import json
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

from . import archives
from .events import progress, refuse
from .recurrent import is_recurrent, refuse_loops, unrolled
from .untrusted import refuse_file_operators, refuse_keras_code


@dataclass
class TensorDescription:
    name: str
    shape: List[Optional[int]]
    dtype: str


@dataclass
class Source:
    kind: str
    description: str
    inputs: List[TensorDescription]
    outputs: List[TensorDescription]
    signature: Optional[str] = None
    #: Makes the frozen concrete function for fully known input shapes.
    concrete: Optional[Callable[[Sequence[Sequence[int]]], Any]] = None
    #: Bytes of a float TFLite model, which has no function.
    tflite: Optional[bytes] = None
    #: What was changed to make it convertible, for the lineage.
    notes: List[str] = field(default_factory=list)

    def static_shapes(self, given: Optional[Sequence[int]]) -> List[List[int]]:
        """Input shapes with batch 1. `given` fills what the model leaves open in its first input."""
        shapes = []
        for index, tensor in enumerate(self.inputs):
            shape: List[Optional[int]] = list(tensor.shape)
            if index == 0 and given:
                wanted = list(given)
                if shape and len(wanted) == len(shape) - 1:
                    wanted = [1, *wanted]
                if shape and len(wanted) != len(shape):
                    refuse("source.shape_differs", f"The input {tensor.name} has {len(shape)} dimensions ({_show(shape)}), the given shape {_show(wanted)} has {len(wanted)}.")
                if any(own not in (None, want) for own, want in zip(shape[1:], wanted[1:])):
                    refuse("source.shape_differs", f"The input {tensor.name} has the shape {_show(shape)}; {_show(wanted)} does not fit.")
                shape = wanted
            if not shape:
                refuse("source.shape_unknown", f"The model does not say the shape of its input {tensor.name}. Give it with --input-shape, such as 1,224,224,3.", input=tensor.name)
            shape[0] = 1
            if any(size is None for size in shape):
                refuse("source.shape_unknown", f"The model leaves the size of its input {tensor.name} open: {_show(shape)}. Give it with --input-shape, such as 1,224,224,3.", input=tensor.name, shape=_show(shape))
            shapes.append([int(size) for size in shape])
        return shapes


def open_source(request: dict, scratch: Path) -> Source:
    """Recognises a source by its content, not its name. Raises ConvertError `source.*`."""
    path = Path(request["source"])
    name = request.get("filename") or path.name
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        refuse("source.not_a_model", f"{name} is empty. Push a SavedModel folder, a .keras or .h5 file, a frozen graph .pb or a .tflite file.")
    if path.is_file() and archives.is_archive(path):
        progress("unpack", message=f"unpacking {name}")
        path = archives.only_folder(archives.unpack(path, scratch / "source"))
    if path.is_dir():
        return _from_folder(path, name, request)
    return _from_file(path, name, request)


def _from_folder(folder: Path, name: str, request: dict) -> Source:
    found = sorted(folder.rglob("saved_model.pb"))
    if len(found) > 1:
        refuse("source.several_models", f"{name} holds {len(found)} SavedModels ({', '.join(str(one.parent.relative_to(folder)) for one in found[:4])}). Push the folder of one.")
    if found:
        return _saved_model(found[0].parent, request)
    files = [one for one in folder.rglob("*") if one.suffix in (".keras", ".h5", ".hdf5", ".pb", ".tflite")]
    if len(files) == 1:
        return _from_file(files[0], name, request)
    listing = ", ".join(sorted(one.name for one in folder.iterdir())[:8]) or "nothing"
    refuse("source.not_a_model", f"{name} holds no saved_model.pb and not exactly one model file; it holds {listing}. Push the folder that tf.saved_model.save or model.export wrote.")


def _from_file(path: Path, name: str, request: dict) -> Source:
    with open(path, "rb") as file:
        head = file.read(16)
    if head[4:8] == b"TFL3":
        return _tflite(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return _keras(path, _h5_generation(path))
    if zipfile.is_zipfile(path):
        return _keras(path, _keras_generation(path, name))
    if path.suffix == ".onnx" or name.endswith(".onnx"):
        refuse("source.onnx", f"{name} is an ONNX model. Push the .onnx file itself, not in an archive.")
    if path.suffix == ".pb" or name.endswith(".pb"):
        return _frozen_graph(path, name, request)
    refuse("source.not_a_model", f"{name} is not a model: it begins with {head[:8]!r}. Push a SavedModel folder (or archive of it), a .keras or .h5 file, a frozen graph .pb or a .tflite file.")


# --- SavedModel


def _saved_model(folder: Path, request: dict) -> Source:
    tf = tensorflow()
    progress("load", message="loading the SavedModel")
    # Before it is loaded: that already runs the graph's initialisers.
    refuse_file_operators(_graphs_of(folder))
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises many types here
        refuse("source.not_a_model", f"The SavedModel cannot be loaded: {_short(error)}")
    signatures = dict(loaded.signatures)
    wanted = request.get("signature")
    if wanted is None and "serving_default" in signatures:
        wanted = "serving_default"
    if wanted is None and len(signatures) == 1:
        wanted = next(iter(signatures))
    if wanted is None and not signatures and callable(loaded):
        return _callable(loaded)
    if wanted is None and not signatures:
        refuse("source.no_signature", "The SavedModel has no signature, so nothing says what goes in and out. Export it with model.export(path), or tf.saved_model.save(model, path, signatures=...).")
    if wanted is None or wanted not in signatures:
        refuse("source.signature_unknown", f"The SavedModel has the signatures {', '.join(sorted(signatures))}; name one with --signature.", signatures=sorted(signatures))
    function = signatures[wanted]
    specs = function.structured_input_signature[1]
    # They come out of a map in any order, another one in each process.
    names = sorted(specs)
    outputs = function.structured_outputs
    output_names = sorted(outputs)

    def concrete(shapes: Sequence[Sequence[int]]) -> Any:
        def call(*tensors):
            answers = function(**dict(zip(names, tensors)))
            return [answers[name] for name in output_names]

        return freeze(call, [tf.TensorSpec(shape, specs[name].dtype, name=name) for name, shape in zip(names, shapes)], keep=loaded)

    return Source(
        kind="saved_model", description=f"SavedModel, signature {wanted}", signature=wanted,
        inputs=[_described(name, specs[name]) for name in names], outputs=[_described(name, outputs[name]) for name in output_names], concrete=concrete,
    )


def _graphs_of(folder: Path) -> list:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except Exception as error:
        refuse("source.not_a_model", f"The SavedModel cannot be loaded: {_short(error)}")
    return [meta.graph_def for meta in saved.meta_graphs]


def _callable(loaded: Any) -> Source:
    """A model without signatures that can be called, as TensorFlow Hub has them: its traces say what it takes, as far as they do."""
    tf = tensorflow()
    traces = getattr(loaded.__call__, "concrete_functions", [])
    # Of a trace per value of `training`, the one for inference.
    traces = sorted(traces, key=lambda one: any(value is True for value in tf.nest.flatten([one.structured_input_signature[0][1:], list(one.structured_input_signature[1].values())])))
    specs = [one for one in tf.nest.flatten(traces[0].structured_input_signature) if isinstance(one, tf.TensorSpec)] if traces else []
    if len(specs) > 1:
        refuse("source.no_signature", f"The SavedModel has no signature and takes {len(specs)} inputs, whose order nothing says. Export it with tf.saved_model.save(model, path, signatures=...).")
    spec = specs[0] if specs else tf.TensorSpec(None, tf.float32)
    name = _plain(spec.name or "input")
    trained = any("training" in one.structured_input_signature[1] or len(one.structured_input_signature[0]) > 1 for one in traces)

    def concrete(shapes: Sequence[Sequence[int]]) -> Any:
        def call(tensor):
            return tf.nest.flatten(loaded(tensor, training=False) if trained else loaded(tensor))

        return freeze(call, [tf.TensorSpec(shapes[0], spec.dtype, name=name)], keep=loaded)

    outputs = [_described(f"output_{index}", one) for index, one in enumerate(tf.nest.flatten(traces[0].structured_outputs))] if traces else []
    return Source(kind="saved_model", description="SavedModel without a signature, called as it is", inputs=[_described(name, spec)], outputs=outputs, concrete=concrete)


# --- Keras


def _keras(path: Path, generation: int) -> Source:
    # Must be decided before TensorFlow is imported: it chooses the Keras that `tf.keras` is.
    own = importlib.util.find_spec("tf_keras") is None
    if generation == 2 and not own:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tf = tensorflow()
    if generation == 3 and own and not getattr(tf.keras, "__version__", "2").startswith("3"):
        refuse("source.keras_3", f"The file was written by Keras 3, which TensorFlow {tf.__version__} cannot read. Convert it with --converter tf2.21.")
    progress("load", message=f"loading the Keras {generation} model")
    suffix = ".keras" if zipfile.is_zipfile(path) else ".h5"
    if path.suffix != suffix:
        renamed = path.with_suffix(suffix)
        path.rename(renamed)
        path = renamed
    refuse_keras_code(path, suffix)
    try:
        # No compile state and safe mode: these files can hold code, which is never run.
        options = {} if generation == 2 and suffix == ".h5" else {"safe_mode": True}
        model = tf.keras.models.load_model(str(path), compile=False, **options)
    except Exception as error:
        refuse("source.not_a_model", f"The Keras file cannot be loaded: {_short(error)}")
    if not getattr(model, "inputs", None):
        refuse("source.shape_unknown", "The Keras model was saved before it was built, so it does not know its inputs. Call it once, or give it an Input layer, and save it again.")
    inputs = [TensorDescription(_plain(one.name), [None if size is None else int(size) for size in one.shape], _dtype(one)) for one in model.inputs]
    outputs = [TensorDescription(_plain(getattr(one, "name", f"output_{index}")), [None if size is None else int(size) for size in one.shape], _dtype(one)) for index, one in enumerate(model.outputs)]

    notes = [] if not is_recurrent(model) else ["Recurrent layers were unrolled over their fixed number of steps; each call starts from the layers' initial state."]

    def concrete(shapes: Sequence[Sequence[int]]) -> Any:
        fixed = unrolled(model, shapes) if notes else model

        def call(*tensors):
            answers = fixed(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
            return tf.nest.flatten(answers)

        return freeze(call, [tf.TensorSpec(shape, tf.as_dtype(tensor.dtype), name=tensor.name) for tensor, shape in zip(inputs, shapes)], keep=fixed)

    return Source(kind="keras", description=f"Keras {generation} model {model.name}", inputs=inputs, outputs=outputs, concrete=concrete, notes=notes)


def _keras_generation(path: Path, name: str) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json")).get("keras_version", "3")
    except (KeyError, ValueError, zipfile.BadZipFile):
        refuse("source.not_a_model", f"{name} is a zip file without a model in it.")
    return 2 if str(version).startswith("2") else 3


def _h5_generation(path: Path) -> int:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", b"2")
            if "model_config" not in file.attrs:
                refuse("source.weights_only", "The .h5 file holds weights without a model. Save the whole model: model.save(path).")
    except OSError as error:
        refuse("source.not_a_model", f"The .h5 file is damaged: {_short(error)}")
    text = version.decode() if isinstance(version, bytes) else str(version)
    return 3 if text.startswith("3") else 2


# --- frozen graph


def _frozen_graph(path: Path, name: str, request: dict) -> Source:
    tf = tensorflow()
    progress("load", message="loading the frozen graph")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except Exception as error:
        refuse("source.not_a_model", f"{name} is not a frozen graph: {_short(error)}")
    refuse_file_operators([graph_def])
    nodes = {node.name: node for node in graph_def.node}
    if any(node.op in ("VariableV2", "VarHandleOp") for node in graph_def.node):
        refuse("source.not_frozen", f"{name} holds variables without values; freeze it first (convert_variables_to_constants).")
    consumed = {source.lstrip("^").split(":")[0] for node in graph_def.node for source in node.input}
    inputs = [request["inputName"].split(":")[0]] if request.get("inputName") else [node.name for node in graph_def.node if node.op == "Placeholder"]
    outputs = [one.split(":")[0] for one in request.get("outputNames") or []] or [node.name for node in graph_def.node if node.name not in consumed and node.op not in ("NoOp", "Const", "Placeholder", "Assert")]
    missing = [one for one in [*inputs, *outputs] if one not in nodes]
    if missing or not inputs or not outputs:
        refuse("source.tensor_unknown", f"The graph has no node {', '.join(missing)}." if missing else "The graph's inputs or outputs are not evident; name them.", nodes=[node.name for node in graph_def.node][-20:])

    def wrapped():
        return tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])

    def prune(function):
        return function.prune([function.graph.as_graph_element(f"{one}:0") for one in inputs], [function.graph.as_graph_element(f"{one}:0") for one in outputs])

    try:
        pruned = prune(wrapped())
    except Exception as error:
        refuse("source.not_a_model", f"{name} cannot be imported: {_short(error)}")

    def concrete(shapes: Sequence[Sequence[int]]) -> Any:
        return freeze(lambda *tensors: tf.nest.flatten(pruned(*tensors)), [tf.TensorSpec(shape, tensor.dtype, name=tensor.op.name) for tensor, shape in zip(pruned.inputs, shapes)], keep=pruned)

    return Source(
        kind="frozen_graph", description=f"frozen graph, {', '.join(inputs)} to {', '.join(outputs)}",
        inputs=[_described(one, tensor) for one, tensor in zip(inputs, pruned.inputs)], outputs=[_described(one, tensor) for one, tensor in zip(outputs, pruned.outputs)], concrete=concrete,
    )


# --- float TFLite


def _tflite(path: Path) -> Source:
    tf = tensorflow()
    content = path.read_bytes()
    try:
        interpreter = tf.lite.Interpreter(model_content=content)
    except Exception as error:
        refuse("source.not_a_model", f"The .tflite file cannot be loaded: {_short(error)}")

    def described(detail: dict) -> TensorDescription:
        return TensorDescription(detail["name"], [int(size) if size > 0 else None for size in detail["shape_signature"]], detail["dtype"].__name__)

    return Source(
        kind="tflite_float", description="float TFLite model", inputs=[described(one) for one in interpreter.get_input_details()],
        outputs=[described(one) for one in interpreter.get_output_details()], tflite=content,
    )


# --- common


def tensorflow():
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    return tf


class _Frozen:
    """A frozen function with the object that owns its variables, which must outlive it."""

    def __init__(self, function: Any, keep: Any) -> None:
        self.function = function
        self.keep = keep


def freeze(call: Callable, specs: Sequence[Any], keep: Any) -> "_Frozen":
    """Static shapes and constants instead of variables: the converter then leaves no dynamic dimension and no resource behind."""
    tf = tensorflow()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    progress("trace", message="tracing with batch 1")
    # Slashes and the like would come back as something else, and names are what inputs are found by.
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=re.sub(r"[^A-Za-z0-9_.]", "_", spec.name)) for spec in specs]
    try:
        traced = tf.function(call, autograph=False).get_concrete_function(*specs)
        frozen = convert_variables_to_constants_v2(traced)
    except Exception as error:
        refuse("source.shape_refused", f"The model does not take the input {', '.join(_show(spec.shape) for spec in specs)}: {_short(error)}")
    refuse_loops(frozen.graph.as_graph_def())
    return _Frozen(frozen, keep)


def _described(name: str, spec: Any) -> TensorDescription:
    rank = spec.shape.rank
    return TensorDescription(name, [] if rank is None else [None if size is None else int(size) for size in spec.shape], spec.dtype.name)


def _plain(name: str) -> str:
    return name.split(":")[0]


def _dtype(tensor: Any) -> str:
    return tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name


def _show(shape: Sequence[Any]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:600] + ("..." if len(text) > 600 else "")
