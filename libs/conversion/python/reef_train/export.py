"""The base with its new last layer as a SavedModel, and the images as calibration and evaluation samples."""

import csv
import io
import tarfile
from pathlib import Path
from typing import List

from reef_convert.events import ConvertError


def save(base, kernel, bias, output: Path, scratch: Path, samples: list) -> None:
    """A tar of the SavedModel. `samples` are (input, expected class): what was written is asked again before it is believed."""
    import numpy as np
    import tensorflow as tf

    class Retrained(tf.Module):
        def __init__(self):
            super().__init__("retrained")
            self.embed = base.embed
            self.kernel = tf.Variable(kernel, trainable=False, name="head_kernel")
            self.bias = tf.Variable(bias, trainable=False, name="head_bias")

        @tf.function(input_signature=[tf.TensorSpec(base.shape, tf.float32, name="images")])
        def serve(self, images):
            return {"scores": tf.nn.softmax(vector(self.embed(images), base.features) @ self.kernel + self.bias)}

    module = Retrained()
    folder = scratch / "retrained"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    again = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for image, expected in samples:
        if int(np.argmax(again(images=tf.constant(image))["scores"])) != expected:
            raise ConvertError("train.export_differs", "The exported model answers otherwise than the trained one.", "bug")
    with tarfile.open(output, "w") as archive:
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            _add(archive, f"saved_model/{file.relative_to(folder)}", file.read_bytes())


def vector(embedding, features: int):
    """[1, features] of what the base gives: a vector in any shape, or feature maps, whose mean is taken."""
    import tensorflow as tf

    if embedding.shape.rank == 4 and embedding.shape[1] * embedding.shape[2] > 1:
        embedding = tf.reduce_mean(embedding, [1, 2])
    return tf.reshape(embedding, [1, features])


def pack(pictures: List, output: Path, labels: bool, limit: int) -> int:
    """At most `limit`, evenly over the whole; with labels.csv for evaluation."""
    chosen = pictures if len(pictures) <= limit else [pictures[index * len(pictures) // limit] for index in range(limit)]
    rows = [("file", "label")]
    with tarfile.open(output, "w") as archive:
        for index, picture in enumerate(chosen):
            name = f"{index:05}{picture.path.suffix.lower()}"
            _add(archive, name, picture.path.read_bytes())
            rows.append((name, picture.label))
        if labels:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            _add(archive, "labels.csv", text.getvalue().encode())
    return len(chosen)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # Nothing of this machine or hour: the same content is the same archive.
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(content))
