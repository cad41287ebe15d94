"""The tiny world as a user opens it, and sweeps over it."""

import json

import pytest
import torch
import torch.nn.functional as F

from airlib.clip_space.preprocessing import MEAN, STD
from airlib.errors import AirlibError
from airlib.experiments.plan import read_plan
from airlib.experiments.runs import (
    SHIPPED_DIFFUSION,
    SHIPPED_KNOBS,
    SHIPPED_ONE_SHOT,
    SHIPPED_TEMPLATES,
    largest_difference,
    load_runs,
    save_runs,
)
from airlib.experiments.sweep import known_of, planned, sweep
from airlib.profiles import load_profile, pairs_of_role
from airlib.tinyworld.shipped import WEIGHTS
from airlib.tinyworld.train_generator import world_generator
from airlib.worlds import open_space, open_world

pytestmark = pytest.mark.slow  # adapts and scores

QUICK = {
    "evaluation.samples": 20,
    "evaluation.references": 30,
    "methods.nada.steps": 2,
    "methods.nada.batch": 2,
}


@pytest.fixture(scope="module")
def world():
    return open_world(load_profile("tiny", QUICK), "human")


def test_the_same_latents_for_every_method(world):
    assert torch.equal(world.z(5), world.z(20)[:5])
    # A matrix product of 5 rows and one of 20 may round differently.
    torch.testing.assert_close(world.sample(5), world.sample(20)[:5], rtol=1e-4, atol=1e-5)
    assert not torch.equal(world.z(5), world.z(5, "references"))


def test_source_and_truth_share_the_individual(world):
    """The background depends on the latent alone, so it survives any change of species."""
    z = world.z(20)
    corner = (slice(None), slice(None), slice(0, 6), slice(0, 6))
    source = world.generator(world.sample(20)).clamp(-1, 1)[corner].mean(dim=(2, 3))
    truth = world.truth("human-cat", z)[corner].mean(dim=(2, 3))
    same = (source - truth).abs().mean()
    other = (source - truth.roll(1, dims=0)).abs().mean()
    assert same < 0.4 * other


def test_clip_knows_the_truth_from_the_source(world):
    encoder = world.space.encoders[0]
    texts = encoder.embed_text(["a photo of a human", "a photo of a cat"])
    found = (encoder.embed_images(world.truth("human-cat", world.z(20))) @ texts.T).argmax(dim=1)
    assert found.float().mean() >= 0.9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w: w.adapt("nda", "human-baby"), "unknown method 'nda'; choose from nada"),
        (lambda w: w.adapt("nada", "human-bab"), "no pair 'human-bab'"),
        (lambda w: w.adapt("nada", "dog-cat"), "for source 'human'"),
        (lambda w: w.adapt("nada", "human-baby", step=3), "has no option 'step'"),
        (lambda w: w.adapt("nada", "human-baby", parameterization="all"), "unknown parameteriz"),
        (lambda w: open_world("tiny", "horse"), "unknown source 'horse'"),
        (lambda w: open_world("large"), "unknown profile 'large'"),
    ],
)
def test_wrong_names_are_refused_before_any_work(world, call, words):
    with pytest.raises(AirlibError, match=words):
        call(world)


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "stylegan2.safetensors"
    with pytest.raises(AirlibError, match="no such file"):
        world_generator(path)
    path.write_bytes((WEIGHTS / path.name).read_bytes()[:5000])
    with pytest.raises(AirlibError, match="damaged"):
        world_generator(path)
    with pytest.raises(AirlibError, match="does not hold the world generator"):
        world_generator(WEIGHTS / "judge.safetensors")


def test_a_sweep_is_restartable_and_keeps_what_it_has(tmp_path):
    arguments = (load_profile("tiny", QUICK), ["nada"], ["human-baby"], [0], tmp_path, 1)
    first = sweep(*arguments)
    assert [run.method for run in first] == ["source", "prior", "truth", "nada"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = sweep(*arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    assert [run.metrics for run in again] == [run.metrics for run in first]
    source, prior, truth, _ = first
    assert prior.value("paired_feature") < 0.7 * source.value("paired_feature")
    assert truth.value("paired_feature") == 0 and truth.value("paired_l1") == 0
    assert first[3].adaptation().config["labels"]["pair"] == "human-baby"


def test_a_sweep_with_other_numbers_is_run_again(tmp_path):
    arguments, longer = (["nada"], ["human-baby"], [0], tmp_path, 1), {"methods.nada.steps": 3}
    sweep(load_profile("tiny", QUICK), *arguments)
    record = tmp_path / "human-baby-nada-0.json"
    before = json.loads(record.read_text())["inputs"]["method"]["steps"]
    sweep(load_profile("tiny", QUICK | longer), *arguments)
    assert before == 2 and json.loads(record.read_text())["inputs"]["method"]["steps"] == 3


def test_runs_of_another_machine_are_taken_over_while_they_fit(tmp_path):
    quick, arguments = load_profile("tiny", QUICK), (["nada"], ["human-baby"], [0])
    first = sweep(quick, *arguments, tmp_path / "there", 1)
    shipped = load_runs(save_runs(first, tmp_path / "runs.json", "airlib sweep"))
    taken = sweep(quick, *arguments, tmp_path / "here", 1, known=shipped)
    assert [run.metrics for run in taken] == [run.metrics for run in first]
    assert not (tmp_path / "here").exists()  # nothing was run
    changed = load_profile("tiny", {**QUICK, "methods.nada.steps": 3})
    again = sweep(changed, *arguments, tmp_path / "here", 1, known=shipped)
    assert [p.stem for p in (tmp_path / "here").glob("*.json")] == ["human-baby-nada-0"]
    assert again[0].metrics == first[0].metrics and again[3].metrics != first[3].metrics
    assert largest_difference(first, shipped) == 0
    entry = shipped["human-baby-nada-0"]["metrics"][0]
    entry["value"] *= 0.8
    assert largest_difference(first, shipped) == pytest.approx(0.25)
    assert largest_difference(again[3:], shipped) is None  # other numbers, nothing to compare


def test_the_shipped_runs_are_of_these_weights_and_numbers(tmp_path):
    """Or notebook 03 would run everything again, and its published table would be of the past."""
    pairs = [name for name, pair in load_profile("tiny").pairs.items() if pair.role == "table"]
    assert len(pairs) >= 8
    methods = ["nada", "ipl", "svl", "air", "air_source", "air_images", "air_adaptive"]
    runs = sweep("tiny", methods, pairs, range(5), tmp_path, known=load_runs())
    assert len(runs) == len(pairs) * (3 + 7 * 5) and not any(run.is_here for run in runs)


def test_the_resize_of_2021_is_a_number_of_the_profile():
    """Other pixels before CLIP; runs from before there was this number had antialiasing."""
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    numbers = [load_profile("tiny", {"world.clip_antialias": value}) for value in (True, False)]
    new, old = (open_space(profile).encoders[0].preprocess(image) for profile in numbers)
    scaled = F.interpolate((image + 1) / 2, (64, 64), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(old, (scaled - mean) / std)
    assert (new - old).abs().mean() > 0.1
    known = load_runs()
    runs = planned(numbers[0], ["air"], ["human-baby"], [0], "", ())
    assert len(known_of(runs, numbers[0], known)) == 1 and not known_of(runs, numbers[1], known)


def test_the_shipped_diffusion_runs_are_of_these_weights_and_numbers(tmp_path):
    """The same of notebook 04."""
    pairs = pairs_of_role(load_profile("tiny"), "diffusion-table")
    methods, known = ["nada_lora", "air_lora"], load_runs(SHIPPED_DIFFUSION)
    runs = sweep("tiny", methods, pairs, range(3), tmp_path, known=known, protocol="full")
    assert len(runs) == len(pairs) * (3 + 2 * 3) >= 4 * 9
    assert not any(run.is_here for run in runs)


@pytest.mark.parametrize(
    ("name", "path"),
    [("templates", SHIPPED_TEMPLATES), ("one_shot", SHIPPED_ONE_SHOT), ("knobs", SHIPPED_KNOBS)],
)
def test_the_shipped_runs_of_a_plan_are_of_these_weights_and_numbers(name, path):
    """And no others are shipped; of some the reference rows are not."""
    plan, known = read_plan(name), load_runs(path)
    runs = [run for grid in plan.grids_of_runs().values() for run in grid]
    found = known_of(runs, plan.numbers(), known, plan.protocol)
    assert {run.stem.name for run in found} == known.keys()
    rows = ("source", "prior", "truth", "mixed")
    names = {run.stem.name for run in runs if run.method not in rows}
    assert names <= {run.stem.name for run in found}


TERMS = {  # of the last step, with anchors from the first quarter on
    "nada": {"direction"},
    "ipl": {"direction"},
    "svl": {"moments", "ewc", "relation"},
    "air": {"direction", "adaptive"},
    "air_source": {"direction", "adaptive"},
    "air_images": {"direction", "adaptive"},
}


@pytest.mark.parametrize("method", TERMS)
def test_every_method_adapts_by_the_numbers_of_the_profile(world, method):
    """And what a user changes reaches the loss."""
    options = {"steps": 4, "batch": 2}
    small = {"t_thresh": 0.25, "t_int": 0.5, "prompt_steps": 2, "prompt_pairs": 4}
    small |= {"mapper_steps": 2, "mapper_batch": 2, "variation_steps": 2, "fisher_samples": 1}
    numbers = world.numbers(method, "human-cat", {})
    options |= {key: value for key, value in small.items() if key in numbers}
    result = world.adapt(method, "human-cat", **options)
    assert set(result.log[-1]) - {"step"} == TERMS[method]
    assert result.config["labels"]["numbers"] == {**numbers, **options}
    settings = json.dumps(result.config["objective"])
    for key in ("residual", "covariance", "learn_from"):
        assert key not in numbers or json.dumps(numbers[key]) in settings


def test_an_adaptation_of_the_mapping_is_drawn_through_it(world):
    adaptation = world.adapt(
        "nada", "human-baby", parameterization="domain_embedding", learning_rate=1.0
    )
    adapted = adaptation.apply(world.generator)
    assert torch.equal(world.draw(world.generator, 6), world.generator(world.sample(6)))
    assert not torch.allclose(world.draw(adapted, 6), world.draw(world.generator, 6), atol=0.01)
    assert torch.equal(adapted(world.sample(6)), world.generator(world.sample(6)))  # the trap


def test_the_truth_has_no_gap_to_itself_but_for_the_generator(world):
    """Images that are the true targets, from a source that is nearly true."""
    truth = world.truth("photo-sketch", world.z(40))
    found = world.truth_gap("photo-sketch", truth)
    untouched = world.truth_gap("photo-sketch", world.draw(world.generator, 40))
    assert abs(found.gap) < 0.1 < untouched.reached - found.reached
    assert found.truth == untouched.truth


def test_a_sweep_refuses_unknown_names(tmp_path):
    with pytest.raises(AirlibError, match="unknown pair"):
        sweep("tiny", ["nada"], ["human-bab"], [0], tmp_path)
    with pytest.raises(AirlibError, match="unknown method"):
        sweep("tiny", ["nda"], ["human-baby"], [0], tmp_path)
    assert not list(tmp_path.iterdir())
