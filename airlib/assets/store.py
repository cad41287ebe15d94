"""Published weights and data on this machine: fetched once, verified, found again.

    for finding in fetch("paper", only=["clip-vit-b32"]):
        print(finding.state, finding.path, finding.text)
    path = asset_file("clip-vit-b32")             # or an error that says how to get it

What exists is in the manifests (`airlib.assets.manifests`); everything goes to
`DIRECTORY/NAME/FILE`, where DIRECTORY is `$AIRLIB_ASSETS` or `~/.cache/airlib/assets`. A file that
a person puts there counts like one that was fetched. Each file is hashed once: its sha256, size and
time of change are kept in `airlib-lock.json`. Where a publisher states no hash, the first copy is
trusted if it can be read (`airlib.assets.first_copy`), and from then on another content is an error
that says what changed. Archives are unpacked where they lie, once they are verified; one that is
laid out otherwise than its manifest says is left to a person.
"""

import datetime
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock

from airlib.assets.archives import is_archive, unpack
from airlib.assets.downloads import ResumingDownloader
from airlib.assets.first_copy import check_first_copy
from airlib.assets.manifests import Asset, AssetFile, megabytes, select
from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.files import write_json

LOCK = "airlib-lock.json"
AS_IT_IS = "delete it, and the files that are there now will be trusted"
LOCK_ENTRY = {"sha256": str, "bytes": int, "modified_ns": int, "recorded": str}
PRESENT, MISSING, CORRUPT = "present", "missing", "corrupt"


@dataclass(frozen=True)
class Finding:
    """What is known about one file of an asset on this machine.

    `path` is where the file is or belongs; `state` is "present", "missing" or "corrupt"; `text`
    says how the file was verified, or what to do.
    """

    asset: Asset
    file: AssetFile
    path: Path
    state: str
    text: str


def asset_directory() -> Path:
    """The folder of published assets: `$AIRLIB_ASSETS`, by default `~/.cache/airlib/assets`."""
    return Path(os.environ.get("AIRLIB_ASSETS") or Path.home() / ".cache" / "airlib" / "assets")


def fetch(
    profile: str, only: Sequence[str] = (), directory: Path | None = None
) -> Iterator[Finding]:
    """Download the missing assets of a profile, file by file; yields a `Finding` for each file.

    only: names of assets or of groups (generators, datasets, ...); without them, all assets that
    the profile's notebooks need. directory: where to keep them, by default `asset_directory()`.
    One file that cannot be had does not stop the others: its finding says why and what to do.

    Raises AirlibError before the first download for an unknown name, a disk that is too small, a
    directory that cannot be written, and a damaged lock file.
    """
    directory = directory or asset_directory()
    files = [(asset, file) for asset in select(profile, only) for file in asset.files]
    _require_room(files, directory)
    write_json(directory / ".writable", {}).unlink(missing_ok=True)
    _read_lock(directory)
    for asset, file in files:
        yield _fetch(asset, file, directory)


def examine(asset: Asset, directory: Path | None = None) -> list[Finding]:
    """Say of each file of an asset whether it is present, missing or corrupt; nothing is written.

    A file that has not been hashed before, or has changed since, is hashed. directory: where assets
    are kept, by default `asset_directory()`.
    """
    directory = directory or asset_directory()
    return [_examine(asset, file, directory)[0] for file in asset.files]


def asset_file(name: str, file: str | None = None, directory: Path | None = None) -> Path:
    """The path of a verified file of the asset `name`; without `file`, of its first one.

    directory: where assets are kept, by default `asset_directory()`. Raises AirlibError if asset or
    file are unknown, and if the file is missing or corrupt, with what to do.
    """
    assets = [asset for asset in select("paper", [name]) if asset.name == name]
    for finding in (finding for asset in assets for finding in examine(asset, directory)):
        if file in (None, finding.file.file):
            if finding.state != PRESENT:
                raise AirlibError(f"{name}: {finding.text}")
            return finding.path
    raise AirlibError(f"asset {name} has no file {file!r}" if assets else f"no asset {name!r}")


# --- one file ------------------------------------------------------------------------------------


def _fetch(asset: Asset, file: AssetFile, directory: Path) -> Finding:
    """Fetch one file while no other process does."""
    path = directory / asset.name / file.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        try:
            finding, digest = _examine(asset, file, directory)
            if finding.state == MISSING and file.url is not None:
                _download(asset, file, path, _entry(directory, asset, file))
                finding, digest = _examine(asset, file, directory)
        except AirlibError as error:
            return Finding(asset, file, path, MISSING, str(error))
        if digest:
            _record(directory, finding, digest)
            finding, _ = _examine(asset, file, directory)
        return _unpack(finding) if finding.state == PRESENT else finding


def _unpack(finding: Finding) -> Finding:
    """Unpack a verified archive; one that cannot be unpacked here is left to a person."""
    path, file = finding.path, finding.file
    if file.unpacked is None or _unpacked(path, file) or not is_archive(path):
        return finding
    try:
        unpack(path, file.unpacked)
    except AirlibError as error:
        return replace(finding, text=f"{finding.text} ({error})")
    return _examine(finding.asset, file, path.parent.parent)[0]


def _download(asset: Asset, file: AssetFile, path: Path, entry: dict[str, Any]) -> None:
    trusted = {} if file.published_hash else entry
    known = file.published_hash or (f"sha256:{trusted['sha256']}" if trusted else None)
    part = path.with_name(f"{path.name}.part")
    look = None if known else partial(check_first_copy, asset, file)
    downloader = ResumingDownloader(part, file.bytes or trusted.get("bytes"), look)
    by_hand = f"or put the file at {path} (see {asset.page})"
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(file.url, known, path.name, path.parent, downloader=downloader)
    except requests.exceptions.HTTPError as error:
        status = f"{error.response.status_code} {error.response.reason}"
        raise AirlibError(f"{file.url} answers {status}; try again later, {by_hand}") from error
    except requests.exceptions.RequestException as error:
        raise AirlibError(
            f"no connection to {file.url} ({type(error).__name__}); run again to continue, "
            f"{by_hand}"
        ) from error
    except OSError as error:
        raise AirlibError(
            f"cannot write {part}: {error.strerror}; make room and run again to continue"
        ) from error
    except ValueError as error:  # another hash; pooch has deleted what came
        reason = str(error).split(". ")[0]
        remedy = _remedy(trusted) or f"run again in case the transfer was faulty, {by_hand}"
        raise AirlibError(f"{file.url}: {reason}; {remedy}") from error
    except AirlibError as error:
        remedy = _remedy(trusted) or f"try again later, {by_hand}"
        raise AirlibError(f"{error}; {remedy}") from error


def _examine(asset: Asset, file: AssetFile, directory: Path) -> tuple[Finding, str | None]:
    """(what is on disk, its sha256 if it had to be computed)."""
    path, entry = directory / asset.name / file.file, _entry(directory, asset, file)
    if not path.is_file():
        if _unpacked(path, file):
            text = f"unpacked as {file.unpacked}, not checked"
            return Finding(asset, file, path, PRESENT, text), None
        return Finding(asset, file, path, MISSING, _how_to_get(asset, file, path)), None
    status, digest = path.stat(), None
    if (entry.get("bytes"), entry.get("modified_ns")) != (status.st_size, status.st_mtime_ns):
        digest = pooch.file_hash(str(path), "sha256")
    problem = _problem(file, path, entry, digest)
    if problem:
        remedy = _remedy({} if file.published_hash else entry) or "delete it and fetch it again"
        return Finding(asset, file, path, CORRUPT, f"{path} {problem}; {remedy}"), None
    if file.published_hash:
        text = f"{file.published_hash.partition(':')[0]} as published"
    else:
        since = entry.get("recorded", "will be recorded by fetch")
        text = f"trusted on first use ({since}), sha256 {(digest or entry['sha256'])[:12]}..."
    if file.unpacked and not _unpacked(path, file):
        text += f"; unpack it in {path.parent} (as {file.unpacked})"
    return Finding(asset, file, path, PRESENT, text), digest


def _problem(file: AssetFile, path: Path, entry: dict[str, Any], digest: str | None) -> str:
    """What is wrong with the content of `path`; `digest` is None if it was verified before."""
    size, known = path.stat().st_size, digest or entry["sha256"]
    if file.bytes not in (None, size):
        return f"has {size:,} bytes instead of {file.bytes:,}"
    if file.sha256:
        return f"has the sha256 {known} instead of {file.sha256}" if known != file.sha256 else ""
    if file.md5:
        md5 = pooch.file_hash(str(path), "md5") if digest else file.md5
        return f"has the md5 {md5} instead of {file.md5}" if md5 != file.md5 else ""
    if entry.get("sha256", known) != known:
        return f"has changed: {size:,} bytes, sha256 {known}"
    with path.open("rb") as opened:  # what a browser saves where a person must log in or confirm
        start = opened.read(64).lstrip().lower()
    page = start.startswith((b"<!doctype html", b"<html"))
    return "is a web page, not the file" if page else "" if start else "is empty"


def _remedy(trusted: dict[str, Any]) -> str:
    """What a person can do about a file that is not the one that was `trusted` first."""
    if not trusted:
        return ""
    return (
        f"the one recorded on {trusted['recorded']} had {trusted['bytes']:,} bytes and the sha256 "
        f"{trusted['sha256']}: remove its entry from {LOCK} if you trust the new one, else delete "
        "the file and get the old one"
    )


def _how_to_get(asset: Asset, file: AssetFile, path: Path) -> str:
    if file.url is None:
        return f"needs a manual step: {asset.instructions} Put it at {path} (see {asset.page})"
    arrived = _arrived(path)
    have = f"{megabytes(arrived)} of it have arrived, " if arrived else ""
    return f"{have}`airlib fetch --only {asset.name}` downloads {megabytes(file.size)} to {path}"


def _unpacked(path: Path, file: AssetFile) -> bool:
    return file.unpacked is not None and (path.parent / file.unpacked).exists()


def _arrived(path: Path) -> int:
    part = path.with_name(f"{path.name}.part")
    return part.stat().st_size if part.is_file() else 0


def _require_room(files: list[tuple[Asset, AssetFile]], directory: Path) -> None:
    missing = 0
    for asset, file in files:
        path = directory / asset.name / file.file
        if file.url and not path.is_file() and not _unpacked(path, file):
            missing += max(0, file.size - _arrived(path))
    existing = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if missing > free:
        raise AirlibError(
            f"{megabytes(missing)} are to be downloaded, {megabytes(free)} are free in {existing}; "
            "choose some with --only, or another place with the variable AIRLIB_ASSETS"
        )


# --- the lock file: name/file -> {sha256, bytes, modified_ns, url, recorded} ----------------------


def _read_lock(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / LOCK
    if not path.exists():
        return {}
    entries = read_json(path, AS_IT_IS)
    try:
        for entry in entries.values():
            if not all(isinstance(entry[key], kind) for key, kind in LOCK_ENTRY.items()):
                raise TypeError
    except (KeyError, TypeError, AttributeError) as error:
        raise AirlibError(f"{path} is damaged; {AS_IT_IS}") from error
    return entries


def _entry(directory: Path, asset: Asset, file: AssetFile) -> dict[str, Any]:
    return _read_lock(directory).get(f"{asset.name}/{file.file}", {})


def _record(directory: Path, finding: Finding, digest: str) -> None:
    status = finding.path.stat()
    with FileLock(directory / f".{LOCK}.lock"):
        entries = _read_lock(directory)
        name = f"{finding.asset.name}/{finding.file.file}"
        entries[name] = {
            "sha256": digest,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "url": finding.file.url,
            "recorded": entries.get(name, {}).get("recorded", datetime.date.today().isoformat()),
        }
        write_json(directory / LOCK, dict(sorted(entries.items())))
