"""AIR for one picture: its term, its anchors, and what it shares with MindTheGap."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import assert_continues, small_encoder, small_generator
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.air_one_shot import AirMindTheGap, AirMindTheGapConfig
from airlib.methods.mind_the_gap import MindTheGap
from airlib.methods.registry import METHODS, defaults_of
from airlib.methods.step import Step
from airlib.parameterizations.stylegan2 import domain_vector, synthesis
from airlib.profiles import load_profile
from airlib.seeding import rng
from airlib.worlds.numbers import numbers_of

PERCEPTUAL = PerceptualEmbedding(lambda images: [F.avg_pool2d(images, size) for size in (2, 4)])
SPACE = ClipSpace([(small_encoder(0), 1.0), (small_encoder(1), 0.5)])
CONFIG = AdaptationConfig(steps=8, batch=2, learning_rate=0.01, noise="none")
SCHEDULE = {"t_thresh": 0.5, "t_int": 0.25}  # anchors before steps 4 and 6 of 8
NUMBERS = AirMindTheGapConfig(**SCHEDULE)
PICTURE = (0.5 * torch.randn(1, 3, 16, 16, generator=rng(0, "picture"))).clamp(-1, 1)


def dimmed(seed: int = 0) -> StyleGAN2:
    """A small generator whose images stay between -1 and 1."""
    generator = small_generator(seed)
    for block in map(generator.synthesis.block, generator.synthesis.resolutions):
        block.torgb.weight.mul_(0.05)
        block.torgb.bias.mul_(0.05)
    return generator


SOURCE = dimmed()
LATENT = SOURCE.sample_latents(1, rng(0, "reference"))
LATENTS = SOURCE.sample_latents(3, rng(1))


def air(config: AirMindTheGapConfig = NUMBERS) -> AirMindTheGap:
    return AirMindTheGap(SPACE, SOURCE, PICTURE, LATENT, PERCEPTUAL, config)


def plain() -> MindTheGap:
    return MindTheGap(SPACE, SOURCE, PICTURE, LATENT, PERCEPTUAL)


def step_of(adapted: StyleGAN2, index: int = 5) -> Step:
    return Step(index, 8, 0, SOURCE, adapted, SPACE, LATENTS, 0, "none")


def adapted_by(objective: AirMindTheGap | MindTheGap, **options) -> Adaptation:
    return adapt(SOURCE, SPACE, objective, synthesis(), CONFIG, **options)


def anchors(result: Adaptation) -> list[dict]:
    return [entry for entry in result.log if entry.get("event") == "anchor"]


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["t_int", "t_thresh"])
def test_only_anchors_that_a_later_step_uses_are_taken(start):
    paper = AirMindTheGapConfig(chain_start=start)
    assert paper.used_anchor_steps(300) == [180, 210, 240, 270]
    between = AirMindTheGapConfig(t_thresh=0.65)  # where the anchor at 0.6 is the nearest
    assert between.used_anchor_steps(40) == [24, 28, 32, 36]
    assert AirMindTheGapConfig(t_int=1.0).used_anchor_steps(40) == []
    assert AirMindTheGapConfig(t_thresh=1.0).used_anchor_steps(40) == []


@pytest.mark.slow  # adapts
def test_before_the_threshold_it_is_mind_the_gap_bit_for_bit():
    states: dict[str, list[Tensor]] = {"plain": [], "air": []}
    results = {
        name: adapted_by(
            objective,
            on_step=lambda _, net, name=name: states[name].append(
                torch.cat([v.flatten() for v in net.state_dict().values()])
            ),
        )
        for name, objective in (("plain", plain()), ("air", air()))
    }
    entries = [entry for entry in results["air"].log if "event" not in entry]
    assert entries[:4] == results["plain"].log[:4]
    assert [entry["step"] for entry in entries if "clip_adaptive" in entry] == [4, 5, 6, 7]
    for step in range(5):
        assert torch.equal(states["plain"][step], states["air"][step])
    assert not torch.equal(states["plain"][5], states["air"][5])


@pytest.mark.slow  # adapts
def test_a_weight_of_zero_leaves_mind_the_gap():
    alone = adapted_by(air(AirMindTheGapConfig(**SCHEDULE, clip_adaptive=0.0)))
    assert all(torch.equal(v, alone.tensors[k]) for k, v in adapted_by(plain()).tensors.items())


# --- the term ------------------------------------------------------------------------------------


def test_the_term_is_the_formula():
    """Recomputed image by image; the other four terms are MindTheGap's own."""
    objective, anchor, adapted = (
        air(AirMindTheGapConfig(**SCHEDULE, clip_adaptive=3.0)),
        dimmed(2),
        dimmed(1),
    )
    objective.anchor = anchor
    objective.point_from(anchor)
    terms = objective(step_of(adapted))
    expected = 0.0
    for encoder, weight in zip(SPACE.encoders, SPACE.weights, strict=True):
        embed = encoder.embed_images
        reference = embed(PICTURE)[0] - embed(anchor(LATENT))[0]
        for w in LATENTS:
            moved = embed(adapted(w[None]))[0] - embed(anchor(w[None]))[0]
            cosine = torch.dot(moved, reference) / (moved.norm() * reference.norm())
            expected += 3.0 * weight * float(1 - cosine) / len(LATENTS)
    assert terms.pop("clip_adaptive").item() == pytest.approx(expected, abs=1e-4)
    others = plain()(step_of(adapted))
    assert terms.keys() == others.keys()
    assert all(torch.equal(terms[name], value) for name, value in others.items())


def test_from_the_source_as_anchor_the_term_is_that_of_mind_the_gap():
    objective = air()
    objective.anchor = SOURCE
    objective.point_from(SOURCE)
    terms = objective(step_of(dimmed(1)))
    torch.testing.assert_close(terms["clip_adaptive"], terms["clip_across"])


def test_the_gradient_is_that_of_finite_differences():
    adapted, objective = dimmed(1), air(AirMindTheGapConfig(**SCHEDULE, clip_adaptive=3.0))
    objective.anchor = dimmed(2)
    objective.point_from(objective.anchor)
    vectors = domain_vector().attach(adapted)
    directions = {name: torch.randn(p.shape, generator=rng(0, name)) for name, p in vectors.items()}

    def value(amount: float) -> float:
        moved = {name: p.detach() + amount * directions[name] for name, p in vectors.items()}
        at = adapted.copy_frozen()
        at.load_state_dict(moved, strict=False)
        return objective(step_of(at))["clip_adaptive"].item()

    objective(step_of(adapted))["clip_adaptive"].backward()
    slope = sum((p.grad * directions[name]).sum().item() for name, p in vectors.items())
    assert slope == pytest.approx((value(1e-3) - value(-1e-3)) / 2e-3, rel=0.02)
    assert all(p.grad is None for p in objective.anchor.parameters())


def test_at_an_anchor_step_the_loss_is_finite_and_has_a_gradient():
    """The anchor equals the adapted generator then, so their offset is zero."""
    adapted = dimmed(1)
    const = adapted.synthesis.b4.const.requires_grad_(True)
    term = air()(step_of(adapted, index=4))["clip_adaptive"]
    (gradient,) = torch.autograd.grad(term, const)
    assert math.isfinite(term.item()) and gradient.isfinite().all() and gradient.abs().max() > 0


# --- the anchor ----------------------------------------------------------------------------------


@pytest.mark.slow  # adapts
def test_the_anchor_stands_still_while_the_generator_moves():
    objective, kept = air(), []

    def watch(_index: int, adapted: torch.nn.Module) -> None:
        const = adapted.synthesis.b4.const.detach().clone()
        kept.append((const, objective.anchor and objective.anchor.synthesis.b4.const.clone()))

    adapted_by(objective, on_step=watch)
    assert all(anchor is None for _, anchor in kept[:5])
    for taken in (4, 6):
        for later in (taken + 1, taken + 2):
            assert torch.equal(kept[later][1], kept[taken][0])
            assert not torch.equal(kept[later][0], kept[taken][0])


def test_events_describe_every_anchor():
    objective = air()
    log = anchors(adapted_by(objective))
    assert [event["step"] for event in log] == [4, 6]
    for event in log:
        assert set(event) == {"event", "step", "length_left", "cos_with_first_direction"}
    gap = objective.mind_the_gap
    for m, offset in enumerate(objective.offsets):
        first = gap.target[m] - gap.start[m]
        cosine = float((F.normalize(offset) * F.normalize(first)).sum())
        assert log[-1]["cos_with_first_direction"][m] == pytest.approx(cosine, abs=1e-5)
        share = float(offset.norm() / first.norm())
        assert log[-1]["length_left"][m] == pytest.approx(share, abs=1e-5)
    assert objective.events() == []  # handed over once


@pytest.mark.slow  # runs and is killed again and again
@pytest.mark.parametrize("last", [3, 5, 7])
def test_a_killed_run_ends_with_the_same_bits(last, tmp_path):
    """Stopped before the first anchor, after it, and after the second."""
    config = AdaptationConfig(
        steps=8, batch=2, learning_rate=0.01, views=1, noise="shared", checkpoint_every=1
    )
    assert_continues(
        lambda **options: adapt(SOURCE, SPACE, air(), domain_vector(), config, **options),
        tmp_path,
        last,
    )


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"clip_adaptive": -1.0}, "weight from 0 up"),
        ({"clip_adaptive": math.nan}, "weight from 0 up"),
        ({"t_int": 0.0}, "must lie in"),
        ({"t_thresh": 1.1}, "must lie in"),
        ({"ref_clip_over": "max"}, 'use "sum", "mean"'),
    ],
)
def test_bad_numbers_are_refused(wrong, words):
    with pytest.raises(AirlibError, match=words):
        AirMindTheGapConfig(**wrong)


def test_two_references_are_refused():
    with pytest.raises(AirlibError, match="takes one reference"):
        AirMindTheGap(SPACE, SOURCE, PICTURE.repeat(2, 1, 1, 1), LATENT, PERCEPTUAL)


@pytest.mark.parametrize("profile", ["tiny", "paper"])
@pytest.mark.parametrize(("arm", "base"), [("air_mtg", "mtg"), ("air_mtg_d", "mtg_d")])
def test_an_arm_differs_from_mind_the_gap_s_in_the_anchors_only(profile, arm, base):
    numbers = load_profile(profile)
    own, others = numbers_of(numbers, arm), numbers_of(numbers, base)
    assert {key: own[key] for key in others} == others
    assert own.keys() - others.keys() == {"t_thresh", "t_int", "chain_start", "clip_adaptive"}
    assert METHODS["air_mind_the_gap"] is AirMindTheGap
    assert defaults_of("air_mind_the_gap")["t_thresh"] == 0.6
