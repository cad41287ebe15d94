"""The images of methods that are shown a picture: their reference, their rows, and their sweep."""

from pathlib import Path

import pytest
import torch

from airlib.editing.style_mixing import mix_styles
from airlib.errors import AirlibError
from airlib.evaluation.protocols import SHOWN_OUTCOMES
from airlib.experiments.inputs import inputs_of
from airlib.experiments.plan import read_plan
from airlib.experiments.runs import Run, load_runs, save_runs
from airlib.experiments.sweep import known_of, planned, sweep
from airlib.profiles import Profile, load_profile
from airlib.worlds import open_world
from airlib.worlds.examples import example_of
from airlib.worlds.scored_images import MIXED, PLAIN, images_of
from airlib.worlds.tiny import TinyWorld

pytestmark = pytest.mark.slow  # adapts and scores

PAIR, ARMS = "photo-cartoon", ("mtg_d_angle", "target_clip")
QUICK = {
    "evaluation.samples": 20,
    "evaluation.references": 30,
    "one_shot.inversion.steps": 5,
    "one_shot.inversion.prior_samples": 1000,
    "methods.mind_the_gap.batch": 2,
    "arms.mtg_d_angle.steps": 2,
    "methods.target_clip.steps": 2,
    "methods.target_clip.batch": 2,
}


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return open_world(load_profile("tiny", QUICK), "human")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> list[Run]:
    return shown(tmp_path_factory.mktemp("runs"))


def shown(directory: Path) -> list[Run]:
    numbers = load_profile("tiny", QUICK)
    return sweep(numbers, ARMS, [PAIR], [0], directory, 1, protocol="shown")


def test_the_reference_shows_the_target_and_nobody_who_is_scored(world):
    example = example_of(world, PAIR)
    assert torch.equal(example.picture, world.truth(PAIR, world.z(1, "one-shot reference")))
    others = torch.cat([world.z(300), world.z(1000, "references")])
    assert (others - world.z(1, "one-shot reference")).norm(dim=1).min() > 5
    assert torch.equal(example.inversion.reconstruction, world.generator(example.inversion.latents))


def test_styles_are_mixed_where_asked(world):
    example = example_of(world, PAIR)
    plain = torch.cat(list(images_of(world, example, world.generator, 20)))
    mixed = torch.cat(list(images_of(world, example, world.generator, 20, style_mixing=True)))
    assert torch.equal(plain, world.draw(world.generator, 20))
    latents = mix_styles(world.sample(20), example.inversion.latents)
    assert torch.equal(mixed, world.generator(latents))
    assert mixed.std(dim=0).mean() < plain.std(dim=0).mean()  # everybody has the same colours


def test_a_sweep_has_every_row_and_outcome_and_mind_the_gap_twice(swept):
    assert [run.method for run in swept] == ["source", "prior", "truth", MIXED, *ARMS]
    named = {metric.method: {} for run in swept for metric in run.metrics}
    for run in swept:
        for metric in run.metrics:
            named[metric.method][metric.name] = metric.value
    assert named.keys() == {"source", "prior", "truth", MIXED, *ARMS, "mtg_d_angle" + PLAIN}
    assert all(set(SHOWN_OUTCOMES) <= set(values) for values in named.values())
    assert named["truth"]["paired_l1"] == 0
    assert named["mtg_d_angle"]["paired_l1"] != named["mtg_d_angle" + PLAIN]["paired_l1"]
    overlap = next(m for m in swept[0].metrics if m.name == "precision")
    assert "VitJudge" in overlap.protocol  # not the judge that is part of the loss


def test_a_sweep_keeps_adaptations_that_draw_what_was_scored(swept, world):
    run = swept[-2]
    again = world.adapt(run.method, PAIR, seed=0)
    kept = run.adaptation()
    assert kept.tensors.keys() == again.tensors.keys() and len(kept.tensors) == 9
    assert all(torch.equal(value, kept.tensors[name]) for name, value in again.tensors.items())


def test_a_killed_sweep_ends_with_the_same_file(swept, tmp_path):
    """One run is there, one is half written, the rest is not; then the same call again."""
    for run in swept[:4]:
        kept = run.file(".json")
        (tmp_path / kept.name).write_bytes(kept.read_bytes())
    half = swept[4].file(".safetensors")
    (tmp_path / half.name).write_bytes(b"half")
    again = shown(tmp_path)
    whole = save_runs(swept, tmp_path / "whole.json", "by hand")
    resumed = save_runs(again, tmp_path / "resumed.json", "by hand")
    assert resumed.read_bytes() == whole.read_bytes()


def test_runs_are_known_while_the_numbers_are_the_same(swept, tmp_path):
    known = load_runs(save_runs(swept, tmp_path / "all.json", "by hand"))
    numbers = load_profile("tiny", QUICK)
    wanted = planned(numbers, ARMS, [PAIR], [0], protocol="shown")
    found = known_of(wanted, numbers, known, "shown")
    assert [run.metrics for run in found] == [run.metrics for run in swept]
    changed = load_profile("tiny", {**QUICK, "arms.mtg_d_angle.steps": 3})
    left = [run.method for run in known_of(wanted, changed, known, "shown")]
    assert left == ["source", "prior", "truth", MIXED, "target_clip"]
    assert known_of(wanted, load_profile("tiny"), known, "shown") == []
    assert known_of(wanted, numbers, known, "full") == []


def test_a_run_depends_on_its_own_arm_and_loss_and_on_the_inversion():
    def differ(key: str, value: float) -> set[str]:
        changed = load_profile("tiny", {key: value})
        names = ("mtg", "mtg_d", "nada_image", MIXED)
        return {n for n in names if inputs(n, numbers) != inputs(n, changed)}

    def inputs(name: str, profile: Profile) -> dict:
        return inputs_of(Run(PAIR, name, 0), profile, "shown")

    numbers = load_profile("tiny")
    assert differ("arms.mtg_d.steps", 7) == {"mtg_d"}
    assert differ("methods.mind_the_gap.clip_within", 0.7) == {"mtg", "mtg_d"}
    assert differ("methods.image_direction.samples", 7) == {"nada_image"}
    assert differ("one_shot.inversion.steps", 7) == {"mtg", "mtg_d", "nada_image", MIXED}


def test_the_plan_is_that_of_the_profile_on_pairs_that_chose_nothing():
    numbers, plan = load_profile("tiny"), read_plan("one_shot")
    study = numbers.one_shot
    assert (plan.methods, plan.pairs) == (study.arms, study.pairs)
    assert all(numbers.pairs[pair].role == "table" for pair in study.pairs)


@pytest.mark.parametrize(
    ("arms", "pairs", "words"),
    [
        (["mtgg"], [PAIR], "unknown method 'mtgg'; choose from nada, air"),
        (["mtg"], ["photo-cartoo"], "unknown pair 'photo-cartoo'"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(arms, pairs, words, tmp_path):
    with pytest.raises(AirlibError, match=words):
        sweep("tiny", arms, pairs, [0], tmp_path / "runs", 1, protocol="shown")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_the_paper_profile_needs_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path / "assets"))
    smaller = {"sources.ffhq.resolution": 32, "arms.mtg_d_angle.steps": 1}
    world = open_world(load_profile("paper", smaller, dry_run=True), "ffhq")
    tensors = world.adapt("mtg_d_angle", "photo-sketch").tensors
    assert sum(tensor.numel() for tensor in tensors.values()) == 7 * 512
    assert not (tmp_path / "assets").exists()
