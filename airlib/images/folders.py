"""A folder of images from any tool, as the batches [B, 3, H, W] in [-1, 1] that metrics take.

    images = open_image_set(Path("samples"), resize=64)
    scores = scores_of(images, reference, "full")

PNG, JPEG, WebP and BMP files count, by name; hidden files and sub-folders do not. Pictures come
out as people see them: upright by their EXIF orientation, gray as three equal channels, transparent
parts on white, 16 bits per channel cut to the upper 8 (`ImageItem`). All must be of one size, or
`resize` makes them squares of so many pixels: the shorter side is scaled to it (bicubic, with
antialiasing) and the rest cut off around the middle. Files that cannot be read to their end are
left out and counted.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from airlib.errors import AirlibError, printable
from airlib.files import write_atomically
from airlib.images.items import ImageItem
from airlib.images.pictures import square, to_bytes, to_tensor
from airlib.progress import track

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
BATCH_PIXELS = 4 * 1024**2  # per batch, and at most 50 images: what `images_at_once` draws


@dataclass(frozen=True, eq=False)
class ImageSet(Sequence[Tensor]):
    """The images of a folder as a sequence of batches [B, 3, H, W] in [-1, 1], read when asked for.

    `name` is that of the folder, `items` are its readable images and `skipped` the names of its
    unreadable files; `size` is (width, height) in pixels. `resize`: side of the square that each
    image is made, None for images as they are.
    """

    name: str
    items: tuple[ImageItem, ...]
    size: tuple[int, int]
    resize: int | None
    skipped: tuple[str, ...]

    @property
    def batch(self) -> int:
        """Images per batch, the last one excepted: at most 50, fewer where they are large."""
        return min(50, max(1, BATCH_PIXELS // (self.size[0] * self.size[1])))

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        items = self.items[index * self.batch : (index + 1) * self.batch]
        if index < 0 or not items:
            raise IndexError(index)
        return torch.stack([to_tensor(_read(item, self.resize)) for item in items])


def open_image_set(
    folder: Path, resize: int | None = None, most: int | None = None, fewest: int = 1
) -> ImageSet:
    """The readable images directly in a folder, the first `most` of them by name.

    PNG, JPEG, WebP and BMP files count. resize: make each image a square of so many pixels a side,
    by scaling (bicubic) and cutting around the middle; otherwise all must be of one size.
    Every file is decoded once here, so that what is wrong shows before any work is done; one
    warning counts the unreadable ones.

    Raises AirlibError for a missing folder, fewer than `fewest` images, and images of two sizes.
    """
    if not folder.is_dir():
        raise AirlibError(f"{folder} is no folder of images; check the path")
    items, sizes, skipped = [], [], []
    for name in track(picture_names(folder), f"reading {folder.name}"):
        item = ImageItem(folder, name)
        try:
            sizes.append(_read(item, resize).size)
        except AirlibError:
            skipped.append(name)
            continue
        items.append(item)
        if len(items) == most:
            break
    if len(items) < fewest and len(items) != most:
        unreadable = f" ({len(skipped)} more cannot be read)" if skipped else ""
        raise AirlibError(
            f"{folder} holds {len(items)} images{unreadable}; at least {fewest} are needed, as "
            f"{', '.join(sorted(IMAGE_SUFFIXES))} files directly in it"
        )
    _check_sizes(items, sizes)
    if skipped:
        warnings.warn(
            printable(
                f"{folder.name}: skipped {len(skipped)} of {len(skipped) + len(items)} images, "
                f"which cannot be read; the first is {skipped[0]}"
            ),
            stacklevel=2,
        )
    return ImageSet(folder.name, tuple(items), sizes[0], resize, tuple(skipped))


def save_images(batches: Sequence[Tensor], folder: Path) -> None:
    """Write batches of images as folder/00000.png, 00001.png, ..., 8 bits per channel.

    batches: each [B, 3, H, W] in [-1, 1]. Raises AirlibError if other images are in the folder: a
    set must not mix with what is there.
    """
    there, number = set(picture_names(folder)) if folder.is_dir() else set(), 0
    expected = [f"{i:05}.png" for i in range(sum(map(len, batches)))] if there else []
    if foreign := sorted(there.difference(expected)):
        raise AirlibError(f"{folder} holds other images ({foreign[0]}); choose an empty folder")
    for batch in batches:
        for pixels in to_bytes(batch).permute(0, 2, 3, 1).cpu().numpy():
            image = Image.fromarray(pixels)
            write_atomically(folder / f"{number:05}.png", image.save)
            number += 1


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: a hidden one, such as the `._x.png` in a
    zip that was made on a Mac, or its folder `__MACOSX`.
    """
    return name.startswith(".") or name == "__MACOSX"


def picture_names(folder: Path) -> list[str]:
    """Names of the pictures directly in a folder, by name: sorted, hidden ones left out."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)
    )


def _read(item: ImageItem, resize: int | None) -> Image.Image:
    image = item.read()
    return square(image, resize) if resize else image


def _check_sizes(items: Sequence[ImageItem], sizes: Sequence[tuple[int, int]]) -> None:
    for item, size in zip(items, sizes, strict=True):
        if size != sizes[0]:
            first, other = (f"{width} x {height}" for width, height in (sizes[0], size))
            raise AirlibError(
                f"{items[0].name} has {first} pixels and {item.name} {other}; make all images one "
                "size, or have them resized (--resize N)"
            )
