"""Opening a picture file that may be anything: within a budget of memory and time, or one error.

    with opened(path, path.name) as image:
        image.load()

A file of a few kilobytes can be a picture of billions of pixels, one pixel wide, sent in thousands
of passes, or with millions of comments; a name can be that of a pipe that never says anything. All
that can be told without decoding, and is.
"""

import mmap
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from airlib.errors import AirlibError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow runs programs for others
MOST_PIXELS = 150_000_000  # 12,000 x 12,000; a picture in memory has 4 bytes for each
MOST_PIXELS_WEBP = 50_000_000  # its decoder keeps four copies
LONGEST_SIDE = 2**16 - 1  # pixels, as in JPEG
MOST_SCANS = 100  # of a JPEG; progressive ones have about 10
MOST_SCANNED = 2_000_000_000  # pixels of all scans
MOST_PARTS = 100_000  # chunks of a PNG, segments of a JPEG, comments of a GIF

_DAMAGED = (OSError, EOFError, ValueError, SyntaxError, LookupError, TypeError, struct.error,
            ArithmeticError, AttributeError, MemoryError, RuntimeError, zlib.error,
            Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises for files that are no image, or a damaged or dangerous one."""


@contextmanager
def opened(source: Path | BytesIO, name: str) -> Iterator[Image.Image]:
    """Context that yields a picture, known by its header and not yet decoded.

    source: a file, or its content. name: what errors call it. What is raised inside for a damaged
    picture becomes an AirlibError as well, as in `reading`.

    Raises AirlibError for what is no regular file, no picture or a damaged one, a side of more than
    65,535 pixels, more than 150 million pixels (WebP: 50), and what would take forever to decode.
    """
    with reading(name):
        scans = _checked_scans(source)
        with Image.open(source, formats=FORMATS) as image:
            _check_size(image, scans, name)
            yield image


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Context for opening and decoding an image: what Pillow raises becomes an AirlibError.

    name: what the error calls the image. Pillow's warnings are dropped; most are of damaged EXIF
    data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGED as error:
        problem = str(error) or type(error).__name__
        raise AirlibError(
            f"cannot read the image {name} ({problem}); replace or remove it"
        ) from error


def _check_size(image: Image.Image, scans: int, name: str) -> None:
    pixels = image.width * image.height
    most = MOST_PIXELS_WEBP if image.format == "WEBP" else MOST_PIXELS
    if pixels > most:
        raise AirlibError(
            f"{name} has {image.width} x {image.height} pixels, more than {most / 1e6:g} million; "
            "make it smaller"
        )
    if max(image.size) > LONGEST_SIDE:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
        raise ValueError(f"it draws {image.width} x {image.height} pixels {scans} times")


# --- what a file consists of ---------------------------------------------------------------------


def _checked_scans(source: Path | BytesIO) -> int:
    """How often a JPEG is drawn, 0 for other pictures; ValueError for too many parts."""
    if isinstance(source, BytesIO):
        return _scans(source.getbuffer())
    if not source.is_file():
        raise ValueError("it is no file" if source.exists() else "there is no such file")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _scans(data)


def _scans(data: mmap.mmap | memoryview) -> int:
    parts, scans = 0, 0
    for marker in _parts(data):
        parts += 1
        scans += marker == START_OF_SCAN
        if parts > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")
    return scans


_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_GIF_COMMENT = re.compile(rb"\x21\xfe", re.DOTALL)
START_OF_SCAN, END_OF_JPEG = 0xDA, 0xD9


def _parts(data: mmap.mmap | memoryview) -> Iterator[int]:
    """Every chunk of a PNG, segment of a JPEG (its marker) and comment of a GIF."""
    start = bytes(data[:4])
    if start == b"\x89PNG":
        at, kind = 8, b""
        while at < len(data) and kind != b"IEND":
            kind = bytes(data[at + 4 : at + 8])
            yield 0
            at += 12 + int.from_bytes(data[at : at + 4], "big")
    elif start[:2] == b"\xff\xd8":
        at, marker = 2, 0
        while marker != END_OF_JPEG and (match := _JPEG_MARKER.search(data, at)):
            at, marker = match.end(), match[0][1]
            yield marker
            at += int.from_bytes(data[at : at + 2], "big")
    elif start[:3] == b"GIF":
        yield from (0 for _ in _GIF_COMMENT.finditer(data))
