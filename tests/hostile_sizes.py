"""Small files that announce, or unpack to, more than any machine holds: archives and pictures.

Each function maps a name to the bytes of a file.
"""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from PIL import Image

MEGABYTE = 2**20


# --- archives ------------------------------------------------------------------------------------


def zip_of(members: int) -> bytes:
    """A zip whose list names one byte `members` times."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    fields = (b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    entry = struct.pack("<4s6H3I5H2I", *fields)
    listed = b"".join(entry + b"%07d" % number for number in range(members))
    end64 = (b"PK\6\6", 44, 45, 45, 0, 0, members, members, len(listed), len(local))
    locator = (b"PK\6\7", 0, len(local) + len(listed), 1)
    end = (b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    tail = struct.pack("<4sQ2H2I4Q", *end64) + struct.pack("<4sIQI", *locator)
    return local + listed + tail + struct.pack("<4s4H2IH", *end)


def archives() -> dict[str, bytes]:
    """Archives of a folder "photos"."""
    zeros = bytes(MEGABYTE)
    letters = b"a" * MEGABYTE
    sparse = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"photos/1"),
        (b"GNU.sparse.realsize", b"9" * 15),
    ]
    holes = b"5000000\n" + b"0\n" * 10_000_000
    empty = _header("photos/1", 0)
    negative = bytearray(empty)
    negative[124:136] = b"\xff" * 12
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    return {
        "zip of a million members.zip": zip_of(1_000_000),
        "zip of 100,000 members.zip": zip_of(100_000),
        "zip of deep folders.zip": _zip(f"photos/{i}/{'a/' * 1500}x" for i in range(200)),
        "zip of empty files.zip": _zip(f"photos/{i}" for i in range(30_000)),
        "zip of bzip2.zip": _zip(["photos/1"], 64 * zeros, zipfile.ZIP_BZIP2),
        "zip of lzma.zip": _zip(["photos/1"], 64 * zeros, zipfile.ZIP_LZMA),
        "long name.tar.gz": _gzip([_header("././@LongLink", 3 << 30, b"L"), *[letters] * 256]),
        "attributes.tar.gz": _gzip([_header("x", 3 << 30, b"x"), *[letters] * 256]),
        "negative size.tar": bytes(negative) * 100,
        "negative size in attributes.tar": _attributes([(b"size", b"-5120")]) + empty + zeros,
        "long size in attributes.tar": _attributes([(b"size", b"9" * 30)]) + empty + zeros,
        "map of holes.tar.gz": _gzip(
            [_attributes(sparse), _header("photos/1", len(holes)), holes, bytes(-len(holes) % 512)]
        ),
        "folders.tar.gz": _gzip(_header(f"photos/{i}", 0, b"5") for i in range(100_000)),
        "deep folders.tar.gz": _gzip(_header(f"photos/{'a/' * 40}{i}", 0) for i in range(9_000)),
        "zeros.tar.gz": _gzip([_header("photos/1", 256 << 20), *[zeros] * 256]),
        "nothing but zeros.tar.gz": _gzip([zeros] * 256),
    }


def _zip(names: Iterable[str], content: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def _gzip(parts: Iterable[bytes]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
    return buffer.getvalue()


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def _attributes(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A header of attributes for the entry after it, each of at most 99 bytes."""
    bodies = [b" %s=%s\n" % pair for pair in pairs]
    records = b"".join(b"%02d%s" % (len(body) + 2, body) for body in bodies)
    return _header("x", len(records), b"x") + records + bytes(-len(records) % 512)


# --- pictures ------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """None of them is honest."""
    return {
        "13,000 px.png": png(13_000, 13_000),
        "one pixel wide.png": png(1, 170_000_000),
        "one pixel high.png": png(170_000_000, 1),
        "long.png": png(20, 7_000_000),
        "chunks.png": png(64, 64, _chunk(b"teSt", b"") * 800_000),
        "large.webp": saved(Image.new("L", (8_000, 8_000)), "WEBP", method=0),
        "segments.jpg": _jpeg(64, before=b"\xff\xfe\0\2" * 2_000_000),
        "3,000 scans.jpg": _jpeg(1_000, scans=3_000),
        "scans of many pixels.jpg": _jpeg(6_000, scans=90),
        "comments.gif": _gif(b"\x21\xfe\x01x\0" * 1_000_000),
    }


def png(width: int, height: int, extra: bytes = b"", colour: int = 2) -> bytes:
    """A black PNG of 8 bits per channel; colour: 0 for gray, 2 for RGB, 6 for RGB and alpha."""
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour])
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    content = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", b"".join(_packed(row, height)))
    return b"\x89PNG\r\n\x1a\n" + content + _chunk(b"IEND", b"")


def _packed(row: bytes, rows: int) -> Iterator[bytes]:
    packer = zlib.compressobj(1)
    at_once = max(1, MEGABYTE // len(row))
    for start in range(0, rows, at_once):
        yield packer.compress(row * min(at_once, rows - start))
    yield packer.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg(side: int, before: bytes = b"", scans: int = 1) -> bytes:
    """A gray progressive JPEG with `before` as its first segments and its last scan repeated."""
    content = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:2] + before + content[2:last] + content[last:-2] * scans + content[-2:]


def _gif(before: bytes) -> bytes:
    """A GIF with `before` between its header and its picture."""
    content = saved(Image.new("L", (64, 64), 90), "GIF")
    start = content.index(b"\x2c\0\0\0\0")
    return content[:start] + before + content[start:]
