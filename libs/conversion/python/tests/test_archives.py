import io
import tarfile
import zipfile

import pytest

from reef_convert import archives
from reef_convert.events import ConvertError


def tar_of(path, *entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(content)
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return (name, info)


def code_of(call):
    with pytest.raises(ConvertError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_any_compression_is_unpacked(tmp_path, mode):
    archive = tar_of(tmp_path / "a", ("model/saved_model.pb", b"x"), ("model/variables/v", b"y"), mode=mode)
    assert archives.is_archive(archive)
    root = archives.only_folder(archives.unpack(archive, tmp_path / "out"))
    assert (root / "variables/v").read_bytes() == b"y" and root.name == "model"


def test_a_zip_is_unpacked_and_a_keras_file_is_not_taken_for_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one/two.png", b"x")
    assert archives.is_archive(tmp_path / "a.zip")
    assert (archives.unpack(tmp_path / "a.zip", tmp_path / "out") / "one/two.png").read_bytes() == b"x"
    with zipfile.ZipFile(tmp_path / "named-anyhow", "w") as archive:
        archive.writestr("config.json", b"{}")
    assert not archives.is_archive(tmp_path / "named-anyhow")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/outside", "..\\outside", "C:/outside"])
def test_nothing_is_written_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(name, b"x")
    for archive in (tar_of(tmp_path / "a.tar.gz", (name, b"x")), tmp_path / "a.zip"):
        assert code_of(lambda archive=archive: archives.unpack(archive, tmp_path / "deep/out")) == "source.unsafe_archive"
    assert not [one for one in tmp_path.rglob("outside")]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "a.tar", link("etc", "/etc", kind), ("etc/passwd", b"x"), mode="w")
    assert code_of(lambda: archives.unpack(archive, tmp_path / "out")) == "source.unsafe_archive"


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("etc")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    assert code_of(lambda: archives.unpack(tmp_path / "a.zip", tmp_path / "out")) == "source.unsafe_archive"


def test_size_and_count_are_bounded(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "a.tar.gz", *((f"{index}", b"x" * 100) for index in range(10)))
    monkeypatch.setattr(archives, "MAX_ENTRIES", 5)
    assert code_of(lambda: archives.unpack(archive, tmp_path / "out")) == "source.unsafe_archive"
    monkeypatch.setattr(archives, "MAX_ENTRIES", 50)
    monkeypatch.setattr(archives, "MAX_BYTES", 500)
    assert code_of(lambda: archives.unpack(archive, tmp_path / "out2")) == "source.unsafe_archive"


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_a_damaged_archive_says_so(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", bytes(range(256)) * 200)
        data = bytearray(path.read_bytes())
        data[60:80] = b"\xff" * 20
        path.write_bytes(data)
    else:
        tar_of(path, ("a", bytes(range(256)) * 2000))
        path.write_bytes(path.read_bytes()[:-200])
    assert code_of(lambda: archives.unpack(path, tmp_path / "out")) == "source.corrupt_archive"
