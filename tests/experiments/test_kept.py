"""Adaptations that are not made again: those of an earlier call, and those that are shipped."""

import json
from dataclasses import replace

import pytest
import torch

from airlib.errors import AirlibError
from airlib.experiments.kept import keep, portraits
from airlib.experiments.runs import (
    SHIPPED,
    SHIPPED_ADAPTATIONS,
    SHIPPED_ARMS,
    SHIPPED_DIFFUSION,
    SHIPPED_UNSEEN,
    Run,
    load_runs,
)
from airlib.experiments.sweep import adapt_watched, known_of, sweep
from airlib.profiles import load_profile
from airlib.worlds import open_world

pytestmark = pytest.mark.slow  # adapts and scores

NUMBERS = {
    "methods.nada.steps": 2,
    "methods.nada.batch": 2,
    "evaluation.samples": 40,
    "evaluation.references": 40,
}


@pytest.fixture(scope="module")
def world():
    return open_world("tiny")


def test_an_adaptation_is_made_once_whatever_is_measured_of_it(tmp_path):
    profile, file = load_profile("tiny", NUMBERS), tmp_path / "photo-sketch-nada-0.safetensors"

    def run(profile, protocol: str) -> Run:
        pair = ["photo-sketch"]
        return sweep(profile, ["nada"], pair, [0], tmp_path, 1, (), protocol=protocol)[0]

    assert run(profile, "none").metrics == ()
    made = file.stat().st_mtime_ns
    scored = run(profile, "quick")
    assert scored.values["frechet"] > 0
    fewer = load_profile("tiny", NUMBERS | {"evaluation.samples": 30})
    assert {metric.n for metric in run(fewer, "quick").metrics} >= {30}
    assert file.stat().st_mtime_ns == made
    run(profile, "none")  # nothing to measure is no reason to forget what was measured
    assert json.loads(scored.file(".json").read_text())["metrics"]

    longer = load_profile("tiny", NUMBERS | {"methods.nada.steps": 3})
    run(longer, "none")
    assert file.stat().st_mtime_ns != made


def test_an_adaptation_that_was_watched_is_only_scored_by_a_sweep(tmp_path):
    profile, steps = load_profile("tiny", NUMBERS), []
    world = open_world(profile)

    def watch(step: int, _) -> None:
        steps.append(step)

    watched = adapt_watched(world, "nada", "photo-sketch", 0, tmp_path / "watched", watch)
    assert steps == [0, 1, 2]
    made = (tmp_path / "watched" / "photo-sketch-nada-0.safetensors").stat().st_mtime_ns
    there, anew = (
        sweep(profile, ["nada"], ["photo-sketch"], [0], tmp_path / folder, 1, ())[0]
        for folder in ("watched", "anew")
    )
    assert there.file(".safetensors").stat().st_mtime_ns == made
    assert there.values == anew.values and there.values["frechet"] > 0
    assert watched.log == there.log == anew.log


def test_what_is_kept_of_a_run_is_read_where_it_was_not_made(tmp_path, world, monkeypatch):
    monkeypatch.setattr("airlib.experiments.sweep.SHIPPED_ADAPTATIONS", tmp_path / "kept")
    profile, options = load_profile("tiny", NUMBERS), [{"parameterization": "domain_vector"}]
    (made,) = sweep(
        profile, ["nada"], ["photo-sketch"], [0], tmp_path, 1, (), protocol="none", options=options
    )
    with pytest.raises(AirlibError, match="no portraits of elsewhere-nada-0 are shipped"):
        portraits(Run("elsewhere", "nada", 0, tmp_path), world)
    assert [file.suffix for file in keep(made, world, tmp_path / "kept")] == [
        ".png",
        ".jsonl",
        ".safetensors",
    ]
    records = {made.stem.name: json.loads(made.file(".json").read_text())}
    again = replace(made, directory=tmp_path / "other")
    (known,) = known_of([again], profile, records, "none")
    assert not known.is_here
    assert torch.allclose(portraits(known, world), portraits(made, world), atol=1 / 255)
    assert known.log == made.log and len(known.log) == 2
    assert known.adaptation().tensors.keys() == made.adaptation().tensors.keys()

    # Where the directory holds the same run made from other numbers, that is not taken for it.
    made.file(".json").write_text(json.dumps({"inputs": {}, "metrics": []}))
    assert known_of([made], profile, records, "none")[0].directory == tmp_path / "kept"


def test_a_shipped_adaptation_draws_its_portraits_and_scores_as_its_record_says(world):
    """Up to the rounding of another processor."""
    known = Run("unseen-cat-cartoon", "d", 0, SHIPPED_ADAPTATIONS)
    seen = portraits(known, world)
    adapted = known.adaptation().apply(world.generator)
    drawn = world.draw(adapted, len(seen))
    assert (drawn.clamp(-1, 1) - seen).abs().max() < 2 / 255
    record = load_runs(SHIPPED_UNSEEN)[known.stem.name]
    claimed = {m["name"]: m["value"] for m in record["metrics"]}
    batches = world.batches(adapted, world.profile.evaluation.samples)
    found = {m.name: m.value for m in world.score(batches, known.pair, known.method, 0)}
    assert found == pytest.approx({metric: claimed[metric] for metric in found}, rel=1e-3)


def test_everything_that_is_kept_belongs_to_a_shipped_run():
    records = load_runs(SHIPPED) | load_runs(SHIPPED_ARMS) | load_runs(SHIPPED_UNSEEN)
    records |= load_runs(SHIPPED_DIFFUSION)
    files = sorted(SHIPPED_ADAPTATIONS.iterdir())
    assert {file.stem for file in files} <= records.keys()
    for method in ("nada", "ipl", "svl", "air"):  # notebook 03 shows these
        runs = [name for name in load_runs() if name.endswith(f"-{method}-0")]
        assert len(runs) == 8
        assert all((SHIPPED_ADAPTATIONS / f"{name}.png").exists() for name in runs)
