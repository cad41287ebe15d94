"""MS COCO: objects cut out by bounding box, classified by their category.

    DIRECTORY/annotations/instances_val2017.json     one or several splits; those are used
    DIRECTORY/val2017/000000000139.jpg               whose folder of images exists

Left out are crowds (one box around many objects), boxes below the minimum size of `items`, and
images that are not on disk.
"""

from collections.abc import Mapping
from pathlib import Path

from airlib.images.items import ImageItem, large_enough
from airlib.studies.misalignment.datasets.layout import (
    annotations,
    checked_box,
    image_names,
    read_json,
    required_files,
    splits_on_disk,
)
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream


def open_coco(directory: Path) -> ConceptDataset:
    """MS COCO: objects of all splits in `directory`, cut out by bounding box, by category.

    directory: holds `annotations/instances_SPLIT.json` and a folder of images per split. Raises
    AirlibError if there is no complete split; reading a damaged file raises it later.
    """
    content = "the annotations of MS COCO, e.g. instances_val2017.json"
    files = required_files(directory / "annotations", ["instances_*.json"], content)
    splits = {file: file.stem.removeprefix("instances_") for file in files}
    splits = splits_on_disk(directory, splits, "MS COCO")
    return ConceptDataset("coco", lambda: _stream(directory, splits))


def _stream(root: Path, splits: Mapping[Path, str]) -> Stream:
    for file, split in splits.items():
        content = read_json(file)
        with annotations(file):
            yield from _objects(content, root, split)


def _objects(content: dict, root: Path, split: str) -> Stream:
    labels = {category["id"]: category["name"] for category in content["categories"]}
    present = image_names(root / split)
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        name = files[annotation["image_id"]]
        left, top, width, height = annotation["bbox"]
        box = checked_box(left, top, left + width, top + height)
        if name in present and large_enough(box) and not annotation.get("iscrowd"):
            yield labels[annotation["category_id"]], ImageItem(root, f"{split}/{name}", box)
