"""Pictures from users: one rule for every kind of file, and one sentence for what is no picture."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from airlib.errors import AirlibError
from airlib.images.decoding import MOST_PIXELS
from airlib.images.pictures import MANY_PIXELS, read_picture
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
