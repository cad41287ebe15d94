"""Pictures from users: one rule for every kind of file, and one sentence for what is no picture."""

import os
import struct
import zlib
from io import BytesIO

import hostile_sizes
import numpy as np
import pytest
import torch
from budgets import outcomes
from PIL import Image
from torch import Tensor

from airlib.errors import AirlibError
from airlib.images.decoding import MOST_PIXELS
from airlib.images.items import ImageItem
from airlib.images.pictures import MANY_PIXELS, as_seen, read_picture
from airlib.seeding import rng


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(picture: Tensor) -> list[float]:
    """8-bit RGB values of the middle."""
    middle = picture.shape[2] // 2
    return ((picture[0, :, middle, middle] + 1) * 127.5).tolist()


def smooth(width: int, height: int) -> Image.Image:
    """A colour gradient with a ramp of its own in each channel."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8))


FRAMES = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]


# --- pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("size", [16, 64])
def test_every_kind_of_file_gives_the_same_picture(tmp_path, kind, size):
    image = Image.new("RGB", (40, 30), (200, 40, 90))
    content = file_of(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "a.jpg"  # the content counts, not the name
    path.write_bytes(content)
    picture = read_picture(content, size)
    assert picture.shape == (1, 3, size, size) and picture.dtype == torch.float32
    assert levels(picture) == pytest.approx([200, 40, 90], abs=3 if kind == "JPEG" else 1e-3)
    for source in (path, str(path), Image.open(BytesIO(content))):
        assert torch.equal(read_picture(source, size), picture)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 90, [90, 90, 90]),
        ("1", 1, [255, 255, 255]),
        ("LA", (0, 0), [255, 255, 255]),
        ("RGBA", (0, 100, 200, 255), [0, 100, 200]),
        ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # a fifth of it, the rest white
        ("I;16", 0x80FF, [0x80, 0x80, 0x80]),
        ("P", 0, [0, 0, 0]),
    ],
)
def test_colour_models_become_rgb_on_white(mode, colour, expected):
    picture = read_picture(file_of(Image.new(mode, (20, 20), colour)), 16)
    assert levels(picture) == pytest.approx(expected, abs=1e-3)


def test_a_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert levels(read_picture(file_of(image), 16)) == pytest.approx([10, 20, 30], abs=1e-3)
    shown = read_picture(file_of(image, transparency=0), 16)
    assert levels(shown) == pytest.approx([255] * 3, abs=1e-3)


def test_cmyk_becomes_rgb():
    content = file_of(Image.new("CMYK", (20, 20), (0, 0, 0, 255)), "TIFF")
    assert levels(read_picture(content, 16)) == pytest.approx([0, 0, 0], abs=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    """The stored corner that the EXIF standard says is shown at the top left."""
    shown_first = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1),
                   5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}  # fmt: skip
    x, y = shown_first[orientation]
    stored = Image.new("RGB", (32, 32), "black")
    stored.paste((255, 255, 255), (16 * x, 16 * y, 16 * x + 16, 16 * y + 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(file_of(stored, "PNG", exif=exif), 32)
    assert picture[..., :16, :16].min() == 1 and picture.sum() == picture[0].numel() * -0.5


@pytest.mark.parametrize("shape", [(64, 32), (20, 40), (33, 100)])
def test_the_square_around_the_middle_is_kept(shape):
    """Its outer parts are green, the middle is a ramp from left to right."""
    width, height = shape
    side, image = min(shape), Image.new("RGB", shape, (0, 255, 0))
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(smooth(side, side), (left, top))
    cut = read_picture(image.crop((left, top, left + side, top + side)), 16)
    inner = (..., slice(2, -2), slice(2, -2))  # an odd rest is cut between two pixels
    torch.testing.assert_close(read_picture(image, 16)[inner], cut[inner], atol=0.1, rtol=0)


def test_the_previews_that_a_camera_adds_do_not_make_an_animation():
    content = file_of(smooth(40, 40), "MPO", save_all=True, append_images=FRAMES)
    assert Image.open(BytesIO(content)).is_animated
    first = read_picture(file_of(smooth(40, 40), "JPEG"), 32)
    torch.testing.assert_close(read_picture(content, 32), first)


def test_fine_detail_becomes_gray_and_no_pattern():
    checks = np.indices((128, 128)).sum(axis=0) % 2 * 255
    picture = read_picture(Image.fromarray(checks.astype(np.uint8)), 32)
    assert picture.abs().max() < 0.1


@pytest.mark.parametrize("shape", [(24, 24), (90, 90), (120, 80), (16, 16)])
def test_a_tensor_is_treated_like_the_file_of_the_same_picture(shape):
    image = smooth(*shape)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    of_file = read_picture(file_of(image), 16)
    for tensor in (pixels, pixels[None], pixels.double() / 127.5 - 1):
        picture = read_picture(tensor, 16)
        assert picture.shape == of_file.shape and picture.dtype == torch.float32
        torch.testing.assert_close(picture, of_file, atol=3 / 127.5, rtol=0)


def test_a_tensor_of_the_right_size_stays_as_it_is():
    pixels = 2 * torch.rand(1, 3, 64, 64, generator=rng(0, "pixels")) - 1
    assert torch.equal(read_picture(pixels, 64), pixels)


# --- what is refused


def png_header(width: int, height: int) -> bytes:
    """A PNG of so many pixels in 70 bytes, as a decompression bomb begins."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + check
    return content


ANIMATED = dict(save_all=True, append_images=FRAMES[1:])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "cannot read the image the picture"),
        (b"a text, no image", "cannot read the image the picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "cannot read"),
        (file_of(smooth(64, 64))[:-300], "cannot read"),
        (file_of(FRAMES[0], "GIF", **ANIMATED), "several pictures; save the one"),
        (file_of(FRAMES[0], "PNG", **ANIMATED), "several pictures"),
        (file_of(FRAMES[0], "WEBP", **ANIMATED), "several pictures"),
        (file_of(FRAMES[0], "TIFF", **ANIMATED), "several pictures"),
        (file_of(smooth(40, 15)), "has 40 x 15 pixels; 16 a side"),
        (png_header(12_500, 12_500), "12500 x 12500 pixels, more than 150 million; make it small"),
        (png_header(100_000, 100_000), "replace or remove|make it smaller"),
        (file_of(Image.new("F", (20, 20)), "TIFF"), "32 bits per pixel"),
        (file_of(Image.new("I", (20, 20), 70_000), "TIFF"), "32 bits per pixel"),
        (torch.zeros(3, 15, 40), "has 40 x 15 pixels"),
        (torch.zeros(1, 20, 20), r"expected a picture \[3, h, w\] .* got \[1, 20, 20\]"),
        (torch.zeros(2, 3, 20, 20), r"got \[2, 3, 20, 20\]"),
        (torch.zeros(3, 20, 20, dtype=torch.int64), "not of torch.int64"),
        (torch.full((3, 20, 20), 255.0), "and not from -1 to 1; scale them"),
        (torch.full((3, 20, 20), float("nan")), "NaN"),
        (7, "a int is no picture"),
        ("missing.png", "there is no file missing.png"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(source, words):
    with pytest.raises(AirlibError, match=words):
        read_picture(source, 64)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(AirlibError, match="cannot read the image"):
        read_picture(tmp_path, 64)


def test_the_limit_is_between_what_telephones_make_and_what_fills_the_memory():
    assert 8064 * 6048 <= MANY_PIXELS < 2**32 / 64
    assert 12_000 * 12_000 <= MOST_PIXELS < 2**30 / 6  # of 4 bytes, with room for what is made


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_damaged_files_give_a_picture_or_the_one_error(kind):
    whole = file_of(smooth(32, 32), kind)
    for trial in range(150):
        draw = rng(trial, "damage", kind)
        content = bytearray(whole[: int(torch.randint(1, len(whole) + 1, (), generator=draw))])
        for place in torch.randint(len(content), (3,), generator=draw).tolist():
            content[place] ^= 1 << int(torch.randint(8, (), generator=draw))
        try:
            assert read_picture(bytes(content), 16).shape == (1, 3, 16, 16)
        except AirlibError:
            continue


# --- large ones, and those that only say so


READERS = """
from airlib.images.items import ImageItem
from airlib.images.pictures import read_picture
def read(path):
    read_picture(path, 64)
"""


@pytest.mark.slow
def test_hostile_pictures_are_refused_within_the_budget(tmp_path):
    paths = [tmp_path / name for name in hostile_sizes.pictures()]
    for path, content in zip(paths, hostile_sizes.pictures().values(), strict=True):
        path.write_bytes(content)
    for name, outcome in outcomes(READERS, paths).items():
        assert name in outcome and "\n" not in outcome, outcome


@pytest.mark.slow
def test_honest_pictures_of_12000_pixels_open_within_the_budget(tmp_path):
    photograph = Image.new("RGB", (12_000, 12_000), (9, 80, 200))
    contents = {
        "RGB.png": hostile_sizes.png(12_000, 12_000),
        "RGBA.png": hostile_sizes.png(12_000, 12_000, colour=6),
        "baseline.jpg": file_of(photograph, "JPEG"),
        "progressive.jpg": file_of(photograph, "JPEG", progressive=True, subsampling=0),
    }
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    assert outcomes(READERS, paths) == dict.fromkeys(contents, "read")


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(AirlibError, match=f"{name} .it is no file"):
            read_picture(tmp_path / name, 64)
        with pytest.raises(AirlibError, match=f"{name} .it is no file"):
            ImageItem(tmp_path, name).read()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_rows_that_are_converted_one_after_the_other_are_the_whole_picture(mode):
    """In a picture of several batches of rows, turned by its EXIF orientation."""
    levels = np.arange(1500 * 40).reshape(1500, 40)
    wide = Image.fromarray(levels.astype(np.uint16)) if mode == "I;16" else smooth(40, 1500)
    image = wide if wide.mode == mode else wide.convert(mode)
    expected = (levels >> 8).astype(np.uint8) if mode == "I;16" else np.array(image.convert("RGB"))
    image.getexif()[0x0112] = 6
    turned = as_seen(image)
    assert turned.size == (1500, 40)
    upright = np.array(
        Image.fromarray(expected).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    )
    np.testing.assert_array_equal(np.array(turned), upright)


def test_a_large_picture_is_read_at_half_its_size(monkeypatch):
    monkeypatch.setattr("airlib.images.pictures.MANY_PIXELS", 150 * 100)
    image = smooth(300, 200)
    halved = np.array(as_seen(image), np.float32)
    assert halved.shape == (100, 150, 3)
    means = np.array(image, np.float32).reshape(100, 2, 150, 2, 3).mean((1, 3))
    assert np.abs(halved - means).max() <= 0.5
    for progressive, parts in ((False, 2), (True, 4)):
        content = file_of(image, "JPEG", quality=95, progressive=progressive)
        with Image.open(BytesIO(content)) as file:
            seen = as_seen(file)
        assert seen.size == (300 // parts, 200 // parts)


def test_a_box_in_a_large_picture_is_where_it_was(monkeypatch, tmp_path):
    image = Image.new("RGB", (400, 200), "white")
    image.paste("red", (200, 100, 300, 150))
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")
    monkeypatch.setattr("airlib.images.pictures.MANY_PIXELS", 2000)
    for name in ("a.jpg", "a.png"):
        part = ImageItem(tmp_path, name, (200, 100, 300, 150)).read()
        assert part.size == (50, 25)
        pixels = np.array(part, np.int16)[2:-2, 2:-2]
        assert np.abs(pixels - [255, 0, 0]).max() < 20
