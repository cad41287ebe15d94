"""The tiny world as a user opens it, and sweeps over it."""

import json

import pytest
import torch

from airlib import worlds
from airlib.errors import AirlibError
from airlib.profiles import load_profile
from airlib.sweep import sweep
from airlib.worlds import open_world, world_generator

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
    assert torch.equal(world.sample(5), world.sample(20)[:5])
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
        (lambda w: open_world("paper"), "published weights"),
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
    path.write_bytes((worlds.WEIGHTS / path.name).read_bytes()[:5000])
    with pytest.raises(AirlibError, match="damaged"):
        world_generator(path)
    with pytest.raises(AirlibError, match="does not hold the world generator"):
        world_generator(worlds.WEIGHTS / "judge.safetensors")


def test_a_sweep_is_restartable_and_keeps_what_it_has(tmp_path):
    arguments = ("tiny", ["nada"], ["human-baby"], [0], tmp_path, QUICK, 1)
    first = sweep(*arguments)
    assert [run.method for run in first] == ["source", "truth", "nada"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = sweep(*arguments)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    assert [run.metrics for run in again] == [run.metrics for run in first]
    truth = first[1]
    assert truth.value("paired_feature") == 0 and truth.value("paired_l1") == 0
    assert first[2].adaptation().config["labels"]["pair"] == "human-baby"


def test_a_sweep_with_other_numbers_is_run_again(tmp_path):
    sweep("tiny", ["nada"], ["human-baby"], [0], tmp_path, QUICK, 1)
    record = tmp_path / "human-baby-nada-0.json"
    before = json.loads(record.read_text())["inputs"]["method"]["steps"]
    sweep("tiny", ["nada"], ["human-baby"], [0], tmp_path, {**QUICK, "methods.nada.steps": 3}, 1)
    assert before == 2 and json.loads(record.read_text())["inputs"]["method"]["steps"] == 3


def test_a_sweep_refuses_unknown_names(tmp_path):
    with pytest.raises(AirlibError, match="unknown pair"):
        sweep("tiny", ["nada"], ["human-bab"], [0], tmp_path)
    with pytest.raises(AirlibError, match="unknown method"):
        sweep("tiny", ["nda"], ["human-baby"], [0], tmp_path)
    assert not list(tmp_path.iterdir())
