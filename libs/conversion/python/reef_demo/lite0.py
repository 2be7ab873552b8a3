"""EfficientNet-Lite0 in Keras (Tan and Le 2019; the Lite variant: ReLU6, no squeeze-and-excite, stem and head not scaled)."""

from typing import Dict

import numpy as np

SIZE = 224
MEAN = [127.0, 127.0, 127.0]
STD = [128.0, 128.0, 128.0]
EPSILON = 1e-3

#: kernel, first stride, expansion, filters, repeats
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]


def build(state: Dict[str, np.ndarray]):
    """The model with the weights of `state`, named as in the PyTorch port: input [None, 224, 224, 3], softmax over 1000 classes."""
    import tensorflow as tf

    layers = tf.keras.layers
    used = set()

    def weight(name: str) -> np.ndarray:
        used.add(name)
        return state[name]

    def convolve(x, name: str, norm: str, stride: int = 1, activate: bool = True):
        kernel = weight(f"{name}.weight")
        # TensorFlow's SAME padding, also where the stride is 2: the weights were trained there, and the port pads the same way.
        if "depthwise" in name:
            layer = layers.DepthwiseConv2D(kernel.shape[-1], strides=stride, padding="same", use_bias=False)
            kernel = kernel.transpose(2, 3, 0, 1)  # channels, 1, height, width
        else:
            layer = layers.Conv2D(kernel.shape[0], kernel.shape[-1], strides=stride, padding="same", use_bias=False)
            kernel = kernel.transpose(2, 3, 1, 0)  # out, in, height, width
        x = layer(x)
        layer.set_weights([kernel])
        normalise = layers.BatchNormalization(epsilon=EPSILON)
        x = normalise(x)
        normalise.set_weights([weight(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")])
        return layers.ReLU(6.0)(x) if activate else x

    image = layers.Input([SIZE, SIZE, 3], name="image")
    x = convolve(image, "_conv_stem", "_bn0", 2)
    block = 0
    for _, first_stride, expansion, filters, repeats in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            name = f"_blocks.{block}"
            entry = x
            if expansion != 1:
                x = convolve(x, f"{name}._expand_conv", f"{name}._bn0")
            x = convolve(x, f"{name}._depthwise_conv", f"{name}._bn1", stride)
            x = convolve(x, f"{name}._project_conv", f"{name}._bn2", activate=False)
            if stride == 1 and entry.shape[-1] == filters:
                x = layers.Add()([x, entry])
            block += 1
    x = convolve(x, "_conv_head", "_bn1")
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(1000, activation="softmax", name="probability")
    x = head(x)
    head.set_weights([weight("_fc.weight").T, weight("_fc.bias")])
    left = {name for name in state if not name.endswith("num_batches_tracked")} - used
    if left:
        raise ValueError(f"weights without a place: {', '.join(sorted(left)[:5])}")
    return tf.keras.Model(image, x, name="efficientnet_lite0")
