"""The source of an adaptation is known on any processor, and no other generator passes for it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from small_networks import small_generator, small_unet

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.experiments.runs import SHIPPED_ADAPTATIONS
from airlib.generators.base import Generator
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.identity import fingerprint, identity, is_source, sketch
from airlib.worlds import open_world

SOURCES = {
    "StyleGAN2": small_generator(),
    "diffusion": DiffusionGenerator(small_unet(), steps=2),
    "mapped": small_generator().with_mapping(),
}
OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
ELSEWHERE = """
import json, sys
from airlib.generators.identity import identity, is_source
from airlib.worlds import open_world
saved = json.load(sys.stdin)
sources = {name: open_world("tiny", name).generator for name in ("human", "dog")}
found = {name: [is_source(one, source) for one in saved] for name, source in sources.items()}
print(json.dumps({"found": found, "human": identity(sources["human"])}))
"""


def moved(source: Generator, size: float, only: str = "") -> Generator:
    """A copy whose numbers are off by normal noise of this size, or those of one tensor."""
    copy, stream = source.copy_frozen(), torch.Generator().manual_seed(0)
    for name, value in copy.state_dict().items():
        if only in name:
            value += size * torch.randn(value.shape, generator=stream)
    return copy


@pytest.mark.parametrize("name", SOURCES)
def test_rounding_is_forgiven_and_a_change_is_not(name):
    source = SOURCES[name]
    saved = json.loads(json.dumps(identity(source)))
    assert is_source(saved, source)
    assert is_source(saved, moved(source, 1e-6))
    assert not is_source(saved, moved(source, 1e-4))
    assert not is_source(saved, moved(source, 1e-2))


def test_one_tensor_alone_makes_another_source():
    """As the bias does that holds the domain of a restricted generator."""
    source = SOURCES["StyleGAN2"]
    for name in ("mapping.fc0.bias", "mapping.w_avg", "synthesis.b4.torgb.bias"):
        assert not is_source(identity(source), moved(source, 1e-2, only=name))


def test_other_generators_are_not_the_source():
    saved = identity(SOURCES["StyleGAN2"])
    for other in (small_generator(1), small_generator(mapping_layers=3), SOURCES["diffusion"]):
        assert not is_source(saved, other)


def test_a_sketch_tells_how_far_two_generators_are_apart():
    source, size = SOURCES["StyleGAN2"], 0.01
    other = moved(source, size)
    count = sum(value.numel() for value in source.state_dict().values())
    distance = (torch.tensor(sketch(source)) - torch.tensor(sketch(other))).norm()
    assert float(distance) == pytest.approx(size * count**0.5, rel=0.6)  # its error is a third


def test_a_fingerprint_alone_asks_for_every_bit():
    """As in files of earlier versions."""
    source = SOURCES["StyleGAN2"]
    assert is_source(fingerprint(source), source)
    assert not is_source(fingerprint(source), moved(source, 1e-6))


@pytest.mark.parametrize(
    "saved",
    [None, "0", [], {}, {"sketch": None}, {"sketch": ["a"] * 16}, {"sketch": [1.0]},
     {"sketch": [float("nan")] * 16}, {"sketch": {"a": 1}}],
)  # fmt: skip
def test_what_identifies_nothing_is_no_source(saved):
    assert not is_source(saved, SOURCES["StyleGAN2"])


@pytest.mark.slow
def test_adaptations_apply_under_other_kernels_and_to_their_own_source_only():
    """A process without vector instructions, whose MKL rounds otherwise, opens the same world."""
    shipped = Adaptation.load(SHIPPED_ADAPTATIONS / "human-baby-d-0.safetensors")
    human, dog = (open_world("tiny", name).generator for name in ("human", "dog"))
    saved = [identity(human), identity(dog), fingerprint(human), shipped.config["source"]]
    environment = (
        os.environ | OTHER_KERNELS | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=json.dumps(saved), env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = json.loads(done.stdout)
    assert there["found"] == {
        "human": [True, False, True, True],
        "dog": [False, True, False, False],
    }
    assert there["human"]["fingerprint"] != fingerprint(human)  # else this says little
    for made_there in (there["human"], there["human"]["fingerprint"]):
        adaptation = Adaptation(shipped.tensors, {**shipped.config, "source": made_there})
        assert adaptation.apply(human).num_layers == human.num_layers
        with pytest.raises(AirlibError, match="another source generator"):
            adaptation.apply(dog)
