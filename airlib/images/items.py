"""One image of a data set: where it lies, which part of it is meant, and how to read it.

An item is a promise: nothing is opened before `read`, which worker processes call. Its `key` names
it within its data set, without the folder the data set lies in, so that a sample drawn by key is
the same on every machine.

Pictures come out as people see them: turned upright by their EXIF orientation, transparent parts on
white, every colour model (grayscale, palette, CMYK) as RGB, and of 16 bits per channel the upper 8.
A bounding box counts the pixels as they are stored, before turning, and is rounded to the nearest
pixel edges. The data sets do not say which of the two they mean, and it matters for few of their
images.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

from airlib.images.decoding import opened
from airlib.images.pictures import Region, as_seen

# Smaller objects are left out: CLIP enlarges its input to 224 pixels, and MS COCO itself calls an
# object of less than 32 x 32 pixels small. The paper states no minimum; this one is our choice.
SMALLEST_BOX = 32  # pixels, both sides
SMALLEST_FRACTION = 0.05  # of both sides, where boxes are fractions: 51 of the usual 1024 pixels

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Item(Protocol):
    """What a data set needs of an image; `ImageItem` is the usual one."""

    @property
    def key(self) -> str:
        """The name of the image within its data set, the same on every machine."""

    @property
    def path(self) -> os.PathLike:
        """The file that holds the image."""

    def read(self) -> Image.Image:
        """The picture in mode RGB. Raises AirlibError, which names the file, if unreadable."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image of a data set: the file `root / name`, or the part of it inside `box`.

    root: folder of the data set. name: POSIX path within it. box: left, top, right and bottom edge,
    in pixels as stored or, with unit "fractions", in parts of width and height; None for the whole
    image. Nothing is opened before `read`.
    """

    root: Path
    name: str
    box: Box | None = None
    unit: Literal["pixels", "fractions"] = "pixels"

    @property
    def key(self) -> str:
        """The name of the image within its data set, with its box: the same on every machine."""
        return self.name if self.box is None else f"{self.name} {self.box}"

    @property
    def path(self) -> Path:
        """The file that holds the image."""
        return self.root / self.name

    def read(self) -> Image.Image:
        """The picture in mode RGB, upright by its EXIF orientation, on white where transparent.

        What has more than 50 million pixels comes out at half its size or less. Raises AirlibError,
        which names the file, if it is missing, damaged, no image or too large (`opened`), or if the
        box lies outside of the picture.
        """
        with opened(self.path, self.name) as file:
            return as_seen(file, self._region(file))

    def _region(self, image: Image.Image) -> Region | None:
        if self.box is None:
            return None
        width, height = image.size if self.unit == "fractions" else (1, 1)
        left, top, right, bottom = self.box
        left, right = (min(max(round(x * width), 0), image.width) for x in (left, right))
        top, bottom = (min(max(round(y * height), 0), image.height) for y in (top, bottom))
        if left >= right or top >= bottom:
            raise ValueError(f"the box {self.box} lies outside of {image.width} x {image.height}")
        return left, top, right, bottom


def large_enough(box: Box, smallest: float = SMALLEST_BOX) -> bool:
    """Whether both sides of a box (left, top, right, bottom) are at least `smallest` long."""
    left, top, right, bottom = box
    return right - left >= smallest and bottom - top >= smallest
