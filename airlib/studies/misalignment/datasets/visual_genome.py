"""Visual Genome: objects cut out by bounding box, classified by their name.

    DIRECTORY/objects.json             [{"image_id": 1, "objects": [{"names": ["tree"],
                                       "x": 0, "y": 0, "w": 799, "h": 557, ...}, ...]}, ...]
    DIRECTORY/VG_100K/2.jpg            the images of both archives, each in its folder
    DIRECTORY/VG_100K_2/1.jpg

Names were typed by annotators: the first one counts, in lower case. Tens of thousands were used
once or twice, so ask for a least number of images per class. Left out are boxes below the minimum
size of `items` and images that are not on disk.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from airlib.errors import AirlibError
from airlib.images.items import ImageItem, large_enough
from airlib.studies.misalignment.datasets.layout import (
    annotations,
    checked_box,
    image_names,
    required_files,
)
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream

IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
BLOCK = 1 << 20  # characters
SPACE = re.compile(r"[\s,]*")  # between elements


def open_visual_genome(directory: Path) -> ConceptDataset:
    """Visual Genome: objects of all images in `directory`, cut out by bounding box, by first name.

    directory: holds `objects.json` and the folders VG_100K and VG_100K_2, at least one of them.
    Raises AirlibError if these are missing; reading a damaged file raises it later.
    """
    (file,) = required_files(directory, ["objects.json"], "the objects of Visual Genome")
    if not any((directory / folder).is_dir() for folder in IMAGE_FOLDERS):
        raise AirlibError(f"{directory} has no folder {' or '.join(IMAGE_FOLDERS)} with images")
    return ConceptDataset("visual_genome", lambda: _stream(file))


def _stream(file: Path) -> Stream:
    root = file.parent
    folders = [folder for folder in IMAGE_FOLDERS if (root / folder).is_dir()]
    present = {name: folder for folder in folders for name in image_names(root / folder)}
    with annotations(file):
        for image in _elements(file):
            name = f"{image['image_id']}.jpg"
            if name in present:
                yield from _objects(image, root, f"{present[name]}/{name}")


def _objects(image: dict, root: Path, name: str) -> Stream:
    for found in image["objects"]:
        left, top = found["x"], found["y"]
        box = checked_box(left, top, left + found["w"], top + found["h"])
        label = found["names"][0].strip().lower() if found["names"] else ""
        if label and large_enough(box):
            yield label, ImageItem(root, name, box)


def _elements(file: Path) -> Iterator[dict]:
    """The elements of a JSON list one by one: this file would take gigabytes as Python objects.

    Raises ValueError if the file is no such list or ends early.
    """
    decoder = json.JSONDecoder()
    with file.open(encoding="utf-8") as source:
        text = source.read(BLOCK)
        position = _past_space(text, 0)
        if text[position : position + 1] != "[":
            raise ValueError("it is no list")
        position += 1
        while True:
            position = _past_space(text, position)
            if text.startswith("]", position):
                return
            try:
                element, position = decoder.raw_decode(text, position)
            except ValueError:
                more = source.read(max(BLOCK, len(text) - position))  # or a long one takes for ever
                if not more:
                    raise
                text, position = text[position:] + more, 0
                continue
            yield element


def _past_space(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    assert found is not None  # the pattern also matches nothing at all
    return found.end()
