"""Unpacking of zip and tar archives that may be hostile: all of it appears under its name, or none.

    unpack(folder / "val2017.zip", "val2017")        # writes folder / "val2017"

Every file of the archive must lie below that name (or be it), in folders that exist by being used:
names that lead elsewhere, links and devices are refused, and so are encrypted members, two files of
one name, and more bytes than are free or than an honest archive of that size holds. What arrives
waits in a hidden folder beside the archive until it is complete.
"""

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
from airlib.progress import track

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
GROWTH = 50  # bytes per byte of the archive: pictures grow by 1, JSON by 10, a bomb by 1,000
HEADER = 512  # bytes that a file counts besides its content, or empty ones would be free
BLOCK = 1 << 20
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError, OSError),  # RuntimeError: encrypted, or of another method
)


def unpack(archive: Path, name: str) -> Path:
    """Unpack a zip or tar archive beside itself; returns the path of the folder (or file) `name`.

    name: the top folder of every member (or the only file); nothing beside the archive may have
    that name yet.

    Raises AirlibError, and leaves nothing behind, if a member lies outside of `name`, is a link, a
    device or encrypted, if the archive is damaged, or if it grows beyond the free disk or beyond
    50 times its own size.
    """
    waiting = archive.with_name(f".{name}.unpacking")
    shutil.rmtree(waiting, ignore_errors=True)  # of a run that was killed
    try:
        room = min(shutil.disk_usage(archive.parent).free, GROWTH * archive.stat().st_size)
        for path, content in track(_files(archive), f"unpacking {archive.name}"):
            target = waiting / _inside(path, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            room = _write(content, target, room - HEADER)
        if not waiting.exists():
            raise ValueError("it holds no files")
        return (waiting / name).rename(archive.parent / name)
    except DAMAGED as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AirlibError(f"{archive} cannot be unpacked: {problem}") from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file, one after the other; folders are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as members:
            for entry in members.infolist():
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise ValueError(f"{entry.filename!r} is a link")
                if not entry.is_dir():
                    with members.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(archive, "r|*") as stream:  # a stream: it cannot send us back
        for member in stream:
            if not member.isfile() and not member.isdir():
                raise ValueError(f"{member.name!r} is a link or a device")
            if member.isfile():
                file = stream.extractfile(member)
                assert file is not None  # as for every regular file
                yield member.name, file


def _inside(path: str, name: str) -> PurePosixPath:
    """The path of a file, if it stays below `name`."""
    found = PurePosixPath(path)
    if found.is_absolute() or ".." in found.parts or "\\" in path:
        raise ValueError(f"{path!r} leads out of the folder")
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
        raise ValueError("it grows beyond the free space, or as no honest archive does")
    return room


def is_archive(path: Path) -> bool:
    """Whether a path has the ending of a zip or tar archive (.zip, .tar, .tar.gz, .tgz)."""
    return os.fspath(path).lower().endswith(SUFFIXES)
