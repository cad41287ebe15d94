"""The manifests: the real ones follow the schema and their own rules, broken ones are refused."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from airlib.assets.manifests import IN_CHECKOUT, load_manifests, megabytes
from airlib.errors import AirlibError

GOOD = {
    "name": "thing", "title": "A thing", "role": "test", "notebooks": ["03"], "licence": "none",
    "page": "https://example.org/thing", "importer": None, "verified": False, "note": "made up",
    "files": [{"file": "thing.pt", "url": "https://example.org/thing.pt", "bytes": 10,
               "sha256": None}],
}  # fmt: skip


def load(directory: Path, *entries, text: str | None = None):
    """`load_manifests` of one manifest, things.yaml."""
    text = yaml.safe_dump(list(entries)) if text is None else text
    (directory / "things.yaml").write_text(text, encoding="utf-8")
    return load_manifests(directory)


def changed(path: str, value) -> dict:
    """`GOOD` with another value at a dotted path; "files." leads to its file."""
    entry = copy.deepcopy(GOOD)
    table, key = (entry["files"][0], path[6:]) if path.startswith("files.") else (entry, path)
    table[key] = value
    return entry


def without(path: str) -> dict:
    entry = changed(path, None)
    (entry["files"][0] if path.startswith("files.") else entry).pop(path.removeprefix("files."))
    return entry


# --- the real manifests --------------------------------------------------------------------------


def test_real_manifests_are_complete():
    assets = load_manifests(IN_CHECKOUT)
    groups = {asset.group for asset in assets.values()}
    expected = {"generators", "encoders", "feature_networks", "datasets", "reference_sets"}
    assert groups == expected
    assert not groups & set(assets), "--only takes names of both"
    assert {path.stem for path in IN_CHECKOUT.glob("*.yaml")} == expected


@pytest.mark.parametrize("asset", load_manifests(IN_CHECKOUT).values(), ids=lambda a: a.name)
def test_real_manifests_keep_their_own_rules(asset):
    """A claim has a source, and what is called verified can be verified."""
    hashed = [file.published_hash is not None for file in asset.files]
    if asset.verified:
        assert all(hashed)
    if asset.importer:
        assert importlib.util.find_spec(f"airlib.{asset.importer}"), asset.importer
    guessed = any(word in asset.note for word in ("guess", "memory", "assumed"))
    assert not guessed or any(file.bytes is None for file in asset.files)
    for file in asset.files:
        if file.url is not None:
            assert not re.search(r"drive\.google|dropbox.*dl=0", file.url), "answers with a page"
        digits = re.search(r"-([0-9a-f]{8})\.pth$", file.file)  # torchvision's own check
        if digits:
            assert file.sha256.startswith(digits.group(1))
        if file.url and "openaipublic" in file.url:
            assert file.sha256 in file.url


def test_every_source_of_the_paper_profile_has_a_generator():
    from airlib.profiles import load_profile

    profile = load_profile("paper")
    needed = {profile.sources[pair.source].asset for pair in profile.pairs.values()}
    assert len(needed) == 4 and needed <= set(load_manifests(IN_CHECKOUT))


def test_every_data_set_of_a_notebook_has_its_reader():
    from airlib.studies.misalignment.datasets import DATASETS

    assets = load_manifests(IN_CHECKOUT).values()
    names = {asset.name for asset in assets if asset.group == "datasets" and asset.notebooks}
    assert names <= set(DATASETS)


def test_every_file_has_its_own_place():
    places = [(a.name, f.file) for a in load_manifests(IN_CHECKOUT).values() for f in a.files]
    assert len(set(places)) == len(places) >= 45


# --- broken ones ---------------------------------------------------------------------------------


def test_a_good_entry(tmp_path):
    asset = load(tmp_path, GOOD)["thing"]
    assert (asset.group, asset.notebooks, asset.size) == ("things", ("03",), 10)
    assert asset.files[0].published_hash is None
    asset = load(tmp_path, changed("files.sha256", "0" * 64))["thing"]
    assert asset.files[0].published_hash == "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (changed("colour", "red"), r"entry thing: unknown key 'colour' \(known: name, title, "),
        (changed("files.colour", "red"), r"entry thing, file thing.pt: unknown key 'colour'"),
        (without("licence"), r"entry thing: lacks licence"),
        (without("files.sha256"), r"file thing.pt: lacks sha256"),
        (without("name"), r"entry 1: lacks name"),
        (changed("verified", "no"), r"verified must be bool, not 'no'"),
        (changed("importer", 3), r"importer must be str or null, not 3"),
        (changed("title", ""), r"title is empty"),
        (changed("name", "Thing!"), r"name may hold a-z"),
        (changed("name", "../thing"), r"name may hold a-z"),
        (changed("page", "example.org"), r"page must begin with https://"),
        (changed("notebooks", "03"), r"notebooks must be list, not '03'"),
        (changed("notebooks", [3]), r'notebooks: 3 is not two digits in quotes, such as "03"'),
        (changed("files", []), r"files is empty"),
        (changed("files", ["thing.pt"]), r"entry thing, files: must be a table"),
        (changed("files", GOOD["files"] * 2), r"two files have the same name"),
        (changed("files.url", None), r"a file without url needs instructions"),
        (changed("files.url", "file:///etc/passwd"), r"url must begin with https://"),
        (changed("files.file", "../thing.pt"), r"file must be a plain file name"),
        (changed("files.file", ".hidden"), r"file must be a plain file name"),
        (changed("files.unpacked", "a/b"), r"unpacked must be a plain file name"),
        (changed("files.sha256", "abc"), r"sha256 must be 64 digits 0-9 a-f, not 'abc'"),
        (changed("files.sha256", "A" * 64), r"sha256 must be 64 digits"),
        (changed("files.md5", "0" * 40), r"md5 must be 32 digits"),
        (changed("files.bytes", 0), r"needs a positive number of bytes"),
        (changed("files.bytes", True), r"bytes must be int or null, not True"),
        (changed("files.bytes", "10 MB"), r"bytes must be int or null, not '10 MB'"),
        (changed("files.bytes_estimate", 9), r"bytes or of bytes_estimate, one of the two"),
        (without("files.bytes"), r"bytes or of bytes_estimate, one of the two"),
        (["thing"], r"entry 1: must be a table"),
        (None, r"entry 1: must be a table"),
    ],
)
def test_a_broken_entry_is_named(tmp_path, entry, message):
    with pytest.raises(AirlibError, match=f"things.yaml, {message}|things.yaml, .*{message}"):
        load(tmp_path, entry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: thing", "things.yaml must be a list of entries"),
        ("", "things.yaml is empty"),
        ("- [", "things.yaml is not valid YAML"),
        ("[" * 5000, "things.yaml is not valid YAML"),
        ("- {[1]: 2}", "things.yaml is not valid YAML"),
        ("- name: a\n  name: b", "'name' is given twice"),
        ("- !!python/object/apply:os.system [true]", "things.yaml is not valid YAML"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    with pytest.raises(AirlibError, match=message):
        load(tmp_path, text=text)


def test_a_name_used_twice_also_in_two_files(tmp_path):
    with pytest.raises(AirlibError, match="things.yaml, entry thing: the name is used twice"):
        load(tmp_path, GOOD, GOOD)
    (tmp_path / "earlier.yaml").write_text(yaml.safe_dump([GOOD]))
    with pytest.raises(AirlibError, match="things.yaml, entry thing: the name is used twice"):
        load(tmp_path, GOOD)


def test_no_manifests(tmp_path):
    with pytest.raises(AirlibError, match=r"no manifests NAME\.yaml in"):
        load_manifests(tmp_path)


def test_sizes_for_people():
    sizes = [7, 7289, 381_389_540, 999_999_999, 19_336_861_798]
    assert [megabytes(size) for size in sizes] == [
        "0.007 kB", "7.29 kB", "381 MB", "1.0 GB", "19.3 GB",
    ]  # fmt: skip
