"""Unpacking of zip and tar archives that may be hostile: all of it appears under its name, or none.

    unpack(folder / "val2017.zip", "val2017")        # writes folder / "val2017"

Every file of the archive must lie below that name (or be it), in folders that exist by being used:
names that lead elsewhere, links and devices are refused, and so are encrypted members, two files of
one name, deep folders, and more bytes or entries than are free or than an honest archive of that
size holds. What arrives waits in a hidden folder beside the archive until it is complete.
"""

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from airlib.errors import AirlibError
from airlib.files import open_zip
from airlib.progress import track

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
GROWTH = 50  # bytes per byte of the archive: pictures grow by 1, JSON by 10, a bomb by 1,000
HEADER = 512  # bytes that a file and each folder in its name count besides, or they would be free
DEEPEST = 16  # folders in one another
MOST_FOLDERS = 50_000  # listed by themselves in a tar; ImageNet has 22,000
LARGEST_HEADER = 1 << 16  # bytes of a long name or other attributes in a tar
BLOCK = 1 << 20
TOO_LARGE = "it grows beyond the free space, or as no honest archive does"
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError, OSError),  # RuntimeError: encrypted, or of another method
)


def unpack(archive: Path, name: str) -> Path:
    """Unpack a zip or tar archive beside itself; returns the path of the folder (or file) `name`.

    name: the top folder of every member (or the only file); nothing beside the archive may have
    that name yet.

    Raises AirlibError, and leaves nothing behind, if a member lies outside of `name` or more than
    16 folders deep, is a link, a device or encrypted, if the archive is damaged, or if it grows
    beyond the free disk or beyond 50 times its own size.
    """
    waiting = archive.with_name(f".{name}.unpacking")
    shutil.rmtree(waiting, ignore_errors=True)  # of a run that was killed
    try:
        room = min(shutil.disk_usage(archive.parent).free, GROWTH * archive.stat().st_size)
        for path, content in track(_files(archive, room), f"unpacking {archive.name}"):
            inside = _inside(path, name)
            target = waiting / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            room = _write(content, target, room - HEADER * len(inside.parts))
        if not waiting.exists():
            raise ValueError("it holds no files")
        return (waiting / name).rename(archive.parent / name)
    except DAMAGED as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AirlibError(f"{archive} cannot be unpacked: {problem}") from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def _files(archive: Path, room: int) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file, one after the other; folders are left out.

    room: bytes that a tar may have, its headers included.
    """
    if zipfile.is_zipfile(archive):
        with open_zip(archive) as members:
            yield from _files_of_zip(members)
        return
    with archive.open("rb") as file:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        # Besides what it holds, a small tar has some 10 kB of zeros at its end.
        content = _Bounded(gzip.GzipFile(fileobj=file) if zipped else file, room + BLOCK)
        # A stream cannot send us back.
        with tarfile.open(fileobj=content, mode="r|", tarinfo=_Entry) as stream:
            yield from _files_of_tar(stream)


def _files_of_zip(members: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in members.infolist():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"{entry.filename!r} is a link")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename!r} is compressed in an unusual way")
        if not entry.is_dir():
            with members.open(entry) as content:
                yield entry.filename, content


def _files_of_tar(stream: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    folders = 0
    for member in stream:
        stream.members = []  # type: ignore[attr-defined]  # or it remembers each
        if member.issparse() or not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name!r} is a link or a device")
        folders += member.isdir()
        if folders > MOST_FOLDERS:
            raise ValueError(f"it lists more than {MOST_FOLDERS} folders")
        if member.isfile():
            file = stream.extractfile(member)
            assert file is not None  # as for every regular file
            yield member.name, file


class _Entry(tarfile.TarInfo):
    """An entry whose header is checked before it is followed: tarfile reads long names, attributes
    and maps of sparse files into memory, and follows negative sizes for ever.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Entry":
        entry = super().frombuf(buf, encoding, errors)
        short = entry.isfile() or entry.size <= LARGEST_HEADER
        if entry.size < 0 or not short or entry.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"an entry of {entry.size} bytes is no file")
        return entry


class _Bounded(io.BufferedIOBase):
    """The content of a tar archive of which no more than `room` bytes can be read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, room: int):
        self.file, self.room = file, room

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer at the end; ValueError where there is no room for them."""
        block = self.file.read(BLOCK if size is None else size)
        self.room -= len(block)
        if self.room < 0:
            raise ValueError(TOO_LARGE)
        return block


def _inside(path: str, name: str) -> PurePosixPath:
    """The path of a file, if it stays below `name`."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or "\\" in path:
        raise ValueError(f"{path!r} leads out of the folder")
    if len(found.parts) > DEEPEST:
        raise ValueError(f"{path[:100]!r} lies more than {DEEPEST} folders deep")
    if found.parts[:1] != (name,):
        raise ValueError(f"it holds {path!r}, not only {name}")
    return found


def _write(content: IO[bytes], target: Path, room: int) -> int:
    """Copy a file, which must be new, and return what is left of `room` [bytes]."""
    with target.open("xb") as file:
        while room >= 0 and (block := content.read(BLOCK)):
            room -= len(block)
            file.write(block)
    if room < 0:
        raise ValueError(TOO_LARGE)
    return room


def is_archive(path: Path) -> bool:
    """Whether a path has the ending of a zip or tar archive (.zip, .tar, .tar.gz, .tgz)."""
    return os.fspath(path).lower().endswith(SUFFIXES)
