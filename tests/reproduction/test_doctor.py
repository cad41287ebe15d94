"""The doctor: assets, memory and disk of the paper profile; the tiny profile does not need them."""

import json
from pathlib import Path

import pytest

from airlib.assets import manifests, store
from airlib.cli.commands import main
from airlib.errors import AirlibError
from airlib.reproduction import doctor
from airlib.reproduction.doctor import NEEDS, examine

ROOT = Path(__file__).parents[2]
PAGE = "https://example.org/"


def entry(name: str, notebooks: list[str], **file) -> dict:
    return {
        "name": name, "title": name, "role": "test", "notebooks": notebooks, "licence": "none",
        "page": PAGE, "importer": None, "verified": False, "note": "made up",
        "instructions": "Ask.",
        "files": [{"file": f"{name}.pt", "url": PAGE, "bytes": 4, "sha256": None} | file],
    }  # fmt: skip


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    """An asset directory for three assets: "here" is present, "gone" and "asked" are missing."""
    entries = [entry("here", ["03", "05"]), entry("gone", ["03"]), entry("asked", ["04"], url=None)]
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "things.yaml").write_text(json.dumps(entries))  # JSON is YAML
    monkeypatch.setattr(manifests, "IN_PACKAGE", tmp_path / "manifests")
    directory = tmp_path / "assets"
    monkeypatch.setenv("AIRLIB_ASSETS", str(directory))
    (directory / "here").mkdir(parents=True)
    (directory / "here" / "here.pt").write_bytes(b"1234")
    return directory


def test_tiny_profile_says_how_to_fetch_and_needs_nothing(directory, tmp_path, capsys):
    before = sorted(directory.rglob("*"))
    code = main(["doctor", "--out", str(tmp_path)])
    output, errors = capsys.readouterr()
    assert code == 0, errors
    assert "paper assets: 1 of 3 files; `airlib fetch --profile paper` gets them" in output
    assert "asset here" not in output
    assert sorted(directory.rglob("*")) == before  # it only looks


def test_paper_profile_lists_what_is_there_and_what_is_missing(directory, tmp_path, capsys):
    assert main(["doctor", "--profile", "paper", "--out", str(tmp_path)]) == 1
    output, errors = capsys.readouterr()
    rows = dict(line.split(": ", 1) for line in output.splitlines())
    assert rows["asset here"].split() == ["present", "0.004", "kB", "notebooks", "03", "05"]
    assert rows["asset gone"].split()[0] == rows["asset asked"].split()[0] == "missing"
    assert rows["notebook 03"].startswith("1 of 2 files; memory about 10.0 GB (estimate): ")
    assert rows["asset directory"] == str(directory)
    assert "missing: gone; get them with `airlib fetch`" in errors
    assert "missing: asked; they need a manual step" in errors


def test_paper_profile_finds_what_is_corrupt(directory, tmp_path):
    """Wrong size, and a content that is not the one that was trusted."""
    (finding,) = store.fetch("paper", ["here"])
    assert finding.state == "present"
    assert not any("here" in problem for problem in examine(tmp_path, "paper")[1])
    for content, problem in ((b"5678", "has changed: 4 bytes"), (b"12345", "has 5 bytes")):
        (directory / "here" / "here.pt").write_bytes(content)
        found, problems = examine(tmp_path, "paper")
        assert found["asset here"].split()[0] == "corrupt"
        assert any(problem in line and str(directory) in line for line in problems)


def test_paper_profile_with_everything_there(directory, tmp_path):
    for name in ("gone", "asked"):
        (directory / name).mkdir()
        (directory / name / f"{name}.pt").write_bytes(b"1234")
    found, problems = examine(tmp_path, "paper")
    assert not any("missing" in problem or "corrupt" in problem for problem in problems)
    assert found["notebook 04"].startswith("1 of 1 files")
    assert not list(directory.rglob("*.json")), "the doctor records nothing"


def test_memory_and_disk_are_compared_with_what_each_notebook_needs(
    directory, tmp_path, monkeypatch
):
    enough, little = 40 * doctor.GIGABYTE, 9 * doctor.GIGABYTE
    cases = [
        (0, enough, set(), "fits the main memory (slow)"),
        (enough, little, set(), "fits the graphics card"),
        (0, little, {"03", "05"}, "too much for this machine (9.0 GB free)"),
    ]
    for card, main_memory, too_large, place in cases:
        monkeypatch.setattr(doctor, "_card_memory", lambda card=card: card)
        monkeypatch.setattr(doctor, "available_memory", lambda memory=main_memory: memory)
        found, problems = examine(tmp_path, "paper")
        assert f"memory about 10.0 GB (estimate): {place}" in found["notebook 03"]
        named = {problem.split()[1] for problem in problems if "may not fit" in problem}
        assert named & {"03", "05"} == too_large


def test_unknown_profile(tmp_path):
    with pytest.raises(AirlibError, match="unknown profile 'huge'; choose from paper, tiny"):
        examine(tmp_path, "huge")


def test_every_notebook_has_its_needs():
    """Those that exist, and those for which the manifests list assets."""
    there = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    listed = {n for asset in manifests.load_manifests().values() for n in asset.notebooks}
    assert there | listed <= set(NEEDS)
