import csv
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import NAMES, PACKAGE, SIZE
from reef_convert.events import ConvertError
from reef_train import dataset, head

SAMPLES = 12


@pytest.fixture(scope="session")
def garden(tmp_path_factory) -> Path:
    """A folder per class with cloudy pictures of its colour."""
    from PIL import Image

    root = tmp_path_factory.mktemp("garden") / "garden"
    rng = np.random.default_rng(5)
    for index, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(SAMPLES):
            pattern = rng.integers(0, 130, (5, 6, 3))
            pattern[..., index] += 100
            Image.fromarray(pattern.astype(np.uint8)).resize((60, 50), Image.Resampling.BICUBIC).save(root / name / f"{number:02}.png")
    return root


def copy(source: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(source, target)
    return target


def issues(data) -> dict:
    return {one.code: one.names for one in data.issues}


def opened(root: Path, tmp_path: Path):
    return dataset.open_dataset(root, root.name, tmp_path / "scratch")


class TestImages:
    def test_a_folder_per_class(self, garden, tmp_path):
        data = opened(garden, tmp_path)
        assert data.labels == sorted(NAMES)
        assert len(data.pictures) == 3 * SAMPLES
        assert data.issues == []

    @pytest.mark.parametrize("kind", ["tar.gz", "zip"])
    def test_an_archive_of_it(self, garden, tmp_path, kind):
        file = tmp_path / f"garden.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(file, "w") as archive:
                for one in garden.rglob("*.png"):
                    archive.write(one, one.relative_to(garden.parent))
        else:
            with tarfile.open(file, "w:gz") as archive:
                archive.add(garden, "garden")
        assert len(dataset.open_dataset(file, file.name, tmp_path / "scratch").pictures) == 3 * SAMPLES

    def test_a_table_as_automl_imports_it(self, garden, tmp_path):
        root = copy(garden, tmp_path / "images")
        with open(root / "import.csv", "w", newline="") as file:
            csv.writer(file).writerows([*(("TRAIN" if number > 2 else "TEST", f"{name}/{number:02}.png", name.upper()) for name in NAMES for number in range(SAMPLES)), ("TRAIN", "red/99.png", "RED"), ("UNASSIGNED", "red/00.png")])
        data = opened(root, tmp_path)
        dataset.split(data, 0.2, 1)
        assert data.labels == ["BLUE", "GREEN", "RED"]
        assert sum(one.split == "held-out" for one in data.pictures) == 9
        assert issues(data)["missing"] == ["red/99.png"]
        assert issues(data)["unlabelled"] == ["red/00.png"]

    def test_a_table_with_a_header_and_objects_of_a_bucket(self, garden, tmp_path):
        root = copy(garden, tmp_path / "images" / "gs" / "bucket" / "deep").parent.parent.parent
        with open(root / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "label"), *((f"gs://bucket/deep/{name}/{number:02}.png#{number}", name) for name in NAMES for number in range(SAMPLES))])
        assert len(opened(root, tmp_path).pictures) == 3 * SAMPLES

    @pytest.mark.parametrize("row, code", [(("red/00.png", "red", "round"), "train.several_labels"), (("../../etc/passwd", "red"), "train.table_unreadable"), (("/etc/passwd", "red"), "train.table_unreadable")])
    def test_rows_that_cannot_be_learnt(self, garden, tmp_path, row, code):
        root = copy(garden, tmp_path / "images")
        with open(root / "import.csv", "w", newline="") as file:
            csv.writer(file).writerows([row])
        with pytest.raises(ConvertError) as refused:
            opened(root, tmp_path)
        assert refused.value.code == code

    def test_broken_and_loose_images_are_named(self, garden, tmp_path):
        root = copy(garden, tmp_path / "images")
        (root / "red" / "00.png").write_bytes(b"no image")
        whole = (root / "red" / "01.png").read_bytes()
        (root / "red" / "01.png").write_bytes(whole[: len(whole) // 2])
        (root / "loose.png").write_bytes(whole)
        found = issues(opened(root, tmp_path))
        assert [name.split(" ")[0] for name in found["unreadable"]] == ["red/00.png", "red/01.png"]
        assert found["unlabelled"] == ["loose.png"]

    def test_the_same_file_and_the_same_picture(self, garden, tmp_path):
        from PIL import Image

        root = copy(garden, tmp_path / "images")
        (root / "red" / "copy.png").write_bytes((root / "red" / "03.png").read_bytes())
        with Image.open(root / "red" / "04.png") as image:
            image.save(root / "red" / "again.jpg", quality=92)
        (root / "blue" / "stray.png").write_bytes((root / "green" / "05.png").read_bytes())
        data = opened(root, tmp_path)
        assert issues(data) == {"duplicate": ["red/copy.png is red/03.png"], "contradicting": ["blue/stray.png (blue) = green/05.png (green)"]}
        assert not {"blue/stray.png", "green/05.png"} & {one.name for one in data.pictures}
        groups = {one.name: one.group for one in data.pictures}
        assert groups["red/04.png"] == groups["red/again.jpg"]
        assert len(set(groups.values())) == len(groups) - 1
        # Never on both sides, whatever the draw.
        for seed in range(30):
            for one in data.pictures:
                one.split = None
            dataset.split(data, 0.4, seed)
            sides = {one.name: one.split for one in data.pictures}
            assert sides["red/04.png"] == sides["red/again.jpg"]

    def test_a_held_out_image_that_was_learnt_from_is_none(self, garden, tmp_path):
        from PIL import Image

        root = copy(garden, tmp_path / "images")
        with Image.open(root / "red" / "04.png") as image:
            image.save(root / "red" / "again.jpg", quality=92)
        with open(root / "import.csv", "w", newline="") as file:
            csv.writer(file).writerows([*(("TRAIN" if number > 2 else "TEST", f"{name}/{number:02}.png", name) for name in NAMES for number in range(SAMPLES)), ("TEST", "red/again.jpg", "red")])
        data = opened(root, tmp_path)
        dataset.split(data, 0.2, 1)
        assert issues(data)["leaked"] == ["red/again.jpg = red/04.png"]
        assert sum(one.split == "held-out" for one in data.pictures) == 9

    def test_classes_too_small_or_alone(self, garden, tmp_path):
        root = copy(garden, tmp_path / "images")
        for one in sorted((root / "red").iterdir())[1:]:
            one.unlink()
        (root / "red" / "copy.png").write_bytes((root / "red" / "00.png").read_bytes())
        with pytest.raises(ConvertError, match=r"held out: red \(1\).*red/copy.png is red/00.png") as refused:
            opened(root, tmp_path)
        assert refused.value.detail["classes"] == ["red"]
        with pytest.raises(ConvertError) as refused:
            opened(garden / "red", tmp_path)
        assert refused.value.code == "train.classes_missing"

    def test_unbalanced_classes_are_named(self, garden, tmp_path):
        root = copy(garden, tmp_path / "images")
        for one in sorted((root / "red").iterdir())[2:]:
            one.unlink()
        found = issues(opened(root, tmp_path))
        assert found["unbalanced"] == ["blue has 12 images", "red has 2"]
        assert found["small"] == ["red (2)"]

    def test_every_side_gets_its_share(self, garden, tmp_path):
        data = opened(garden, tmp_path)
        dataset.split(data, 0.25, 7)
        count = {(label, side): sum(one.label == label and one.split == side for one in data.pictures) for label in NAMES for side in ("train", "validation", "held-out")}
        assert all(count[label, "held-out"] == 3 and count[label, "validation"] == 1 and count[label, "train"] == 8 for label in NAMES)
        first = [one.split for one in data.pictures]
        for one in data.pictures:
            one.split = None
        dataset.split(data, 0.25, 7)
        assert [one.split for one in data.pictures] == first


class TestLastLayer:
    def test_learns_what_can_be_told_apart_and_stops(self):
        rng = np.random.default_rng(1)
        truth = np.repeat([0, 1, 2], [200, 20, 20])
        x = rng.normal(0, 1, (240, 12)) * 5 + 100
        x[np.arange(240), truth] += 12
        told = []
        done = head.train(x[::2], truth[::2], 240 / (3 * np.bincount(truth)), x[1::2], truth[1::2], 400, 3, told.append)
        assert [row["epoch"] for row in told] == list(range(1, len(told) + 1))
        assert len(told) < 400 and "not fallen" in done.why
        assert min(told, key=lambda row: row["validationLoss"])["epoch"] == pytest.approx(done.best, abs=head.PATIENCE)
        answers = (x[1::2] @ done.kernel + done.bias).argmax(axis=1)
        assert all((answers[truth[1::2] == label] == label).mean() >= 0.7 for label in range(3))

    def test_survives_int8_where_some_features_hardly_change(self):
        rng = np.random.default_rng(2)
        truth = np.arange(120) % 3
        x = np.maximum(rng.normal(0, 1, (120, 200)), 0)
        x[np.arange(120), truth] += 3
        x[:, 100:] *= 1e-4
        done = head.train(x, truth, [1, 1, 1], x, truth, 60, 1, lambda row: None)
        step = np.abs(done.kernel).max() / 127
        quantised = np.round(done.kernel / step) * step
        assert ((x @ quantised + done.bias).argmax(axis=1) == (x @ done.kernel + done.bias).argmax(axis=1)).mean() > 0.98

    def test_the_same_seed_gives_the_same_layer(self):
        rng = np.random.default_rng(1)
        x, truth = rng.normal(0, 1, (40, 5)), np.arange(40) % 2
        one, other = [head.train(x, truth, [1, 1], x, truth, 5, 9, lambda row: None) for _ in range(2)]
        assert (one.kernel == other.kernel).all()


def run(request: dict, folder: Path) -> dict:
    """As the worker runs it."""
    file = folder / "train.json"
    file.write_text(json.dumps(request))
    done = subprocess.run([sys.executable, "-m", "reef_train", "train", "--request", str(file)], capture_output=True, text=True, timeout=600, check=False,
                          env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE), "HOME": str(folder), "TMPDIR": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {"status": done.returncode, "events": events, "last": events[-1] if events else done.stderr}


def test_a_base_learns_new_classes(garden, colours, tmp_path):
    request = {
        "images": str(garden), "imagesFilename": "garden.tar", "base": str(colours), "baseFilename": "colours.tar", "baseDigest": "d", "epochs": 60, "holdout": 0.25, "seed": 1,
        "preprocessing": {"resize": "stretch", "mean": [127.5], "std": [127.5]}, **{name: str(tmp_path / f"{name}.tar") for name in ("output", "calibration", "evaluation")},
    }
    answer = run(request, tmp_path)
    assert answer["status"] == 0, answer["last"]
    result = answer["last"]
    assert result["labels"] == ["blue", "green", "red"]
    assert result["base"] == {"name": "colours.tar (SavedModel, signature serving_default)", "digest": "d", "features": 4, "cut": result["base"]["cut"]}
    assert result["base"]["cut"].startswith("cut before ")
    assert result["classes"] == [{"label": label, "train": 8, "validation": 1, "heldOut": 3} for label in ("blue", "green", "red")]
    assert result["heldOut"]["accuracy"] == 1 and result["heldOut"]["confusion"] == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    assert [row["epoch"] for row in result["epochs"]] == list(range(1, len(result["epochs"]) + 1))
    assert any(event["event"] == "progress" and event["message"].startswith("epoch 2 of 60") for event in answer["events"])
    with tarfile.open(request["evaluation"]) as archive:
        assert sorted(archive.getnames())[-1] == "labels.csv" and len(archive.getnames()) == 10
    # What it wrote is a source like any other.
    from conftest import run_command

    inspected = run_command("inspect-source", {"source": request["output"], "filename": "trained.tar"}, tmp_path)["last"]
    assert (inspected["kind"], inspected["inputs"][0]["shape"], inspected["outputs"][0]["shape"]) == ("saved_model", [1, SIZE, SIZE, 3], [1, 3])


def test_keras_is_cut_before_its_last_layer_and_an_extractor_is_not(tmp_path):
    import tensorflow as tf
    from reef_train.base import embedding_of

    keras = tf.keras
    images = keras.Input((8, 8, 3), batch_size=1)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(images))
    for model, cut in [(keras.Model(images, keras.layers.Dense(3, activation="softmax")(pooled)), True), (keras.Model(images, pooled), False)]:
        from reef_convert.sources import freeze

        function = freeze(lambda x, model=model: model(x, training=False), [tf.TensorSpec([1, 8, 8, 3], tf.float32, name="x")], keep=model).function
        at, why = embedding_of(function.outputs[0])
        assert at.shape[-1] == 5
        assert ("before" in why) == cut
