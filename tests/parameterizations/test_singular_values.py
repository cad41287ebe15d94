"""Singular values: the start, what moves, and the way from training to a file and back."""

import pytest
import torch
from small_networks import assert_continues, small_generator, small_space

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.air import AIR, AIRConfig
from airlib.parameterizations.singular_values import singular_values
from airlib.parameterizations.stylegan2 import trainable_numbers
from airlib.seeding import rng

SOURCE, SPACE = small_generator(), small_space()
CONFIG = AdaptationConfig(steps=8, learning_rate=0.05, checkpoint_every=1)
LATENTS, NOISE = SOURCE.sample_latents(3, rng(1)), SOURCE.sample_noise(3, rng(2))


def run_air(**options) -> Adaptation:
    """With an anchor every fourth of the run."""
    objective = AIR(SPACE, "human", "dog", AIRConfig(0.5, 0.25, prompt_pairs=12))
    return adapt(SOURCE, SPACE, objective, singular_values(), CONFIG, **options)


def test_it_starts_as_the_source_bit_for_bit_and_so_does_a_copy():
    adapted = SOURCE.copy_frozen()
    trainable = singular_values().attach(adapted)
    assert len(trainable) == 5 and all(name.endswith(".change") for name in trainable)
    for generator in (adapted, adapted.copy_frozen()):
        assert torch.equal(generator(LATENTS, NOISE), SOURCE(LATENTS, NOISE))
    z = SOURCE.sample_z(2, rng(0))
    assert torch.equal(adapted.with_mapping()(z), SOURCE.with_mapping()(z))


def test_the_numbers_are_one_per_output_channel():
    """An output channel has more inputs than there are channels, so W has full rank."""
    with torch.device("meta"):
        found = trainable_numbers(StyleGAN2(StyleGAN2Config(resolution=1024)))
    assert found["singular_values"] == 9 * 512 + 2 * (256 + 128 + 64 + 32) == 5568
    assert trainable_numbers(SOURCE)["singular_values"] == 5 * 16


def test_a_change_moves_the_singular_values_and_turns_nothing():
    adapted = SOURCE.copy_frozen()
    for i, change in enumerate(singular_values().attach(adapted).values()):
        change.data = 0.3 * torch.randn(change.shape, generator=rng(3, i))
    for before, after in zip(SOURCE.synthesis.layers, adapted.synthesis.layers, strict=True):
        u, values, vh = torch.linalg.svd(before.weight.flatten(1).double(), full_matrices=False)
        middle = u.T @ after.weight.flatten(1).double() @ vh.T
        change = after.parametrizations.weight[0].change.double()
        torch.testing.assert_close(middle, (values + change).diag(), atol=1e-5, rtol=1e-5)
        restored = u @ middle @ vh
        expected = after.weight.flatten(1).double()
        torch.testing.assert_close(restored, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow  # runs again and again
def test_air_trains_it_resumes_at_any_anchor_and_its_file_draws_the_same_bits(tmp_path):
    assert_continues(run_air, tmp_path / "run", last=7)
    seen = []
    result = run_air(on_step=lambda _, adapted: seen.append(adapted.copy_frozen()(LATENTS, NOISE)))
    assert torch.equal(seen[0], SOURCE(LATENTS, NOISE)) and not torch.equal(seen[0], seen[-1])
    path = result.save(tmp_path / "dog.safetensors")
    assert sum(v.numel() for v in result.tensors.values()) == 80 and path.stat().st_size < 5000
    applied = Adaptation.load(path).apply(SOURCE)
    assert torch.equal(applied(LATENTS, NOISE), seen[-1])
    state = applied.state_dict()
    for name, value in SOURCE.state_dict().items():  # the weights are frozen under another name
        module, _, end = name.rpartition(".")
        same = name if name in state else f"{module}.parametrizations.{end}.original"
        assert torch.equal(state[same], value)
