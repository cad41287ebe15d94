"""Is a download, whose hash nobody publishes, the file that is meant? It is looked at once."""

import zipfile
from importlib import import_module
from pathlib import Path

from airlib.assets.manifests import Asset, AssetFile
from airlib.errors import AirlibError

BEGINNINGS = {  # ending of the name -> where which bytes are
    ".gz": (0, b"\x1f\x8b"),
    ".tgz": (0, b"\x1f\x8b"),
    ".bz2": (0, b"BZh"),
    ".tar": (257, b"ustar"),
}


def check_first_copy(asset: Asset, file: AssetFile, path: Path) -> None:
    """Raise AirlibError if what arrived at `path` cannot be `file`.

    Archives are known by their first bytes, a zip by its end. Weights are read whole by what the
    manifest names as their importer, which executes nothing.
    """
    if not _begins_like(path, file.file.lower()):
        raise AirlibError(f"{file.url} sends something else than the file {file.file}")
    if asset.importer and asset.importer.startswith("checkpoints."):
        import_module("airlib.checkpoints.importing").read(path)  # a room above: named by data


def _begins_like(path: Path, name: str) -> bool:
    if name.endswith(".zip"):
        return zipfile.is_zipfile(path)
    known = (begin for ending, begin in BEGINNINGS.items() if name.endswith(ending))
    place, expected = next(known, (0, b""))
    with path.open("rb") as opened:
        opened.seek(place)
        return opened.read(len(expected)) == expected
