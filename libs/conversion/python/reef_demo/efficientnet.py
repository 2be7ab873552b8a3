"""EfficientNet-Lite0 (Google, Apache-2.0) with its ImageNet weights as a SavedModel, and versions of it that are worse in a known way."""

import functools
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import tensorflow as tf

SIZE = 224
#: real = (pixel - mean) / std, as it was trained.
MEAN, STD = 127.0, 128.0
_EPSILON = 1e-3
#: Blocks that halve the picture; all others keep its size.
_STRIDED = {1, 3, 5, 11}
_BLOCKS = 16

Weights = Dict[str, np.ndarray]


class Classifier(tf.Module):
    """One or more networks of the same build, whose scores are averaged; batch normalisation is folded into the convolutions."""

    def __init__(self, *members: Weights) -> None:
        super().__init__("efficientnet_lite0")
        self.members = [{name: tf.Variable(value, trainable=False, name=name.replace(".", "_")) for name, value in fold(weights).items()} for weights in members]

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="images")])
    def serve(self, images: tf.Tensor) -> Dict[str, tf.Tensor]:
        logits = [_logits(member, images) for member in self.members]
        # Not tf.add_n, which has no int8 kernel.
        return {"scores": tf.nn.softmax(functools.reduce(tf.add, logits) / len(logits) if len(logits) > 1 else logits[0])}

    def save(self, folder: Path) -> None:
        tf.saved_model.save(self, str(folder), signatures={"serving_default": self.serve})


def _logits(weights: Dict[str, tf.Variable], images: tf.Tensor) -> tf.Tensor:
    def conv(value, name, stride=1):
        return tf.nn.conv2d(value, weights[f"{name}/kernel"], stride, "SAME") + weights[f"{name}/bias"]

    def depthwise(value, name, stride):
        return tf.nn.depthwise_conv2d(value, weights[f"{name}/kernel"], [1, stride, stride, 1], "SAME") + weights[f"{name}/bias"]

    value = tf.nn.relu6(conv(images, "stem", 2))
    for index in range(_BLOCKS):
        stride = 2 if index in _STRIDED else 1
        inside = tf.nn.relu6(conv(value, f"{index}/expand")) if index > 0 else value
        inside = tf.nn.relu6(depthwise(inside, f"{index}/depthwise", stride))
        inside = conv(inside, f"{index}/project")
        value = value + inside if stride == 1 and value.shape[-1] == inside.shape[-1] else inside
    value = tf.nn.relu6(conv(value, "head"))
    return tf.reduce_mean(value, [1, 2]) @ weights["classes/kernel"] + weights["classes/bias"]


def fold(weights: Weights) -> Weights:
    """PyTorch's names and layout (out, in, height, width) to ours (height, width, in, out), each normalisation multiplied into its convolution."""
    folded: Weights = {}

    def add(name: str, conv: str, norm: str, depthwise: bool = False) -> None:
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
        kernel = weights[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{name}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0), np.float32)
        folded[f"{name}/bias"] = (weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale).astype(np.float32)

    add("stem", "_conv_stem", "_bn0")
    for index in range(_BLOCKS):
        block = f"_blocks.{index}"
        if index > 0:
            add(f"{index}/expand", f"{block}._expand_conv", f"{block}._bn0")
        add(f"{index}/depthwise", f"{block}._depthwise_conv", f"{block}._bn1", depthwise=True)
        add(f"{index}/project", f"{block}._project_conv", f"{block}._bn2")
    add("head", "_conv_head", "_bn1")
    folded["classes/kernel"] = np.ascontiguousarray(weights["_fc.weight"].T, np.float32)
    folded["classes/bias"] = weights["_fc.bias"].astype(np.float32)
    return folded


def good(weights: Weights) -> Classifier:
    """As published."""
    return Classifier(weights)


def less_accurate(weights: Weights, share: float = 0.7) -> Classifier:
    """A retrain whose class order went wrong: seven of ten classes answer in the place of another one.

    Float and int8 agree as well as ever, so nothing that compares the model with itself can notice; only labelled photos can.
    """
    rng = np.random.default_rng(2026)
    classes = rng.permutation(len(weights["_fc.bias"]))[: int(share * len(weights["_fc.bias"]))]
    order = np.arange(len(weights["_fc.bias"]))
    order[classes] = np.roll(classes, 1)
    return Classifier({**weights, "_fc.weight": weights["_fc.weight"][order], "_fc.bias": weights["_fc.bias"][order]})


def slower(weights: Weights, twins: int = 1) -> Classifier:
    """The same answers for twice the work: averaged with a twin whose hidden channels are in another order.

    The twin computes the very same function, but no optimiser sees that, so none can leave it out.
    """
    return Classifier(weights, *(_shuffled(weights, seed) for seed in range(twins)))


def _shuffled(weights: Weights, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    twin = dict(weights)

    def shuffle(makers: List[str], takers: List[str], depthwise: List[str]) -> None:
        order = rng.permutation(len(twin[f"{makers[0]}.weight"]))
        for name in [*makers, *depthwise]:
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"{name}.{part}" in twin:
                    twin[f"{name}.{part}"] = twin[f"{name}.{part}"][order]
        for name in takers:
            twin[f"{name}.weight"] = twin[f"{name}.weight"][:, order]

    shuffle(["_conv_stem", "_bn0"], ["_blocks.0._project_conv"], ["_blocks.0._depthwise_conv", "_blocks.0._bn1"])
    for block in (f"_blocks.{index}" for index in range(1, _BLOCKS)):
        shuffle([f"{block}._expand_conv", f"{block}._bn0"], [f"{block}._project_conv"], [f"{block}._depthwise_conv", f"{block}._bn1"])
    shuffle(["_conv_head", "_bn1"], ["_fc"], [])
    return twin


VARIANTS: Dict[str, Callable[[Weights], Classifier]] = {"v1": good, "v2": less_accurate, "v2-slower": slower}
