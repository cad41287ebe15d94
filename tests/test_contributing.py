"""The examples of CONTRIBUTING.md run, in order, as a reader would paste them into a notebook."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from airlib.errors import AirlibError
from airlib.experiments.plan import Plan, run_plan
from airlib.experiments.runs import load_runs
from airlib.methods.registry import METHODS, register_method
from airlib.seeding import rng

pytestmark = pytest.mark.slow  # adapts and scores

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def pasted(tmp_path_factory) -> dict:
    """Everything that the examples define; names that they register are taken back."""
    known = dict(METHODS)
    names = {"folder": tmp_path_factory.mktemp("contributing"), "__name__": "contributing"}
    for block in BLOCKS:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    yield names
    METHODS.clear()
    METHODS.update(known)


def test_the_method_pulls_images_towards_its_text(pasted):
    world, adapted = pasted["world"], pasted["adapted"]
    (text,) = world.space.embed_text(["a photo of a sketch"])
    near = [
        float((world.space.embed_images(world.draw(generator, 8))[0] @ text[0]).mean())
        for generator in (world.generator, adapted.apply(world.generator))
    ]
    assert near[1] > near[0]
    assert {"global", "in_domain_angle"} <= adapted.log[-1].keys()
    # The first step stands at the source: 1 - cos there, times the strength of 2.
    assert adapted.log[0]["global"] == pytest.approx(2 * (1 - near[0]), abs=0.1)


def test_the_parameterization_comes_back_from_its_file_and_mixes(pasted):
    world, trained, again = pasted["world"], pasted["trained"], pasted["again"]
    whole = trained.apply(world.generator)
    w = world.sample(2)
    assert torch.equal(again.apply(world.generator)(w), whole(w))
    assert not torch.equal(whole(w), world.generator(w))
    layers = zip(
        pasted["half"].synthesis.layers, whole.synthesis.layers, world.generator.synthesis.layers,
        strict=True,
    )  # fmt: skip
    for half, end, start in layers:
        torch.testing.assert_close(half.weight, (end.weight + start.weight) / 2)
    assert all(value.numel() == len(value) for value in again.tensors.values())


def test_the_generator_is_adapted(pasted):
    painter, result = pasted["painter"], pasted["result"]
    z = painter.sample_z(2, rng(0))
    assert not torch.equal(result.apply(painter)(z), painter(z))
    assert set(result.tensors) == {"paint.weight", "paint.bias"}


def test_the_plan_sweeps_the_new_method_and_parameterization(pasted, tmp_path):
    """With fewer steps and images; what its import would register is there."""
    (text,) = re.findall(r"^```toml\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    values = tomllib.loads(text)
    assert values.pop("imports") == ["my_methods"]
    values["options"] |= {"steps": 2, "batch": 2}
    small = {"evaluation.samples": 8, "evaluation.references": 16}
    path, errors = run_plan(Plan.of({**values, "overrides": small}), tmp_path, workers=1)
    runs = [run for run in load_runs(path).values() if run["inputs"].get("options")]
    assert not errors and len(runs) == 2 * 2 * 2
    swept = {(run["metrics"][0]["method"], run["metrics"][0]["value"]) for run in runs}
    assert len(swept) == 8  # no two moved the same
    assert "global_clip batch=2 parameterization=channel_gains steps=2" in dict(swept)


def test_a_name_belongs_to_one_class_and_a_method_needs_its_parts(pasted):
    with pytest.raises(AirlibError, match="choose another name"):
        register_method("nada", pasted["GlobalClip"])

    class NoNumbers:
        pass

    with pytest.raises(AirlibError, match="no `Config`"):
        register_method("no_numbers", NoNumbers)
    assert "no_numbers" not in METHODS
