"""The manifests: which published weights and data sets the `paper` profile uses, and their facts.

    load_manifests()["stylegan2-ffhq"].files[0].url

`data_manifests/` holds one YAML file per group; each lists assets, each asset its files. The schema
is strict, because a slip in a manifest is found by someone who has waited hours for a download:
an unknown key, a wrong type, a hash of the wrong length or a name used twice is an error that names
the file and the entry.
"""

import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from airlib.documents import read_text
from airlib.errors import AirlibError
from airlib.profiles import profile_names

IN_PACKAGE = Path(__file__).parents[1] / "data_manifests"  # where a wheel has them
IN_CHECKOUT = Path(__file__).parents[2] / "data_manifests"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
LARGEST = 2**18  # bytes
FILE_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class AssetFile:
    """One published file of an asset. `url` is None where a person must download it.

    `bytes` is exact and enforced; where nobody states it, `bytes_estimate` helps to plan. `sha256`
    and `md5` are enforced; without either, the first download is trusted and recorded. `unpacked`
    names the folder (or file) beside an archive that stands for it once it has been unpacked.
    """

    file: str
    url: str | None
    sha256: str | None
    bytes: int | None = None
    bytes_estimate: int | None = None
    md5: str | None = None
    unpacked: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the file, exact or estimated; 0 where neither is known."""
        return self.bytes or self.bytes_estimate or 0

    @property
    def published_hash(self) -> str | None:
        """The hash that is enforced, as "sha256:..." or "md5:..."; None where none is published."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"md5:{self.md5}" if self.md5 else None


@dataclass(frozen=True)
class Asset:
    """A published network or data set: one entry of a manifest.

    `notebooks` are the numbers ("03") of the notebooks that need the asset; empty for an
    alternative, which is fetched only by name. `importer` names the module of airlib that reads the
    files, None if none does. `verified`: hashes and exact sizes are stated by the publisher, by a
    library that enforces them at every download, or were computed from the file; `note` has the
    source. `instructions`: how a person gets a file without `url`. `group` is the manifest: its
    name without ".yaml".
    """

    name: str
    title: str
    role: str
    notebooks: tuple[str, ...]
    licence: str
    page: str
    importer: str | None
    verified: bool
    note: str
    files: tuple[AssetFile, ...]
    instructions: str | None = None
    group: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files, exact or estimated."""
        return sum(file.size for file in self.files)


def load_manifests(directory: Path | None = None) -> dict[str, Asset]:
    """All published assets by name, in the order of the manifests.

    directory: folder of the manifests NAME.yaml; by default those that airlib ships. Raises
    AirlibError, which names file and entry, for anything that the schema does not allow.
    """
    directory = directory or (IN_PACKAGE if IN_PACKAGE.is_dir() else IN_CHECKOUT)
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise AirlibError(f"no manifests NAME.yaml in {directory}; install airlib again")
    assets: dict[str, Asset] = {}
    for path in paths:
        for index, entry in enumerate(_read(path)):
            name = entry.get("name") if isinstance(entry, dict) else None
            asset = _asset(entry, f"{path.name}, entry {name or index + 1}", path.stem)
            if asset.name in assets:
                raise AirlibError(f"{path.name}, entry {name}: the name is used twice")
            assets[asset.name] = asset
    return assets


def select(profile: str, only: Sequence[str] = ()) -> list[Asset]:
    """The assets that the notebooks of a profile need, or those that `only` names.

    profile: "tiny", which needs none, or "paper". only: names of assets or of groups (generators,
    datasets, ...); alternatives that no notebook needs can be had only so. Raises AirlibError for
    an unknown profile or name, with what is known.
    """
    if profile not in profile_names():
        raise AirlibError(f"unknown profile {profile!r}; choose from {', '.join(profile_names())}")
    if profile == "tiny" and not only:
        return []  # its weights are part of the package
    assets = load_manifests()
    groups = dict.fromkeys(asset.group for asset in assets.values())
    unknown = [name for name in only if name not in assets and name not in groups]
    if unknown:
        known = ", ".join([*groups, *assets])
        raise AirlibError(f"unknown asset {unknown[0]!r}; choose from {known}")
    if only:
        return [asset for asset in assets.values() if {asset.name, asset.group} & set(only)]
    return [asset for asset in assets.values() if asset.notebooks]


def listing(only: Sequence[str] = ()) -> list[str]:
    """One line of text per asset: name, size, notebooks, title and licence.

    only: names of assets or of groups; without them, every asset, alternatives included.
    """
    chosen = select("paper", only) if only else load_manifests().values()
    return [
        f"{asset.name:30} {megabytes(asset.size):>8}  "
        f"{'notebooks ' + ' '.join(asset.notebooks) if asset.notebooks else 'alternative':30} "
        f"{asset.title}. {asset.licence}"
        for asset in chosen
    ]


def megabytes(count: int) -> str:
    """A number of bytes as text, in units of 1000: 6.01 kB, 381 MB, 19.3 GB."""
    if count >= 0.9995e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:.3g} MB" if count >= 0.9995e6 else f"{count / 1e3:.3g} kB"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} is given twice", problem_mark=node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> list:
    text = read_text(path, "install airlib again", LARGEST)
    try:
        entries = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AirlibError(f"{path.name} is not valid YAML: {reason}") from error
    if not isinstance(entries, list):
        raise AirlibError(f"{path.name} must be a list of entries")
    return entries


def _asset(entry: Any, where: str, group: str) -> Asset:
    values = _checked(entry, Asset, where, skip=("group",))
    _require(NAME.fullmatch(values["name"]), where, "name may hold a-z, 0-9, '-' and '_' only")
    _require_url(values["page"], where, "page")
    for notebook in values["notebooks"]:
        good = isinstance(notebook, str) and re.fullmatch(r"\d\d", notebook)
        _require(good, where, f'notebooks: {notebook!r} is not two digits in quotes, such as "03"')
    _require(values["files"], where, "files is empty")
    values["files"] = tuple(_file(file, where) for file in values["files"])
    names = [file.file for file in values["files"]]
    _require(len(set(names)) == len(names), where, "two files have the same name")
    manual = any(file.url is None for file in values["files"])
    _require(
        values.get("instructions") or not manual, where, "a file without url needs instructions"
    )
    return Asset(**values | {"notebooks": tuple(values["notebooks"]), "group": group})


def _file(entry: Any, where: str) -> AssetFile:
    name = entry.get("file") if isinstance(entry, dict) else None
    where = f"{where}, file {name}" if isinstance(name, str) else f"{where}, files"
    file = AssetFile(**_checked(entry, AssetFile, where))
    for key in ("file", "unpacked"):
        value = getattr(file, key)
        plain = value is None or FILE_NAME.fullmatch(value)
        _require(plain, where, f"{key} must be a plain file name, not {value!r}")
    if file.url is not None:
        _require_url(file.url, where, "url")
    for key, digits in (("sha256", 64), ("md5", 32)):
        value = getattr(file, key)
        good = value is None or re.fullmatch(f"[0-9a-f]{{{digits}}}", value)
        _require(good, where, f"{key} must be {digits} digits 0-9 a-f, not {value!r}")
    sizes = [size for size in (file.bytes, file.bytes_estimate) if size is not None]
    one = len(sizes) == 1 and sizes[0] > 0
    _require(one, where, "needs a positive number of bytes or of bytes_estimate, one of the two")
    return file


def _checked(entry: Any, kind: type, where: str, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of an entry, if its keys and their types are those of the dataclass `kind`."""
    _require(isinstance(entry, dict), where, "must be a table of keys and values")
    known = {field.name: field for field in fields(kind) if field.name not in skip}
    for key, value in entry.items():
        _require(key in known, where, f"unknown key {key!r} (known: {', '.join(known)})")
        allowed = _types(known[key].type)
        good = type(value) in allowed  # type(), because a bool is an int
        _require(good, where, f"{key} must be {_names(allowed)}, not {value!r}")
        _require(value != "", where, f"{key} is empty")
    missing = [key for key, f in known.items() if f.default is MISSING and key not in entry]
    _require(not missing, where, f"lacks {', '.join(missing)}")
    return dict(entry)


def _types(annotation: Any) -> tuple[type, ...]:
    """What YAML may hold where the dataclass has `annotation`: a tuple is written as a list."""
    if get_origin(annotation) is tuple:
        return (list,)
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _names(types: tuple[type, ...]) -> str:
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)


def _require_url(value: str, where: str, key: str) -> None:
    good = re.fullmatch(r"https?://\S+", value)
    _require(good, where, f"{key} must begin with https:// or http://, not {value!r}")


def _require(condition: Any, where: str, problem: str) -> None:
    if not condition:
        raise AirlibError(f"{where}: {problem}")
