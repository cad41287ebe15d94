"""What a file is that is no adaptation, and what to do with it instead.

hint_for(Path("samples.npz"))    # "is a file of numpy arrays; save its images as PNG files ..."
"""

import tarfile
import zipfile
from pathlib import Path

from airlib.errors import AirlibError
from airlib.files import open_zip
from airlib.images.decoding import opened

IMAGES = "save its images as PNG files in a folder, and give the folder"
WEIGHTS = (
    "is a weight file of another project, no adaptation; run `airlib import` on it, draw images "
    "with it and give their folder"
)
ARCHIVE = "is an archive; unpack it and give the folder with the images"


def hint_for(path: Path) -> str | None:
    """What to do with a regular file, if its content is of a known kind other than ours.

    None for a safetensors file, and for what is not known.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x93NUMPY"):
        return f"is a numpy array; {IMAGES}"
    if zipfile.is_zipfile(path):
        return _of_zip(path)
    if head.startswith(b"\x80"):
        return WEIGHTS
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or tarfile.is_tarfile(path):
        return ARCHIVE
    return "is one picture; give the folder that holds it" if _is_picture(path) else None


def _of_zip(path: Path) -> str:
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return ARCHIVE
    if names and all(name.endswith(".npy") for name in names):
        return f"is a file of numpy arrays; {IMAGES} (--references takes one of statistics)"
    return WEIGHTS if any(name.endswith("data.pkl") for name in names) else ARCHIVE


def _is_picture(path: Path) -> bool:
    try:
        with opened(path, path.name):
            return True
    except AirlibError:
        return False
