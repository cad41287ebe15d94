"""Published settings: each has a source, fits the profiles, and runs."""

import pytest
import torch

from airlib.errors import AirlibError
from airlib.experiments.sweep import checked_options
from airlib.methods.presets import preset, presets
from airlib.profiles import load_profile
from airlib.worlds import open_world

PRESETS = presets()
ONE_STEP = {"steps": 1, "batch": 2, "views": 0}


@pytest.fixture(scope="module")
def world():
    return open_world("tiny", "human")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source_and_changes_numbers_that_the_profile_has(name):
    found = preset(name)
    options = {key: value for key, value in found.options.items() if key != "mixing"}
    assert found.provenance and {"steps", "mixing"} <= found.options.keys()
    checked = checked_options(load_profile("paper"), "nada", options)  # names and types
    assert dict(checked).keys() == options.keys()
    profile = load_profile("paper", found.overrides)
    assert profile.world.clip == tuple(found.clip)
    assert len(found.clip) == len(found.clip_weights)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs(world, name):
    options = {**preset(name).options, **ONE_STEP}
    result = world.adapt("nada", "human-cat", **options)
    numbers = result.config["labels"]["numbers"]
    assert {key: numbers[key] for key in options} == options
    moving = world.parameterization(options.get("parameterization", "synthesis"), "human-cat")
    assert result.config["parameterization"] == moving.name
    rate = options.get("learning_rate", numbers["learning_rate"])
    assert result.config["adaptation"]["learning_rate"] == rate


def test_mixing_and_weights_reach_the_loop_beside_the_numbers_of_the_profile(world):
    plain = world.adapt("nada", "human-cat", **ONE_STEP)
    mixed = world.adapt("nada", "human-cat", mixing=1.0, weights={"direction": 2.0}, **ONE_STEP)
    loop = mixed.config["adaptation"]
    assert loop["mixing"] == 1.0 and loop["weights"] == {"direction": 2.0}
    assert plain.config["labels"]["numbers"]["mixing"] == 0
    assert "mixing" not in plain.config["adaptation"]  # as of runs that know no mixing
    assert plain.log != mixed.log
    moved = (torch.equal(value, mixed.tensors[name]) for name, value in plain.tensors.items())
    assert not all(moved)
    with pytest.raises(AirlibError, match="between 0 and 1"):
        world.adapt("nada", "human-cat", mixing=2.0, **ONE_STEP)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(AirlibError, match=r"'pixarr' are known .* did you mean pixar\?"):
        preset("pixarr")
    with pytest.raises(AirlibError, match="known: sketch, white-walker"):
        preset("shrek")
