"""Pictures from users: a file, its bytes, a PIL image or a tensor -> [1, 3, H, H] in [-1, 1].

    picture = read_picture("me.jpg", world.generator.resolution)

The rule: upright by the EXIF orientation; transparent parts on white; every colour model (gray,
palette, CMYK) as RGB; of 16 bits per channel the upper 8; the largest square around the middle;
scaled to H (bicubic, with antialiasing). Animations are refused: nobody knows which picture is
meant.

Nothing is aligned. Generators of faces were trained on faces with the eyes in fixed places (FFHQ),
and an encoder inverts others badly: cut a photograph before, so that the head, upright, fills about
the middle half of a square, the eyes a little above its middle.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from airlib.errors import AirlibError
from airlib.images.checks import checked_pictures
from airlib.images.decoding import opened, reading

LEAST_SIDE = 16  # pixels
MANY_PIXELS = (
    50_000_000  # 48 megapixels of a telephone; what has more is read at half its size or less
)
ROWS = 512  # at a time, where pixels are converted
ORIENTATION = 0x0112  # in EXIF data

Region = tuple[int, int, int, int]  # left, top, right, bottom, in pixels as stored


def read_picture(source: str | Path | bytes | Image.Image | Tensor, size: int) -> Tensor:
    """A picture of any kind as a tensor [1, 3, size, size] in [-1, 1].

    source: path of a file (BMP, GIF, JPEG, PNG, TIFF, WebP), its bytes, a PIL image, or a tensor
    [3, h, w] or [1, 3, h, w] of floats in [-1, 1] or of bytes.

    The picture is turned upright by its EXIF orientation, put on white where it is transparent,
    made RGB, cut to the largest square around its middle, and scaled (bicubic, with antialiasing).

    What has more than 50 million pixels is read at half its size, or less (`as_seen`).

    Raises AirlibError for what is no picture, a damaged file, an animation, a side below 16 pixels,
    or more pixels than `airlib.images.decoding.opened` takes (150 million).
    """
    if isinstance(source, Tensor):
        return _from_tensor(source, size)
    if isinstance(source, Image.Image):
        with reading("the picture"):
            return _from_image(source, "the picture", size)
    file: BytesIO | Path
    if isinstance(source, bytes | bytearray):
        file, name = BytesIO(source), "the picture"
    elif isinstance(source, str | Path):
        file, name = Path(source), Path(source).name
        if not file.exists():
            raise AirlibError(f"there is no file {source}; check the path")
    else:
        raise AirlibError(
            f"a {type(source).__name__} is no picture; pass a path, bytes, a PIL image or a tensor"
        )
    with opened(file, name) as image:
        return _from_image(image, name, size)


def as_seen(image: Image.Image, region: Region | None = None) -> Image.Image:
    """An image, or a region of it, in mode RGB, upright by its EXIF orientation.

    It is on white where it is transparent; of 16 bits the upper 8 count. What has more than 50
    million pixels comes out at half its size, or a quarter if it is a progressive JPEG. Raises
    AirlibError for 32 bits per pixel, whose black and white are not known.
    """
    stored, orientation = image.size, image.getexif().get(ORIENTATION, 1)
    if image.width * image.height > MANY_PIXELS:
        # Only a JPEG becomes smaller; a progressive one keeps its coefficients beside its pixels.
        parts = 4 if "progressive" in image.info else 2
        image.draft(None, (image.width // parts, image.height // parts))
    factor = image.width / stored[0]
    left, top, right, bottom = region or (0, 0, *stored)
    region = (int(left * factor), int(top * factor), round(right * factor), round(bottom * factor))
    seen = _converted(image, region)
    if orientation == 1:
        return seen
    seen.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(seen)


def _converted(image: Image.Image, region: Region) -> Image.Image:
    """A region in mode RGB, at half its size if it is large; some rows at a time, as each colour
    model on the way has four bytes per pixel.
    """
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    step = 2 if width * height > MANY_PIXELS else 1
    result = Image.new("RGB", (-(-width // step), -(-height // step)))
    for row in range(0, height, ROWS):
        strip = image.crop((left, top + row, right, top + min(row + ROWS, height)))
        result.paste(rgb(strip).reduce(step), (0, row // step))
    return result


def rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB: on white where it is transparent, of 16 bits the upper 8.

    Raises AirlibError for 32 bits per pixel, whose black and white are not known.
    """
    if image.mode == "F" or (image.mode == "I" and np.asarray(image).max() > 0xFFFF):
        raise AirlibError(
            f"an image of mode {image.mode} has 32 bits per pixel, whose black and white are "
            "anybody's guess; save it with 8 or 16"
        )
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The largest square around the middle of an image, scaled (bicubic) to a side of `size`."""
    return ImageOps.fit(image, (size, size))


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image of mode RGB as a tensor [3, H, W] of floats in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1], of any shape, as uint8: rounded to the nearest of 256 levels, clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _from_image(image: Image.Image, name: str, size: int) -> Tensor:
    _check_size(*image.size, name)
    several = getattr(image, "is_animated", False)
    if several and image.format != "MPO":  # there the others are previews of a camera
        raise AirlibError(f"{name} holds several pictures; save the one that you mean by itself")
    return to_tensor(square(as_seen(image), size))[None]


def _from_tensor(pixels: Tensor, size: int) -> Tensor:
    shape = list(pixels.shape)
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
        raise AirlibError(f"expected a picture [3, h, w] or [1, 3, h, w], got {shape}")
    height, width = pixels.shape[2:]
    _check_size(width, height, "the picture")
    if pixels.dtype == torch.uint8:
        pixels = pixels / 127.5 - 1
    elif not pixels.is_floating_point():
        raise AirlibError(f"a picture is of floats or bytes (uint8), not of {pixels.dtype}")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = checked_pictures(pixels[..., top : top + side, left : left + side].float())
    if side != size:
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return pixels.clamp(-1, 1)


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < LEAST_SIDE:
        raise AirlibError(
            f"{name} has {width} x {height} pixels; {LEAST_SIDE} a side are the least to see "
            "anything in"
        )
