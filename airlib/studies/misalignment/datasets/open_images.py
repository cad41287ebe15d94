"""Open Images: objects cut out by bounding box, classified by their label.

    DIRECTORY/class-descriptions-boxable.csv         "/m/0k4j,Car" per line; any published edition
    DIRECTORY/validation-annotations-bbox.csv        one or several splits; those are used
    DIRECTORY/validation/000026e7ee790996.jpg        whose folder of images exists

Boxes are fractions of width and height. Left out are boxes around a group or drawn from inside the
object (the columns IsGroupOf and IsInside), boxes below the minimum size of `items`, and images
that are not on disk.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from airlib.images.items import SMALLEST_FRACTION, ImageItem, large_enough
from airlib.studies.misalignment.datasets.layout import (
    annotations,
    checked_box,
    image_names,
    required_files,
    splits_on_disk,
)
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream

DESCRIPTIONS = ["*class-descriptions*.csv"]
BOXES = ["*-annotations-bbox.csv"]
SIDES = ("XMin", "YMin", "XMax", "YMax")


def open_open_images(directory: Path) -> ConceptDataset:
    """Open Images: objects of all splits in `directory`, cut out by bounding box, by label.

    directory: holds the class descriptions, `SPLIT-annotations-bbox.csv` and a folder of images per
    split. Raises AirlibError if there is no complete split; reading a damaged file raises it later.
    """
    descriptions = required_files(directory, DESCRIPTIONS, 'lines such as "/m/0k4j,Car"')
    files = required_files(directory, BOXES, "the boxes of Open Images, a file per split")
    splits = splits_on_disk(directory, {file: _split(file) for file in files}, "Open Images")
    return ConceptDataset("open_images", lambda: _stream(descriptions, splits))


def _split(file: Path) -> str:
    """The split of e.g. "oidv6-train-annotations-bbox.csv": train."""
    return file.name.removesuffix("-annotations-bbox.csv").rpartition("-")[2]


def _stream(descriptions: list[Path], splits: Mapping[Path, str]) -> Stream:
    labels: dict[str, str] = {}
    for file in descriptions:
        with annotations(file), file.open(encoding="utf-8", newline="") as lines:
            labels.update((row[0], row[1]) for row in csv.reader(lines) if len(row) > 1)
    for file, split in splits.items():
        with annotations(file), file.open(encoding="utf-8", newline="") as lines:
            yield from _objects(csv.DictReader(lines), labels, file.parent, split)


def _objects(rows: csv.DictReader, labels: Mapping[str, str], root: Path, split: str) -> Stream:
    present = image_names(root / split)
    for row in rows:
        name = f"{row['ImageID']}.jpg"
        box = checked_box(*(float(row[side]) for side in SIDES))
        one_object = row["IsGroupOf"] != "1" and row["IsInside"] != "1"
        if one_object and name in present and large_enough(box, SMALLEST_FRACTION):
            item = ImageItem(root, f"{split}/{name}", box, "fractions")
            yield labels[row["LabelName"]], item
