import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Before TensorFlow is imported by anything: it prints a page about the processor otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

PACKAGE = Path(__file__).resolve().parent.parent
SIZE = 16
NAMES = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def _seeded():
    """Initial weights are the same at every run; an unlucky draw is no finding."""
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].keras.utils.set_random_seed(7)


@pytest.fixture
def preprocessing() -> dict:
    return {"kind": "image", "width": SIZE, "height": SIZE, "channels": 3, "resize": "stretch", "mean": [127.5], "std": [127.5]}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Thirty small pictures in three colours, with labels.csv."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    rows = []
    for index in range(30):
        pixels = rng.integers(0, 80, (20, 24, 3))
        pixels[..., index % 3] += 140
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
        rows.append((f"{index:02}.png", NAMES[index % 3]))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """A SavedModel that tells red, green and blue apart, with an open batch and one signature."""
    import tensorflow as tf

    class Colours(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(np.random.default_rng(1).normal(0, 0.1, (3, 3, 3, 4)).astype(np.float32) + np.eye(3, 4, dtype=np.float32) / 9)
            self.head = tf.Variable(np.random.default_rng(2).normal(0, 0.1, (4, 3)).astype(np.float32) + 6 * np.eye(4, 3, dtype=np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="images")])
        def serve(self, images):
            features = tf.nn.relu6(tf.nn.conv2d(images + 1, self.kernel, 2, "SAME"))
            return {"scores": tf.nn.softmax(tf.reduce_mean(features, [1, 2]) @ self.head)}

    folder = tmp_path_factory.mktemp("colours") / "model"
    model = Colours()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
    return folder


def run_command(command: str, request: dict, folder: Path) -> dict:
    """One command as the worker runs it: a child process, its events, its exit status."""
    file = folder / f"{command}.json"
    file.write_text(json.dumps(request))
    done = subprocess.run(
        [sys.executable, "-m", "reef_convert", command, "--request", str(file)], capture_output=True, text=True, timeout=600, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "HOME": str(folder), "TMPDIR": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {"status": done.returncode, "events": events, "last": events[-1] if events else None, "stderr": done.stderr}
