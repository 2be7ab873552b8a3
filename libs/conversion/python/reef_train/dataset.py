"""Labelled images: a folder per class, or a table of files and labels (AutoML's import format, or labels.csv). What is wrong with them is told by name."""

import csv
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Dict, List, Optional, Tuple

from reef_convert import archives
from reef_convert.events import log, refuse
from reef_convert.samples import IMAGES

SPLITS = {"TRAIN": "train", "TRAINING": "train", "VALIDATE": "validation", "VALIDATION": "validation", "TEST": "held-out", "UNASSIGNED": None}
#: More than this many times as many images in one class as in another is worth a word.
UNBALANCED = 4
SMALL = 10
NAMED = 50
#: Thumbnails that differ in fewer of 240 comparisons and by less than this on average (of 255) show the same picture, saved twice.
SAME_BITS, SAME_VALUE = 6, 4.0


@dataclass
class Picture:
    path: Path
    name: str
    label: str
    split: Optional[str] = None
    #: Pictures of one group show the same and stay on one side.
    group: int = -1
    thumbnail: object = None


@dataclass
class Issue:
    code: str
    message: str
    names: List[str]

    def told(self) -> dict:
        return {"code": self.code, "message": self.message, "count": len(self.names), "names": self.names[:NAMED]}


@dataclass
class Dataset:
    pictures: List[Picture]
    labels: List[str]
    issues: List[Issue] = field(default_factory=list)

    def issue(self, code: str, message: str, names: List[str]) -> None:
        if names:
            self.issues.append(Issue(code, message, names))
            log(f"{message}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}", "warn")


def open_dataset(path: Path, filename: str, scratch: Path) -> Dataset:
    """Reads what is there and leaves out what cannot be learnt from. Raises ConvertError `train.*`, `source.*`."""
    if path.is_file():
        if not archives.is_archive(path):
            refuse("train.images_unreadable", f"{filename} is neither an archive of images (.tar.gz, .zip) nor a table of them (.csv).")
        path = archives.unpack(path, scratch / "images")
    root = archives.only_folder(path)
    tables = sorted(one for one in root.glob("*.csv"))
    data = Dataset([], [])
    if len(tables) > 1:
        refuse("train.table_unreadable", f"{filename} holds the tables {', '.join(one.name for one in tables)}; leave one, with every image and its label.")
    data.pictures = _from_table(tables[0], data) if tables else _from_folders(path, root, data)
    _decode(data)
    _find_same(data)
    data.labels = sorted({one.label for one in data.pictures})
    _check(data, filename)
    return data


def _from_folders(top: Path, root: Path, data: Dataset) -> List[Picture]:
    # Only one class below: then that folder is the class, and the check for two classes speaks.
    if not any(one.is_dir() and not one.name.startswith(".") for one in root.iterdir()) and root != top:
        root = root.parent
    files = sorted(one for one in root.rglob("*") if one.is_file() and one.suffix.lower() in IMAGES and not any(part.startswith((".", "__MACOSX")) for part in one.relative_to(root).parts))
    loose = [one for one in files if one.parent == root]
    data.issue("unlabelled", "images lie in no class's folder and are left out", [one.name for one in loose])
    return [Picture(one, str(one.relative_to(root)), one.relative_to(root).parts[0]) for one in files if one.parent != root]


def _from_table(table: Path, data: Dataset) -> List[Picture]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, skipinitialspace=True) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        refuse("train.table_unreadable", f"{table.name} cannot be read: {error}. Save it as CSV in UTF-8.")
    if rows and {"file", "label"} <= {cell.lower() for cell in rows[0]}:
        header = [cell.lower() for cell in rows.pop(0)]
        rows = [[row[header.index("file")], row[header.index("label")] if len(row) > header.index("label") else ""] for row in rows]
    pictures: List[Picture] = []
    missing: List[str] = []
    unlabelled: List[str] = []
    for number, row in enumerate(rows, 1):
        split = None
        if row[0].upper() in SPLITS:
            split, row = SPLITS[row[0].upper()], row[1:]
        name, labels = (row[0] if row else ""), [cell for cell in row[1:] if cell]
        if len(labels) > 1:
            refuse("train.several_labels", f"{table.name}, row {number}: {name} has {len(labels)} labels ({', '.join(labels[:4])}). One label per image is learnt; rows with boxes or several labels are not.")
        path = table.parent / place_of(name)
        if not labels:
            unlabelled.append(name)
        elif not path.is_file():
            missing.append(name)
        else:
            pictures.append(Picture(path, name, labels[0], split))
    data.issue("unlabelled", "rows have no label and are left out", unlabelled)
    data.issue("missing", f"files that {table.name} names are not there", missing)
    return pictures


def place_of(name: str) -> str:
    """Where the file of a row lies below the table. Objects of buckets were fetched into `gs/`."""
    # A generation may stand behind an object's name.
    parts = PurePosixPath("gs/" + re.sub(r"#\d+$", "", name[len("gs://") :]) if name.startswith("gs://") else name)
    if parts.is_absolute() or ".." in parts.parts:
        refuse("train.table_unreadable", f"The table names {name}, which leads outside of the archive. Name files relative to the table.")
    return str(parts)


def _decode(data: Dataset) -> None:
    """Every image once: what cannot be read goes, of what can a small grey picture stays."""
    import numpy as np
    from PIL import Image, ImageOps

    broken: List[str] = []
    usable: List[Picture] = []
    for picture in data.pictures:
        try:
            with Image.open(picture.path) as opened:
                opened.draft("RGB", (64, 64))
                small = ImageOps.exif_transpose(opened).convert("L").resize((17, 16), Image.Resampling.BOX)
            picture.thumbnail = np.asarray(small, np.float32)
            usable.append(picture)
        except Exception as error:  # Pillow raises many types
            broken.append(f"{picture.name} ({str(error)[:80]})")
    data.issue("unreadable", "images cannot be read and are left out", broken)
    data.pictures = usable


def _find_same(data: Dataset) -> None:
    """The same file twice is one image; the same picture twice is one group; the same picture in two classes is neither's."""
    import numpy as np

    first: Dict[str, Picture] = {}
    contradicting: Dict[str, List[Picture]] = {}
    repeated: List[str] = []
    kept: List[Picture] = []
    for picture in data.pictures:
        digest = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        known = first.setdefault(digest, picture)
        if known is picture:
            kept.append(picture)
        elif known.label != picture.label:
            contradicting.setdefault(digest, [known]).append(picture)
        elif known.split != picture.split and picture.split == "held-out":
            # Told apart below, as the same picture on both sides.
            kept.append(picture)
        else:
            repeated.append(f"{picture.name} is {known.name}")
    data.issue("duplicate", "images are there twice and count once", repeated)
    for index, picture in enumerate(kept):
        picture.group = index
    pairs = _alike(np.stack([one.thumbnail for one in kept])) if kept else []
    clash = {id(one) for group in contradicting.values() for one in group}
    told = [" = ".join(f"{one.name} ({one.label})" for one in group) for group in contradicting.values()]
    for one, other in pairs:
        a, b = kept[one], kept[other]
        if a.label != b.label:
            clash |= {id(a), id(b)}
            told.append(f"{a.name} ({a.label}) = {b.name} ({b.label})")
        else:
            old, new = max(a.group, b.group), min(a.group, b.group)
            for picture in kept:
                if picture.group == old:
                    picture.group = new
    data.issue("contradicting", "images carry two labels and are left out", told)
    data.pictures = [one for one in kept if id(one) not in clash]


def _alike(thumbnails) -> List[Tuple[int, int]]:
    """Pairs that show the same: a difference hash finds candidates, the grey values decide. Plain surfaces have no hash to go by."""
    import numpy as np

    count = len(thumbnails)
    if count > 20_000:
        log(f"{count} images are too many to look for the same picture saved twice; only equal files are found")
        return []
    bits = np.packbits((thumbnails[:, :, 1:] > thumbnails[:, :, :-1]).reshape(count, -1), axis=1)
    weight = np.array([bin(value).count("1") for value in range(256)], np.uint8)
    pairs = []
    for index in range(count - 1):
        near = weight[bits[index + 1 :] ^ bits[index]].sum(axis=1, dtype=np.int32) <= SAME_BITS
        for other in np.flatnonzero(near) + index + 1:
            spread = float(thumbnails[index].std())
            if spread > 2 and float(np.abs(thumbnails[index] - thumbnails[other]).mean()) < SAME_VALUE:
                pairs.append((index, int(other)))
    return pairs


def _check(data: Dataset, filename: str) -> None:
    counts = {label: sum(1 for one in data.pictures if one.label == label) for label in data.labels}
    told = " ".join(f"{issue.message.capitalize()} ({len(issue.names)}): {', '.join(issue.names[:3])}." for issue in data.issues)
    if len(counts) < 2:
        refuse("train.classes_missing", f"{filename} holds {'no usable image' if not counts else f'images of one class only ({next(iter(counts))})'}. Give a folder per class with images in it, or a CSV of file,label.{' ' + told if told else ''}", issues=[issue.told() for issue in data.issues])
    groups = {label: len({one.group for one in data.pictures if one.label == label}) for label in data.labels}
    tiny = [label for label in data.labels if groups[label] < 2]
    if tiny:
        names = ", ".join(f"{label} ({counts[label]}{', all the same picture' if counts[label] > 1 else ''})" for label in tiny)
        refuse("train.class_tiny", f"{'These classes have' if len(tiny) > 1 else 'One class has'} fewer than two different images, so none can be held out: {names}. Add images or leave the class out.{' ' + told if told else ''}", classes=tiny, issues=[issue.told() for issue in data.issues])
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    if counts[most] > UNBALANCED * counts[least]:
        data.issue("unbalanced", "classes differ much in size; the small ones weigh more in training", [f"{most} has {counts[most]} images", *(f"{label} has {counts[label]}" for label in data.labels if counts[most] > UNBALANCED * counts[label])])
    data.issue("small", f"classes have fewer than {SMALL} images, so their held-out numbers mean little", [f"{label} ({counts[label]})" for label in data.labels if counts[label] < SMALL])


def split(data: Dataset, share: float, seed: int) -> None:
    """Sets every picture's side: as the table says, else at random by group and class. `validation` is what stops training; where it would be too small the held-out part does."""
    import numpy as np

    rng = np.random.default_rng(seed)
    given = any(one.split == "held-out" for one in data.pictures)
    if given:
        _keep_apart(data)
    for label in data.labels:
        own = [one for one in data.pictures if one.label == label and one.split is None]
        if given:
            for one in own:
                one.split = "train"
        else:
            _draw(own, "held-out", share, rng, leave=any(one.split == "train" for one in data.pictures if one.label == label))
    if not any(one.split == "validation" for one in data.pictures):
        sides = {label: [one for one in data.pictures if one.label == label and one.split == "train"] for label in data.labels}
        if all(len({one.group for one in own}) >= 8 for own in sides.values()):
            for own in sides.values():
                for one in own:
                    one.split = None
                _draw(own, "validation", 0.15, rng)
    lacking = [label for label in data.labels if not any(one.label == label and one.split == "train" for one in data.pictures)]
    if lacking:
        refuse("train.class_tiny", f"No image to learn from is left of {', '.join(lacking)}: all of it is marked TEST or VALIDATION. Mark some TRAIN.", classes=lacking)
    data.issue("not_held_out", "classes have no held-out image, so nothing is known of them", [label for label in data.labels if not any(one.label == label and one.split == "held-out" for one in data.pictures)])


def _draw(own: List[Picture], side: str, share: float, rng, leave: bool = False) -> None:
    """Whole groups to `side` until it has its share, the rest to `train`; each side gets at least one, unless `train` has one already."""
    groups = sorted({one.group for one in own})
    order = [groups[index] for index in rng.permutation(len(groups))]
    wanted = max(1, round(share * len(own)))
    taken = 0
    for position, group in enumerate(order):
        members = [one for one in own if one.group == group]
        last = position == len(order) - 1 and not leave
        chosen = side if taken < wanted and not (last and position > 0) else "train"
        if chosen == side:
            taken += len(members)
        for one in members:
            one.split = chosen


def _keep_apart(data: Dataset) -> None:
    """A picture that is learnt from says nothing when it is asked again."""
    learnt = {one.group: one for one in data.pictures if one.split != "held-out"}
    leaked = [one for one in data.pictures if one.split == "held-out" and one.group in learnt]
    data.issue("leaked", "held-out images are in the training part too, and are held out no more", [f"{one.name} = {learnt[one.group].name}" for one in leaked])
    data.pictures = [one for one in data.pictures if one not in leaked]
