"""Folders of images from any tool: what pixels become, and what is refused or left out."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.images.folders import open_image_set, save_images
from airlib.seeding import rng


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    return tmp_path / "samples"


def levels(images: torch.Tensor) -> list[float]:
    """8-bit RGB values of the first pixel."""
    return ((images[0, :, 0, 0] + 1) * 127.5).tolist()


def png16(values: list[int], colour_type: int) -> bytes:
    """A PNG of one pixel with 16 bits per channel, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", pixel), chunk(b"IEND", b"")]
    )


# --- pixels


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 200, 255), [10, 200, 255]),
        ("L", 90, [90, 90, 90]),
        ("RGBA", (0, 100, 200, 255), [0, 100, 200]),
        ("RGBA", (0, 100, 200, 0), [255, 255, 255]),
        ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # a fifth of it, the rest white
        ("LA", (0, 0), [255, 255, 255]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 0x80FF, [0x80, 0x80, 0x80]),
    ],
)
def test_pixels_of_every_kind_of_png(folder, mode, colour, expected):
    Image.new(mode, (4, 4), colour).save(folder / "a.png")
    images = open_image_set(folder)[0]
    assert images.shape == (1, 3, 4, 4) and images.dtype == torch.float32
    assert levels(images) == pytest.approx(expected, abs=1e-3)


def test_sixteen_bits_keep_their_upper_eight(folder):
    for name, values, colour_type, expected in (
        ("gray", [0x12FF], 0, [0x12] * 3),
        ("rgb", [0x0100, 0x7FFF, 0xFF00], 2, [1, 0x7F, 255]),
        ("rgba", [0x0100, 0x7FFF, 0xFF00, 0xFFFF], 6, [1, 0x7F, 255]),
    ):
        (folder / "a.png").write_bytes(png16(values, colour_type))
        assert levels(open_image_set(folder)[0]) == pytest.approx(expected, abs=1e-3), name


def test_palettes_cmyk_and_jpeg(folder):
    Image.new("RGB", (8, 8), (200, 40, 90)).quantize(4).save(folder / "a.png")
    assert levels(open_image_set(folder)[0]) == pytest.approx([200, 40, 90], abs=1e-3)
    (folder / "a.png").unlink()
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(folder / "a.JPG")
    assert levels(open_image_set(folder)[0]) == pytest.approx([255] * 3, abs=2)


def test_pictures_are_turned_upright(folder):
    """Orientation 6: what is stored as the left column is shown as the top row."""
    stored = Image.new("RGB", (16, 8), (0, 0, 0))
    stored.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(folder / "a.png", exif=exif)
    images = open_image_set(folder)
    assert images.size == (8, 16)
    assert images[0][0, 0, :8].min() == 1 and images[0][0, 0, 8:].max() == -1


def test_what_was_saved_comes_back_within_half_a_level(folder):
    images = torch.rand(7, 3, 6, 9, generator=rng(0, "images")) * 2.2 - 1.1
    save_images(images.split(3), folder)
    back = torch.cat(list(open_image_set(folder)))
    assert (back - images.clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-6
    save_images(images.split(3), folder)  # again, as after a kill
    assert torch.equal(torch.cat(list(open_image_set(folder))), back)


def test_batches_are_read_by_name_and_when_asked_for(folder):
    for number in range(120):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number:03}.png")
    images = open_image_set(folder)
    assert [len(batch) for batch in images] == [50, 50, 20] and len(images) == 3
    red = (torch.cat(list(images))[:, 0, 0, 0] + 1) * 127.5
    assert red.round().tolist() == list(range(120))
    (folder / "119.png").unlink()
    assert torch.equal(images[0], images[0])
    assert [torch.equal(*pair) for pair in zip(images[:2], images, strict=False)] == [True, True]
    first = open_image_set(folder, most=60)
    assert sum(map(len, first)) == 60 and torch.equal(first[0], images[0])
    with pytest.raises(IndexError):
        images[3]


def test_large_images_come_in_small_batches(folder):
    for number in range(5):
        Image.new("L", (1024, 1024), number).save(folder / f"{number}.png")
    assert [len(batch) for batch in open_image_set(folder)] == [4, 1]


def test_resize_cuts_squares_around_the_middle(folder):
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    wide.paste((0, 255, 0), (16, 0, 48, 32))
    wide.save(folder / "wide.png")
    Image.new("RGB", (10, 40), (0, 255, 0)).save(folder / "high.png")
    images = torch.cat(list(open_image_set(folder, resize=16)))
    assert images.shape == (2, 3, 16, 16)
    green = torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand_as(images)
    inner = (..., slice(1, -1))  # bicubic filters see across the cut
    torch.testing.assert_close(images[inner], green[inner])


# --- what is refused or left out


def test_mixed_sizes_name_two_files_and_the_remedy(folder):
    for name, size in {"a": (8, 8), "b": (8, 8), "c": (9, 8)}.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    with pytest.raises(AirlibError, match=r"a.png has 8 x 8 .* c.png 9 x 8; .*--resize N"):
        open_image_set(folder)
    assert len(open_image_set(folder, resize=8).items) == 3


def test_unreadable_files_are_left_out_and_counted(folder):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.png", "d.png", "e.png"):
        Image.fromarray(noise).save(folder / name)
    (folder / "a.png").write_bytes(b"")
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-200])  # truncated
    (folder / "d.png").write_bytes(b"a text")
    (folder / "notes.txt").write_text("no image, by its name")
    (folder / ".hidden.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 3 of 5 images, .* the first is a.png") as caught:
        images = open_image_set(folder)
    assert len(caught) == 1
    assert images.skipped == ("a.png", "b.jpg", "d.png")
    assert torch.cat(list(images)).shape == (2, 3, 32, 32)


def test_folders_without_images(folder):
    with pytest.raises(AirlibError, match="no folder of images"):
        open_image_set(folder / "missing")
    with pytest.raises(AirlibError, match="holds 0 images; at least 1"):
        open_image_set(folder)
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(AirlibError, match=r"holds 0 images \(1 more cannot be read\)"):
        open_image_set(folder)


def test_drawn_images_do_not_mix_with_others(folder):
    Image.new("RGB", (4, 4)).save(folder / "mine.png")
    with pytest.raises(AirlibError, match=r"holds other images \(mine.png\)"):
        save_images([torch.zeros(2, 3, 4, 4)], folder)
    assert [path.name for path in folder.iterdir()] == ["mine.png"]
