import csv
import io
import pickle
from collections import Counter

import numpy as np
import pytest

from conftest import PACKAGE
from reef_demo import efficientnet
from reef_demo.names import class_names
from reef_demo.weights import read_checkpoint


def random_weights():
    """Of EfficientNet-Lite0's shapes, in PyTorch's names and layout."""
    rng = np.random.default_rng(1)
    weights = {}

    def conv(name, norm, *shape):
        weights[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            weights[f"{norm}.{part}"] = rng.uniform(low, low + 0.5, shape[0]).astype(np.float32)

    conv("_conv_stem", "_bn0", 32, 3, 3, 3)
    width = 32
    stages = [(1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192), (1, 3, 6, 320)]
    blocks = [(kernel, expand, out) for repeat, kernel, expand, out in stages for _ in range(repeat)]
    for index, (kernel, expand, out) in enumerate(blocks):
        block = f"_blocks.{index}"
        if expand > 1:
            conv(f"{block}._expand_conv", f"{block}._bn0", width * expand, width, 1, 1)
        conv(f"{block}._depthwise_conv", f"{block}._bn1", width * expand, 1, kernel, kernel)
        conv(f"{block}._project_conv", f"{block}._bn2", out, width * expand, 1, 1)
        width = out
    conv("_conv_head", "_bn1", 1280, 320, 1, 1)
    weights["_fc.weight"] = rng.normal(0, 0.3, (1000, 1280)).astype(np.float32)
    weights["_fc.bias"] = np.zeros(1000, np.float32)
    return weights


def test_the_slower_version_answers_alike_and_the_less_accurate_one_does_not():
    weights = random_weights()
    images = np.random.default_rng(2).uniform(-1, 1, (2, efficientnet.SIZE, efficientnet.SIZE, 3)).astype(np.float32)
    models = [make(weights) for make in (efficientnet.good, efficientnet.slower, efficientnet.less_accurate)]
    good, slow, worse = (model.serve(images)["scores"].numpy() for model in models)
    assert np.abs(good - slow).max() < 1e-4
    assert np.allclose(np.sort(good), np.sort(worse), atol=1e-6) and not np.allclose(good, worse), "the same scores, at other classes"


def test_a_checkpoint_may_not_name_what_it_likes():
    stream = io.BytesIO(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({}) + pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        read_checkpoint(stream)


def test_two_classes_of_one_name_can_be_told_apart():
    assert class_names(["a", "b", "c"], {"a": "crane", "b": "tench, Tinca tinca", "c": "crane, lifter"}) == ["crane", "tench", "crane 2"]


def test_the_table_of_photographs():
    with open(PACKAGE / "reef_demo/photos.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert max(Counter((row["source"], row["file"]) for row in rows).values()) == 1
    assert all(0 <= int(row["class"]) < 1000 for row in rows)
    assert Counter(row["split"] for row in rows)["frames"] >= 30 and {row["split"] for row in rows} == {"frames", "evaluation"}
