"""`World.adapt` with objects instead of names: a loss and a parameterization of one's own."""

import pytest
import torch

from airlib.errors import AirlibError
from airlib.methods.nada import NADA, NADAConfig
from airlib.methods.step import WithoutMemory
from airlib.parameterizations.stylegan2 import domain_vector
from airlib.worlds import open_world

SHORT = {"steps": 2, "batch": 2}


@pytest.fixture(scope="module")
def world():
    return open_world("tiny", "human")


@pytest.mark.slow  # adapts
def test_a_loss_by_object_is_the_loss_by_name(world):
    named = world.adapt("nada", "human-cat", order="norm_mean_norm", **SHORT)
    loss = NADA(world.space, "human", "cat", NADAConfig(order="norm_mean_norm"))
    given = world.adapt(loss, "human-cat", **SHORT)
    assert given.log == named.log
    assert all(torch.equal(value, given.tensors[name]) for name, value in named.tensors.items())


def test_a_run_is_called_as_its_loss_calls_itself(world):
    class Mine(WithoutMemory):
        settings = {"method": "mine"}

        def __call__(self, step):
            return {"pixels": (step.adapted_images - 1).square().mean()}

    result = world.adapt(Mine(), "human-cat", parameterization=domain_vector(), **SHORT)
    labels = result.config["labels"]
    assert labels["method"] == "mine" and labels["options"]["parameterization"] == "domain_vector"
    assert set(result.log[-1]) == {"step", "pixels"}
    assert result.apply(world.generator).synthesis.layers[0].domain is not None


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (object(), "object is no method: it has no settings, begin"),
        (type("Nameless", (WithoutMemory,), {"settings": {}, "__call__": None})(), "do not name"),
    ],
)
def test_what_is_no_method_is_refused_before_anything_runs(world, loss, words):
    with pytest.raises(AirlibError, match=words):
        world.adapt(loss, "human-cat", **SHORT)


def test_numbers_of_the_loss_belong_to_the_object(world):
    with pytest.raises(AirlibError, match="nada has no option 'order'"):
        world.adapt(NADA(world.space, "human", "cat"), "human-cat", order="norm_mean_norm")
