"""CIFAR-100 in its binary version: 50,000 training images of 32 x 32 pixels in one file.

    DIRECTORY/cifar-100-binary/       as cifar-100-binary.tar.gz unpacks
        train.bin                     a record per image: coarse class, fine class, then 1,024 bytes
                                      each of red, green and blue, row by row
        fine_label_names.txt          a name per line, in the order of the fine classes

The "python version" holds the same images in a pickle, so it is not read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from airlib.documents import read_text
from airlib.errors import AirlibError
from airlib.studies.misalignment.datasets.layout import required_files
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream

SIZE = 32
PIXELS = 3 * SIZE * SIZE
RECORD = 2 + PIXELS  # bytes
BINARY = 'the "binary version" of CIFAR-100 (cifar-100-binary.tar.gz), not the python version'


@dataclass(frozen=True, slots=True)
class CifarImage:
    """One image of CIFAR-100: record number `record`, from 0, of the binary file at `path`."""

    path: Path
    record: int

    @property
    def key(self) -> str:
        return f"{self.path.name} {self.record:05}"

    def read(self) -> Image.Image:
        """The picture in mode RGB, 32 x 32. Raises AirlibError if the file ends within it."""
        data = np.fromfile(self.path, np.uint8, PIXELS, offset=self.record * RECORD + 2)
        if data.size != PIXELS:
            raise AirlibError(f"{self.path} ends within image {self.record}; fetch it again")
        return Image.fromarray(data.reshape(3, SIZE, SIZE).transpose(1, 2, 0).copy())


def open_cifar100(directory: Path) -> ConceptDataset:
    """CIFAR-100 in its binary version: the training images under their 100 fine classes,
    underscores being spaces.

    directory: holds `cifar-100-binary/`. Raises AirlibError for missing files, and for files that
    do not fit each other.
    """
    folder = directory / "cifar-100-binary"
    (path,) = required_files(folder, ["train.bin"], BINARY)
    (names_file,) = required_files(folder, ["fine_label_names.txt"], BINARY)
    names = read_text(names_file, f"fetch {BINARY}").split()
    if path.stat().st_size % RECORD:
        raise AirlibError(f"{path} is no whole number of {RECORD}-byte records; fetch it again")
    if path.stat().st_size and _classes(path).max() >= len(names):
        raise AirlibError(f"{path} has more classes than {names_file.name} names; fetch both again")
    return ConceptDataset("cifar100", lambda: _stream(path, names))


def _classes(path: Path) -> np.ndarray:
    """The fine class of every record, uint8 [N]; the images stay on disk."""
    return np.memmap(path, np.uint8, "r").reshape(-1, RECORD)[:, 1]


def _stream(path: Path, names: list[str]) -> Stream:
    for record, fine in enumerate(_classes(path).tolist()):
        yield names[fine].replace("_", " "), CifarImage(path, record)
