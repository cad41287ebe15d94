"""Anchors of a hypernetwork: one context for all domains, the term, and what stands still."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_space
from torch import Tensor

from airlib.errors import AirlibError
from airlib.methods.hyper_anchors import TOKENS, HyperAnchor, HyperAnchors, mixed_prompts
from airlib.methods.hyperdomainnet import HyperDomainNet, Texts, draw, with_domains
from airlib.methods.prompt_learning import (
    CONTEXT,
    PromptConfig,
    interpolated_prompt,
    learn_prompt,
    mean_direction_of,
)
from airlib.seeding import rng

SOURCE, ENCODER = small_generator(), small_space().encoders[0]
GENERATOR = with_domains(SOURCE)
DOMAINS = [("photo", "sketch"), ("photo", "wall painting"), ("human", "cat")]
TEXTS = Texts.of(ENCODER, DOMAINS, ("a {}", "the {}"))
LATENTS = SOURCE.sample_latents(3, rng(0, "latents"))
NUMBERS = HyperAnchors(0.5, 0.25, prompt_domains=4, prompt_pairs=3, prompt_steps=5)


def small_network() -> HyperDomainNet:
    widths = [layer.domain.numel() for layer in GENERATOR.synthesis.layers]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = HyperDomainNet(widths, 32, backbone_depth=2, head_depth=2)
        for parameter in network.parameters():  # away from the start, where all texts give ones
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return network


def anchor_for(network: HyperDomainNet, config: HyperAnchors = NUMBERS) -> HyperAnchor:
    return HyperAnchor(network, GENERATOR, ENCODER, DOMAINS, TEXTS, config, seed=0)


def moved(network: HyperDomainNet) -> HyperDomainNet:
    other = copy.deepcopy(network)
    for name, parameter in other.named_parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng(0, "moved", name))
    return other


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_prompts_read_together_are_those_read_one_by_one(progress):
    """Labels have different lengths, and nothing behind the end of text counts."""
    prompts, ends = mixed_prompts(ENCODER, DOMAINS, progress)
    assert len(set(ends.tolist())) > 1
    together = ENCODER.embed_prompt(prompts, ends)
    for i, (source, target) in enumerate(DOMAINS):
        alone = interpolated_prompt(ENCODER, source, target, progress, "label")
        torch.testing.assert_close(together[i], ENCODER.embed_prompt(*alone)[0])


def test_of_one_domain_the_context_is_that_of_algorithm_2():
    source, target = DOMAINS[0]
    direction = F.normalize(torch.randn(32, generator=rng(0)), dim=0)
    config = HyperAnchors(prompt_steps=20)
    anchor = HyperAnchor(
        small_network(), GENERATOR, ENCODER, DOMAINS[:1], TEXTS.drawn(1, rng(0)), config, 0
    )
    found, loss = anchor.learn(0.3, torch.tensor([0, 0]), direction.expand(2, -1))
    previous = ENCODER.embed_text([f"{CONTEXT} {source}"])[0]
    numbers = PromptConfig(20, config.prompt_learning_rate, TOKENS)
    expected, reached = learn_prompt(ENCODER, source, target, 0.3, direction, previous, numbers)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    assert loss == pytest.approx(reached, abs=1e-5)


def test_learning_lowers_the_mean_alignment_loss_of_the_sample():
    rows, directions = torch.tensor([0, 2, 2]), F.normalize(torch.randn(3, 32), dim=1)
    losses = []
    for steps in (0, 20, 100):
        anchor = anchor_for(small_network(), replace(NUMBERS, prompt_steps=steps))
        prompts, loss = anchor.learn(0.5, rows, directions)
        offsets = prompts[rows] - anchor.sources[rows]
        expected = (1 - F.cosine_similarity(offsets, directions, dim=1)).mean()
        assert loss == pytest.approx(float(expected), abs=1e-5)
        assert prompts.shape == (3, 32) and not prompts.requires_grad
        losses.append(loss)
    assert losses[0] > losses[1] > losses[2]


def test_image_directions_lead_from_the_source_to_the_anchors():
    anchor, rows = anchor_for(small_network()), torch.tensor([1, 0, 1, 2])
    found = anchor.image_directions(rows, rng(3))
    latents = GENERATOR.sample_latents(NUMBERS.prompt_pairs, rng(3))
    vectors = anchor.vectors(TEXTS.inputs[rows])
    before = ENCODER.embed_images(SOURCE(latents))
    for i in range(len(rows)):
        images = [
            draw(GENERATOR, [v[i : i + 1] for v in vectors], w[None]) for w in latents
        ]  # fmt: skip
        after = ENCODER.embed_images(torch.cat(images))
        torch.testing.assert_close(found[i], mean_direction_of(after, before), atol=1e-4, rtol=0)


# --- the term ------------------------------------------------------------------------------------


def taken(network: HyperDomainNet) -> tuple[HyperAnchor, Texts]:
    """An anchor at step 4 of 8, and the texts of a batch of three."""
    anchor = anchor_for(network)
    return anchor, anchor.texts_at(4, 8).drawn(3, rng(0, "batch"))


def term(anchor: HyperAnchor, texts: Texts, vectors: list[Tensor]) -> Tensor:
    near = ENCODER.embed_images(draw(GENERATOR, anchor.vectors(texts.inputs), LATENTS))
    return anchor.loss(ENCODER.embed_images(draw(GENERATOR, vectors, LATENTS)), near, texts)


def test_the_term_is_the_formula():
    network = small_network()
    anchor, texts = taken(network)
    anchor.config = replace(NUMBERS, adaptive=3.0)
    rows = [int((TEXTS.inputs @ x).argmax()) for x in texts.inputs]
    vectors, old = moved(network)(texts.inputs), network(texts.inputs)
    embed, expected = ENCODER.embed_images, 0.0
    for i, row in enumerate(rows):
        now, then = (
            embed(draw(GENERATOR, [v[i : i + 1] for v in part], LATENTS[i : i + 1]))[0]
            for part in (vectors, old)
        )
        target = ENCODER.embed_text([f"{CONTEXT} {DOMAINS[row][1]}"])[0]
        way = target - anchor.memory.anchored[row, 0]
        cosine = torch.dot(now - then, way) / ((now - then).norm() * way.norm())
        expected += 3.0 * (1 - cosine.item()) / 3
    assert term(anchor, texts, vectors).item() == pytest.approx(expected, abs=1e-3)


def test_the_gradient_is_that_of_finite_differences():
    network = small_network()
    anchor, texts = taken(network)
    vectors = [v.detach().requires_grad_(True) for v in moved(network)(texts.inputs)]
    ways = [torch.randn(v.shape, generator=rng(0, i)) for i, v in enumerate(vectors)]

    def value(amount: float) -> float:
        shifted = [v + amount * way for v, way in zip(vectors, ways, strict=True)]
        return float(term(anchor, texts, shifted))

    term(anchor, texts, vectors).backward()
    slope = sum(float((v.grad * way).sum()) for v, way in zip(vectors, ways, strict=True))
    assert slope == pytest.approx((value(1e-3) - value(-1e-3)) / 2e-3, rel=0.03)
    assert all(p.grad is None for p in anchor.memory.parameters())


def test_prompts_are_mixed_on_the_convex_hull_as_texts_are():
    corners = torch.eye(9)
    anchored = torch.stack([corners[3:6], corners[6:]], dim=1)
    known = Texts(corners[:3], corners[:3, None], corners[:3, None], anchored)
    mixed = known.mixed(20, rng(0, "mixed"), nearest=1.0)
    torch.testing.assert_close(mixed.anchored[:, 0, 3:6], mixed.inputs[:, :3])
    torch.testing.assert_close(mixed.anchored[:, 1, 6:], mixed.inputs[:, :3])
    plain = Texts(*(getattr(known, name) for name in ("inputs", "targets", "sources")))
    others = plain.mixed(20, rng(0, "mixed"), nearest=1.0)
    assert torch.equal(others.targets, mixed.targets) and others.anchored is None


# --- the anchor ----------------------------------------------------------------------------------


def test_texts_have_prompts_from_the_threshold_on_only():
    anchor = anchor_for(small_network())
    assert all(anchor.texts_at(step, 8) is TEXTS for step in range(4))
    assert (anchor.memory.anchored == 0).all(), "no anchor is taken that no step uses"
    assert all(anchor.texts_at(step, 8).anchored is not None for step in range(4, 8))
    never = anchor_for(small_network(), replace(NUMBERS, t_int=1.0))
    assert all(never.texts_at(step, 8) is TEXTS for step in range(8))


def test_the_anchor_stands_still_while_the_network_moves():
    network = small_network()
    anchor, texts = taken(network)
    kept = copy.deepcopy(anchor.memory.state_dict())
    for parameter in network.parameters():
        parameter.data += 1
    anchor.texts_at(5, 8)
    anchor.vectors(texts.inputs)
    for name, value in anchor.memory.state_dict().items():
        assert torch.equal(value, kept[name]) or name.endswith("num_batches_tracked"), name
    anchor.texts_at(6, 8)
    assert torch.equal(anchor.memory.network.entry.weight, network.entry.weight)


def test_of_the_same_batch_anchor_and_network_predict_the_same_until_one_moves():
    network = small_network().train()
    anchor, texts = taken(network)
    pairs = zip(network(texts.inputs), anchor.vectors(texts.inputs), strict=True)
    assert all(torch.equal(now, then) for now, then in pairs)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"adaptive": -1.0}, "weight from 0 up"),
        ({"adaptive": math.inf}, "weight from 0 up"),
        ({"prompt_domains": 1}, "at least 2 domains"),
        ({"prompt_pairs": 0}, "1 pair"),
        ({"prompt_steps": -1}, "0 steps or more"),
        ({"prompt_learning_rate": 0.0}, "above 0"),
        ({"prompt_learning_rate": math.nan}, "above 0"),
        ({"t_int": 0.0}, "must lie in"),
    ],
)
def test_bad_numbers_are_refused(wrong, words):
    with pytest.raises(AirlibError, match=words):
        HyperAnchors(**wrong)
