"""MobileNet v1 224 as a TensorFlow 1 frozen graph with its ImageNet head (MIT, `nudity` on PyPI), with photographs of classes it knows and others to
calibrate on. `mobilenet.py OUT CACHE`, with libs/conversion/python on PYTHONPATH; nothing of it is part of this project. Exit status 3: not to be had."""

import csv
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from reef_demo import photos
from reef_demo.__main__ import class_list
from reef_demo.packages import DemoError

PINNED = "nudity==0.2.3 --hash=sha256:d26e10346f00ad76b1166a221f1b56877d154ca343e82c6e6c8e738ca5f27d5f\n"


def graph(out: Path, cache: Path) -> None:
    folder = cache / "nudity-0.2.3"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "nudity-0.2.3.tar.gz"
    if not archive.exists():
        wanted = folder / "requirements.txt"
        wanted.write_text(PINNED)
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(wanted)], capture_output=True, text=True)
        if done.returncode != 0:
            raise DemoError(f"nudity 0.2.3 cannot be fetched: {done.stderr.strip()[-500:]}")
    with tarfile.open(archive) as packed:
        (out / "graph.pb").write_bytes(packed.extractfile("nudity-0.2.3/nudity/files/retrained_graph.pb").read())


def main() -> int:
    out, cache = map(Path, sys.argv[1:])
    try:
        graph(out, cache)
        photos.make(out / "all", cache, class_list(cache))
    except DemoError as error:
        print(error, file=sys.stderr)
        return 3
    (out / "all/calibration").rename(out / "calibration")
    # The twenty that show ImageNet classes; the graph has a background class in front of them.
    known = out / "photos"
    known.mkdir()
    rows = []
    for file in sorted((out / "all/evaluation").glob("foolbox-imagenet_*")):
        shutil.copy(file, known / file.name)
        rows.append((file.name, int(re.search(r"_(\d+)\.jpg$", file.name)[1]) + 1))
    with open(known / "labels.csv", "w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([("file", "label"), *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
