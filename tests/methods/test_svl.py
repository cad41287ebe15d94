"""SVL: the optimum of its variations, its losses by hand, and what its brakes hold."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import assert_continues, small_encoder, small_generator

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import text_direction
from airlib.errors import AirlibError
from airlib.methods.step import Step
from airlib.methods.svl import (
    SVL,
    SVLConfig,
    diversity_loss,
    fisher_information,
    learn_variations,
    moment_loss,
    relation_loss,
    variations_of,
)
from airlib.parameterizations.stylegan2 import affine, synthesis
from airlib.seeding import rng

SOURCE, ENCODER = small_generator(), small_encoder()
SPACE = ClipSpace([(ENCODER, 1.0)])
NUMBERS = SVLConfig(variation_steps=5, fisher_samples=2)
CONFIG = AdaptationConfig(steps=4, batch=3, learning_rate=0.01, checkpoint_every=1)


def svl(config: SVLConfig = NUMBERS, seed: int = 0) -> SVL:
    return SVL(SPACE, "human", "dog", config, seed=seed)


def adapted_by(objective: SVL, config: AdaptationConfig = CONFIG, **options) -> Adaptation:
    return adapt(SOURCE, objective.space, objective, synthesis(), config, **options)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=rng(seed, "unit")), dim=-1)


# --- stage 1 -------------------------------------------------------------------------------------


@pytest.mark.slow  # trains prompts or variations
def test_learnt_variations_reach_the_optimum_of_the_paper():
    """K = 6, 2,000 steps from random vectors of 512 numbers: cos(t, v) = 0.8391 there."""
    target = 7 * unit(512)
    variations = learn_variations(target, SVLConfig(), rng(0, "variations"))
    cosines = F.cosine_similarity(variations, target, dim=1)
    assert cosines.mean().item() == pytest.approx(math.sqrt((1 + 1 / math.sqrt(6)) / 2), abs=1e-3)
    assert cosines.mean().item() == pytest.approx(0.8391, abs=1e-3)
    assert diversity_loss(variations - target) < 0.01


@pytest.mark.parametrize("k", [2, 6, 16])
def test_the_optimum_is_a_stationary_point(k):
    """Orthogonal steps equally near the target: no direction lowers consistency plus diversity."""
    z = torch.linalg.qr(torch.randn(32, k, generator=rng(0, "optimum"), dtype=torch.float64))[0].T
    target = z.sum(dim=0)

    def loss(z: torch.Tensor) -> float:
        consistency = 1 - F.cosine_similarity(variations_of(target, z), target, dim=1)
        return float(consistency.mean() + diversity_loss(z))

    best = math.sqrt((1 + 1 / math.sqrt(k)) / 2)
    assert loss(z) == pytest.approx(1 - best, abs=1e-9)
    for seed in range(20):
        nearby = z + 1e-3 * unit(k, 32, seed=seed)
        assert loss(nearby) > loss(z) - 1e-9


def test_diversity_by_hand():
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    assert diversity_loss(torch.stack([x, y])).item() == 0
    assert diversity_loss(torch.stack([x, -2 * x])).item() == 1
    assert diversity_loss(torch.stack([x, y, x + y / 3])).item() == pytest.approx(
        2 * math.sqrt(0.5) / 3
    )


def test_the_length_of_a_step_does_not_count():
    target, z = 3 * unit(8), unit(4, 8, seed=1)
    found = variations_of(target, 5 * z)
    torch.testing.assert_close(found, variations_of(target, z))
    torch.testing.assert_close((found - target).norm(dim=1), torch.full((4,), 3.0))


# --- stage 2 -------------------------------------------------------------------------------------


def test_moments_by_hand():
    x, y = torch.eye(3)[:1], torch.eye(3)[1:2]
    same = moment_loss(x, x, 0.5)
    assert same.item() == pytest.approx(0, abs=1e-6)
    # Mean offsets at 45 degrees; the sums of squares differ by 1 in one place.
    found = moment_loss(x, torch.cat([x, y]), covariance=10.0)
    assert found.item() == pytest.approx(1 - math.sqrt(0.5) + 10)
    # Two texts against one image: 1 against 2 in the same place.
    assert moment_loss(x, torch.cat([x, x]), covariance=10.0).item() == pytest.approx(10)
    # Orthogonal: 1 in two places.
    assert moment_loss(x, y, covariance=10.0).item() == pytest.approx(1 + 10 * math.sqrt(2))


def test_views_of_an_image_count_once():
    images, texts = unit(4, 8), unit(7, 8, seed=1)
    expected = moment_loss(images, texts, 3.0)
    torch.testing.assert_close(moment_loss(images.repeat(3, 1), texts, 3.0, views=3), expected)


def test_relations_by_hand():
    """Two images that become one: their row of softmaxes from (e, 1) to (1, 1)."""
    before, after = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    p = math.e / (1 + math.e)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert relation_loss(before, after).item() == pytest.approx(expected, rel=1e-5)


def test_relations_do_not_ask_where_the_images_are():
    before, turn = unit(4, 8), torch.linalg.qr(torch.randn(8, 8, generator=rng(0, "turn")))[0]
    assert relation_loss(before, before @ turn).item() == pytest.approx(0, abs=1e-6)
    assert relation_loss(before, unit(4, 8, seed=1)).item() > 1e-3


def test_no_gradient_reaches_the_source():
    before, after = unit(4, 8).requires_grad_(True), unit(4, 8, seed=1).requires_grad_(True)
    relation_loss(before, after).backward()
    assert before.grad is None and after.grad.abs().max() > 1e-4


def test_information_is_the_mean_square_of_a_slope():
    """Against differences of the cosine, one number at a time."""
    text, n = unit(32), 2
    found = fisher_information(SOURCE, SPACE, [text], n, seed=0)
    assert not any(name.startswith("mapping") for name in found)  # latents do not depend on it

    def cosines(generator: torch.nn.Module) -> torch.Tensor:
        values = []
        for index in range(n):
            stream = rng(0, "fisher", index)
            latents = generator.sample_latents(1, stream)
            images = generator(latents, generator.sample_noise(1, stream))
            values.append(ENCODER.embed_images(images)[0] @ text)
        return torch.stack(values)

    for name in ("synthesis.b4.const", "synthesis.b16.conv1.bias", "synthesis.b8.torgb.weight"):
        values, step = [], 1e-2
        index = int(found[name].flatten().argmax())
        for sign in (1, -1):
            moved = SOURCE.copy_frozen()
            dict(moved.named_parameters())[name].data.flatten()[index] += sign * step
            values.append(cosines(moved))
        slopes = (values[0] - values[1]) / (2 * step)
        expected = slopes.square().mean().item()
        assert found[name].flatten()[index].item() == pytest.approx(expected, rel=0.05), name


def test_texts_are_the_direction_of_nada_and_those_to_the_variations():
    objective = svl()
    objective.begin(SOURCE, SOURCE)
    (texts,) = objective.texts()
    direction = text_direction(ENCODER, "human", "dog")
    assert texts.shape == (7, 32)
    torch.testing.assert_close(texts[0], direction)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(7))
    others = objective.variations[0] - objective.sources[0]
    torch.testing.assert_close(texts[1:], F.normalize(others, dim=1))


def test_terms_of_a_step_by_their_definitions():
    objective, adapted = svl(), small_generator(seed=3).requires_grad_(True)
    latents = SOURCE.sample_latents(3, rng(0, "step"))
    step = Step(0, 4, 0, SOURCE, adapted, SPACE, latents, 0, "shared")
    objective.begin(SOURCE, adapted)
    objective.fisher = {"synthesis.b4.const": torch.full_like(adapted.synthesis.b4.const, 2.0)}
    objective.start = {"synthesis.b4.const": adapted.synthesis.b4.const.detach() - 0.1}
    terms = {name: term.item() for name, term in objective(step).items()}
    assert terms["ewc"] == pytest.approx(1e7 * 2 * 0.1**2 * adapted.synthesis.b4.const.numel())
    before, after = step.source_embeddings[0], step.adapted_embeddings[0]
    assert terms["relation"] == pytest.approx(100 * relation_loss(before, after).item())
    offsets = F.normalize(after - before, dim=1)
    expected = moment_loss(offsets, objective.texts()[0], 1e3).item()
    assert terms["moments"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parameterization", [synthesis, affine])
def test_the_first_step_moves_only_what_may_move(parameterization):
    states = []

    def watch(_index: int, adapted: torch.nn.Module) -> None:
        states.append({name: value.clone() for name, value in adapted.state_dict().items()})

    config = AdaptationConfig(steps=1, batch=3, learning_rate=0.01)
    result = adapt(SOURCE, SPACE, svl(), parameterization(), config, on_step=watch)
    moved = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert moved == set(result.tensors)
    first = result.log[-1]
    assert first["ewc"] == 0 and math.isfinite(first["moments"])
    assert first["relation"] < 1  # only the perturbation of the first step: nothing has moved


def test_elastic_weights_hold_what_matters_in_the_source():
    """With a strong pull back, steps go where the information is small."""
    free, held = (
        adapted_by(svl(SVLConfig(variation_steps=5, fisher_samples=2, ewc=weight)))
        for weight in (0.0, 1e12)
    )
    fisher = fisher_information(SOURCE, SPACE, svl().sources, 2, seed=0)
    before = dict(SOURCE.named_parameters())

    def cost(result: Adaptation) -> float:
        return sum(
            float((fisher[name] * (value - before[name]).square()).sum())
            for name, value in result.tensors.items()
        )

    assert cost(held) < 0.5 * cost(free)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_stopped_run_continues_bit_for_bit(tmp_path, last):
    assert_continues(lambda **options: adapted_by(svl(), **options), tmp_path, last)


def test_the_log_says_how_far_the_variations_are():
    objective = svl()
    event = adapted_by(objective).log[0]
    assert (event["event"], event["step"]) == ("variations", 0)
    cosines = F.cosine_similarity(objective.variations[0], objective.targets[0], dim=1)
    assert event["cos_with_target"][0] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert event["largest_information"] > 0


@pytest.mark.parametrize("numbers", [{"variations": 1}, {"fisher_samples": 0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(AirlibError, match="at least 2 variations and 1 Fisher sample"):
        SVLConfig(**numbers)


def test_equal_classes_are_refused():
    with pytest.raises(AirlibError, match="choose two different classes"):
        SVL(SPACE, "dog", "dog", NUMBERS)
