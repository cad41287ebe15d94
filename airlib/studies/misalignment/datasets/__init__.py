"""The image data sets of study 1, read from their published layouts on disk.

    dataset = open_dataset("coco", directory)                   # "openmoji" needs no directory
    classes = dataset.sample(images_per_class=200, seed=0)      # {label: [item, ...]}
    image = classes["traffic light"][0].read()                  # PIL, RGB

A data set is a stream of labelled items, and each layout is one module that yields that stream:
whole images from `folders` (ImageNet, Caltech-101, your own) and `cifar`; objects cut out by
bounding box from `coco`, `open_images` and `visual_genome` (AIR section 3.1 takes these six). The
drawings of `openmoji` are a data set that installs as a package.
"""

from collections.abc import Callable
from pathlib import Path

from airlib.errors import AirlibError
from airlib.studies.misalignment.datasets.cifar import open_cifar100
from airlib.studies.misalignment.datasets.coco import open_coco
from airlib.studies.misalignment.datasets.folders import (
    open_caltech101,
    open_image_folder,
    open_imagenet,
)
from airlib.studies.misalignment.datasets.open_images import open_open_images
from airlib.studies.misalignment.datasets.openmoji import open_openmoji, package_folder
from airlib.studies.misalignment.datasets.sampling import ConceptDataset
from airlib.studies.misalignment.datasets.visual_genome import open_visual_genome

DATASETS: dict[str, Callable[[Path], ConceptDataset]] = {
    "imagenet": open_imagenet,
    "caltech101": open_caltech101,
    "cifar100": open_cifar100,
    "coco": open_coco,
    "open_images": open_open_images,
    "visual_genome": open_visual_genome,
    "openmoji": open_openmoji,
    "folder": open_image_folder,
}


def open_dataset(name: str, directory: str | Path = "") -> ConceptDataset:
    """The data set called `name` (a key of DATASETS) in its published layout in `directory`.

    Without a directory "openmoji" is read from its installed package.

    Raises AirlibError for another name, or where a file or folder of the layout is missing.
    """
    if name not in DATASETS:
        raise AirlibError(f"there is no data set {name!r}; choose one of {', '.join(DATASETS)}")
    if not directory and name != "openmoji":
        raise AirlibError(f"say in which directory the data set {name} lies")
    directory = directory or package_folder()
    return DATASETS[name](Path(directory).expanduser())
