"""Archives: what is honest comes out whole, what is hostile or damaged leaves nothing behind."""

import io
import random
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import hostile_sizes
import pytest
from budgets import outcomes

from airlib.assets.archives import GROWTH, is_archive, unpack
from airlib.errors import AirlibError

FILES = {
    "photos/1.jpg": random.Random(0).randbytes(3000),
    "photos/of dogs/2.jpg": random.Random(1).randbytes(500),
    "photos/empty": b"",
}


def write_zip(path: Path, files: dict[str, bytes], **options) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: dict[str, bytes], **attributes) -> None:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))


def write(path: Path, files: dict[str, bytes]) -> None:
    (write_zip if path.suffix == ".zip" else write_tar)(path, files)


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(path: Path, match: str = "") -> None:
    """One line of error, and the folder as before."""
    before = everything(path.parent.parent)
    with pytest.raises(AirlibError, match=match) as raised:
        unpack(path, "photos")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    assert everything(path.parent.parent) == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "assets").mkdir()
    return tmp_path / "assets"


KINDS = ("a.zip", "a.tar", "a.tar.gz", "a.tgz")


@pytest.mark.parametrize("kind", KINDS)
def test_unpacked_is_what_was_packed(folder, kind):
    write(folder / kind, FILES)
    assert is_archive(folder / kind)
    (folder / ".photos.unpacking" / "photos").mkdir(parents=True)  # of a run that was killed
    (folder / ".photos.unpacking" / "photos" / "1.jpg").write_bytes(b"half")
    assert unpack(folder / kind, "photos") == folder / "photos"
    found = everything(folder)
    del found[kind]
    assert found == FILES


def test_a_single_file_and_explicit_folders(folder):
    write(folder / "objects.json.zip", {"objects.json": b"[]"})
    assert unpack(folder / "objects.json.zip", "objects.json").read_bytes() == b"[]"
    write(folder / "a.zip", {"photos/": b"", "photos/1.jpg": b"1"})
    assert everything(unpack(folder / "a.zip", "photos")) == {"1.jpg": b"1"}
    with tarfile.open(folder / "b.tar", "w") as archive:  # as `tar cf b.tar ./drawings` writes
        (folder / "drawings").mkdir()
        (folder / "drawings" / "1.svg").write_bytes(b"<svg/>")
        archive.add(folder / "drawings", "./drawings")
    (folder / "drawings" / "1.svg").unlink()
    (folder / "drawings").rmdir()
    assert everything(unpack(folder / "b.tar", "drawings")) == {"1.svg": b"<svg/>"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("photos/../../sentinel", "leads out"),
        ("../sentinel", "leads out"),
        ("photos/..", "leads out"),
        ("/tmp/airlib-sentinel", "leads out"),
        ("photos\\..\\..\\sentinel", "leads out"),
        ("elsewhere/1.jpg", "not only photos"),
        ("photos2/1.jpg", "not only photos"),
        (".photos.unpacking/photos/1.jpg", "not only photos"),
    ],
)
def test_names_that_lead_elsewhere(folder, kind, name, problem):
    (folder.parent / "sentinel").write_bytes(b"untouched")
    write(folder / kind, FILES | {name: b"hostile"})
    refused(folder / kind, problem)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_tar(folder, kind):
    write_tar(folder / "a.tar", {"photos/link": b""}, type=kind, linkname="../../sentinel")
    refused(folder / "a.tar", "link or a device")


def test_links_in_zip(folder):
    entry = zipfile.ZipInfo("photos/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    write_zip(folder / "a.zip", FILES | {entry: b"../../sentinel"})
    refused(folder / "a.zip", "is a link")


@pytest.mark.parametrize("kind", KINDS)
def test_clashes(folder, kind):
    write(folder / kind, FILES | {"photos/./1.jpg": b"second"})
    refused(folder / kind, "exists")
    write(folder / kind, FILES | {"photos/1.jpg/deeper": b"a file as a folder"})
    refused(folder / kind, "irectory|exists")
    write(folder / kind, FILES | {"photos/" + "x" * 300: b"a name that no file can have"})
    refused(folder / kind, "too long")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_bomb_of_zeros(folder, kind):
    write(folder / kind, {"photos/zeros": bytes(20_000_000)})
    assert (folder / kind).stat().st_size * GROWTH < 20_000_000
    refused(folder / kind, "no honest archive")


def test_a_bomb_of_many_files_without_content(folder):
    write(folder / "a.tgz", {f"photos/{i}": b"" for i in range(5_000)})
    refused(folder / "a.tgz", "no honest archive")


def test_more_than_the_disk_has(folder, monkeypatch):
    write(folder / "a.zip", FILES)
    usage = type("Usage", (), {"free": 2000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    refused(folder / "a.zip", "free space")


def encrypted(path: Path) -> None:
    write_zip(path, FILES)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + flags] |= 1
            start = data.find(signature, start + 4)
    path.write_bytes(data)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "encrypted": (encrypted, "encrypted|password"),
    "empty file": (lambda path: path.write_bytes(b""), "cannot be unpacked"),
    "no archive": (lambda path: path.write_bytes(b"<html>not found</html>"), "cannot be unpacked"),
    "nothing in it": (lambda path: write_zip(path, {}), "holds no files"),
    "folders only": (lambda path: write_zip(path, {"photos/": b""}), "holds no files"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_archive_or_closed(folder, name):
    make, problem = HOSTILE[name]
    make(folder / "a.zip")
    refused(folder / "a.zip", problem)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damage_anywhere_leaves_nothing_behind(folder, kind):
    """Cut or changed at random places. A zip that is accepted has every byte right; a tar has no
    checksum of its files, which is why archives are verified before."""
    path, draws = folder / kind, random.Random(0)
    write(path, FILES)
    whole, refusals = path.read_bytes(), 0
    for _ in range(60):
        data = bytearray(whole[: draws.randrange(len(whole))] if draws.random() < 0.5 else whole)
        if len(data) == len(whole):
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        path.write_bytes(data)
        try:
            unpack(path, "photos")
        except AirlibError:
            refusals += 1
            assert list(folder.iterdir()) == [path]
        else:
            assert sorted(entry.name for entry in folder.iterdir()) == [kind, "photos"]
            found = set(everything(folder / "photos").values())
            assert found <= set(FILES.values()) or kind != "a.zip"
            shutil.rmtree(folder / "photos")
    assert refusals > 20


UNPACK = """
from airlib.assets.archives import unpack
def read(path):
    unpack(path, "photos")
"""


@pytest.mark.slow
def test_archives_of_endless_size_end_within_the_budget(folder):
    """Those that are refused leave nothing; of 30,000 empty files in a zip one may think as one
    likes, as it has as many entries.
    """
    contents = hostile_sizes.archives()
    paths = []
    for name, content in contents.items():
        paths.append(folder / name / "a" / name)
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(content)
    for path, outcome in zip(paths, outcomes(UNPACK, paths).values(), strict=True):
        assert outcome.startswith(f"{path} cannot be unpacked") or "empty files" in path.name, (
            f"{path.name}: {outcome}"
        )
        assert list(path.parent.iterdir()) == [path] or outcome == "read"


def test_long_names_and_attributes_of_an_honest_tar(folder):
    name = "photos/" + "x" * 150 + "/" + "y" * 200 + "é.jpg"
    for kind, layout in (("gnu.tar", tarfile.GNU_FORMAT), ("pax.tar.gz", tarfile.PAX_FORMAT)):
        mode = "w:gz" if kind.endswith("gz") else "w"
        with tarfile.open(folder / kind, mode, format=layout) as archive:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        assert everything(unpack(folder / kind, "photos")) == {name.removeprefix("photos/"): b"abc"}
        shutil.rmtree(folder / "photos")
