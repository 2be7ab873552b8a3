"""A small classifier with weights set by hand (which of red, green and blue is strongest), and pictures for it. Usage: colour-model.py FOLDER"""

import csv
import random
import sys
import tarfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

folder = Path(sys.argv[1])
names = ["red", "green", "blue"]


class Colours(tf.Module):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(7)
        centre = np.zeros((3, 3, 3, 3), np.float32)
        centre[1, 1] = np.eye(3)
        self.kernel = tf.Variable(centre + rng.normal(0, 0.02, centre.shape).astype(np.float32))
        self.head = tf.Variable(4 * np.eye(3, dtype=np.float32))
        self.bias = tf.Variable(np.array([0.01, 0.0, -0.01], np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, name="images")])
    def __call__(self, images):
        features = tf.nn.relu(tf.nn.conv2d(images, self.kernel, 1, "SAME"))
        return {"scores": tf.nn.softmax(tf.reduce_mean(features, [1, 2]) @ self.head + self.bias)}


model = Colours()
tf.saved_model.save(model, str(folder / "model"), signatures=model.__call__)
with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
    archive.add(folder / "model", "model")

pictures = folder / "pictures"
pictures.mkdir()
random.seed(7)
rows = []
for index in range(60):
    label = index % 3
    colour = [random.randrange(0, 90) for _ in names]
    colour[label] = random.randrange(170, 256)
    noise = np.random.default_rng(index).integers(-30, 31, (40, 48, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(pictures / f"{index:03}.png")
    rows.append({"file": f"{index:03}.png", "label": names[label]})
with open(pictures / "labels.csv", "w", newline="") as file:
    table = csv.DictWriter(file, ["file", "label"])
    table.writeheader()
    table.writerows(rows)
with tarfile.open(folder / "pictures.tar.gz", "w:gz") as archive:
    archive.add(pictures, "pictures")
# The same pictures, many times: a conversion that lasts long enough to be killed or cancelled in the midst of it.
small = [np.asarray(Image.open(one).resize((32, 32)), np.float32) / 127.5 - 1 for one in sorted(pictures.glob("*.png"))]
np.savez_compressed(folder / "many.npz", images=np.tile(np.stack(small), (50, 1, 1, 1)))
