"""Calibration and evaluation samples: a folder or archive of images (with labels.csv where known), or an .npz of arrays.

The preprocessing is the one devices use (libs/inference): the image upright, alpha on black, `stretch` to the size or the largest
centred part of the right ratio (`center-crop`), bilinear with antialiasing, then real = (pixel - mean) / std. Two decoders and two
resamplers differ by a few pixel values at edges; what a model sees differs by less than its quantisation.
"""

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from . import archives
from .events import log, refuse

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass
class Samples:
    count: int
    labels: List[Optional[str]]
    names: List[str]
    #: Called anew for each pass; yields one list of float arrays (batch 1) per sample.
    read: object

    def __iter__(self) -> Iterator[list]:
        return self.read()


def open_samples(path: Path, filename: str, preprocessing: dict, shapes: Sequence[Sequence[int]], names: Sequence[str], scratch: Path, limit: Optional[int], what: str) -> Samples:
    """`what` is `calibration` or `samples`, the prefix of error codes. Raises ConvertError."""
    if path.is_file() and filename.endswith(".npz"):
        return _from_npz(path, filename, shapes, names, limit, what)
    if path.is_file():
        if not archives.is_archive(path):
            if path.suffix.lower() not in IMAGES:
                refuse(f"{what}.unreadable", f"{filename} is neither an archive of images (.tar.gz, .zip) nor an .npz file.")
            return _from_images([path], {}, preprocessing, shapes, limit, what, path.parent)
        path = archives.unpack(path, scratch / what)
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix.lower() in IMAGES and not one.name.startswith("."))
    return _from_images(files, _labels(path, what), preprocessing, shapes, limit, what, path)


def _labels(root: Path, what: str) -> dict:
    tables = sorted(root.rglob("labels.csv"))
    if not tables:
        return {}
    try:
        with open(tables[0], newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            header, rows = table.fieldnames or [], list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        refuse(f"{what}.labels_unreadable", f"labels.csv cannot be read: {error}. Save it as CSV in UTF-8.")
    if not {"file", "label"} <= set(header):
        refuse(f"{what}.labels_unreadable", f"labels.csv needs the header file,label; it has {','.join(header) or 'none'}.")
    base = tables[0].parent
    return {(base / row["file"]).resolve(): (row["label"] or "").strip() or None for row in rows if row.get("file")}


def _from_images(files: List[Path], labels: dict, preprocessing: dict, shapes, limit, what: str, root: Path) -> Samples:
    if not files:
        refuse(f"{what}.empty", f"The {what} set holds no image. Give a folder with JPEG or PNG files like those the model will see; 100 or more are good.")
    if len(shapes) != 1 or preprocessing.get("kind") != "image":
        refuse(f"{what}.not_images", f"The model does not take one image (its inputs are {', '.join(map(str, shapes))}). Give an .npz file with one array per input.")
    files = _spread(files, limit)
    broken: List[str] = []
    usable: List[Path] = []
    for file in files:
        try:
            load_image(file, preprocessing)
            usable.append(file)
        except Exception as error:  # Pillow raises many types
            broken.append(f"{file.relative_to(root)} ({error})")
    if broken:
        log(f"{len(broken)} of {len(files)} images cannot be read and are left out: {'; '.join(broken[:5])}", "warn")
    if not usable:
        refuse(f"{what}.unreadable", f"None of the {len(files)} images can be read: {'; '.join(broken[:3])}.")
    missing = [str(file) for file in labels if not file.exists()]
    if missing:
        log(f"labels.csv names {len(missing)} files that are not there, such as {missing[0]}", "warn")

    def read():
        for file in usable:
            yield [load_image(file, preprocessing)]

    return Samples(len(usable), [labels.get(file.resolve()) for file in usable], [str(file.relative_to(root)) for file in usable], read)


def sameness(samples: Samples, most: int = 100) -> Optional[str]:
    """What is wrong with a set whose samples hardly differ, or whose images are of one colour each; None for an ordinary one."""
    import numpy as np

    means, plain, count, low, high = [], 0, 0, np.inf, -np.inf
    for (first, *_), _index in zip(samples, range(most)):
        if first.ndim != 4:
            return None
        spread = float((first.max((0, 1, 2)) - first.min((0, 1, 2))).max())
        means.append(first.mean((0, 1, 2)))
        low, high = min(low, float(first.min())), max(high, float(first.max()))
        plain += spread <= 0.04 * max(abs(low), abs(high), 1e-9)
        count += 1
    if count < 2:
        return None
    between = float(np.ptp(np.stack(means), axis=0).max())
    if plain == count and between <= 0.04 * max(abs(low), abs(high), 1e-9):
        return f"All {count} calibration samples are of one and the same colour: activation ranges measured on them say nothing. Give about 100 images like those the model will see."
    if 2 * plain >= count:
        return f"{plain} of {count} calibration samples are of one colour each: activation ranges are likely too narrow. Give images like those the model will see."
    return None


def load_image(file: Path, preprocessing: dict):
    """[1, height, width, channels] float32."""
    import numpy as np
    from PIL import Image, ImageOps

    width, height, channels = preprocessing["width"], preprocessing["height"], preprocessing["channels"]
    with Image.open(file) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            clear = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)
        image = upright.convert("L" if channels == 1 else "RGB")
    box = None
    if preprocessing["resize"] == "center-crop":
        scale = max(width / image.width, height / image.height)
        # Rounding may make the part a hair larger than the image, which Pillow refuses.
        crop_w, crop_h = min(width / scale, image.width), min(height / scale, image.height)
        left, top = (image.width - crop_w) / 2, (image.height - crop_h) / 2
        box = (left, top, left + crop_w, top + crop_h)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32).reshape(1, height, width, channels)
    return (pixels - np.asarray(preprocessing["mean"], np.float32)) / np.asarray(preprocessing["std"], np.float32)


def _from_npz(path: Path, filename: str, shapes, names, limit, what: str) -> Samples:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        refuse(f"{what}.unreadable", f"{filename} cannot be read: {error}. Write it with numpy.savez.")
    labels = arrays.pop("labels", None)
    if labels is not None and any(len(labels) != len(column) for column in arrays.values()):
        refuse(f"{what}.labels_unreadable", f"{filename} has {len(labels)} labels for {', '.join(str(len(column)) for column in arrays.values())} samples.")
    columns = [arrays[name] for name in names] if all(name in arrays for name in names) else list(arrays.values())
    if len(columns) != len(shapes):
        refuse(f"{what}.shape_differs", f"{filename} holds the arrays {', '.join(arrays)}; the model takes {', '.join(names)}. Name them alike.")
    count = min((len(column) for column in columns), default=0)
    if count == 0:
        refuse(f"{what}.empty", f"{filename} holds no sample.")
    for name, column, shape in zip(names, columns, shapes):
        if list(column.shape[1:]) != list(shape[1:]):
            refuse(f"{what}.shape_differs", f"{filename} has samples of shape {list(column.shape[1:])} for {name}, the model takes {list(shape[1:])}.")
    chosen = _spread(list(range(count)), limit)

    def read():
        for index in chosen:
            yield [column[index : index + 1].astype(np.float32) for column in columns]

    return Samples(len(chosen), [None if labels is None else str(labels[index]) for index in chosen], [f"{filename}[{index}]" for index in chosen], read)


def _spread(items: list, limit: Optional[int]) -> list:
    """At most `limit` of them, evenly over the whole: sets are often sorted by class."""
    if not limit or len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]
