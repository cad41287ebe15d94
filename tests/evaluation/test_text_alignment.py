"""Quality, Diversity and CLIP distance: closed forms against the loops they stand for."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.text_alignment import clip_diversity, text_quality
from airlib.seeding import rng


def embeddings(n: int, width: int = 32, seed: int = 0) -> Tensor:
    """Unit rows that share a direction, as those of CLIP do."""
    x = torch.randn(n, width, generator=rng(seed, "test"), dtype=torch.float64) + 0.5
    return x / x.norm(dim=1, keepdim=True)


def cosine(a: Tensor, b: Tensor) -> float:
    return math.fsum((a * b).tolist())


def test_quality_is_the_mean_over_images_and_sentences():
    images, texts = embeddings(25), embeddings(9, seed=1)
    found = text_quality(images, texts)
    loop = [[cosine(x, t) for t in texts] for x in images]
    assert found.per_image.tolist() == pytest.approx([sum(row) / 9 for row in loop], abs=1e-12)
    assert found.value == pytest.approx(sum(map(sum, loop)) / (25 * 9), abs=1e-12)


def test_diversity_is_the_mean_over_pairs():
    images = embeddings(25)
    loop = [1 - cosine(x, y) for x, y in itertools.combinations(images, 2)]
    assert clip_diversity(images) == pytest.approx(sum(loop) / len(loop), abs=1e-12)


def test_by_hand_and_the_reward_of_collapse():
    images, text = torch.eye(2), torch.tensor([[1.0, 0.0]])
    assert text_quality(images, text).value == pytest.approx(0.5)
    assert clip_diversity(images) == pytest.approx(1.0)
    assert clip_diversity(torch.cat([images, -images])) == pytest.approx(4 / 3)  # 4 x 1, 2 x 2
    collapsed = text.expand(5, -1)
    assert text_quality(collapsed, text).value == pytest.approx(1.0)
    assert clip_diversity(collapsed) == pytest.approx(0.0)


def test_half_precision_embeddings_are_brought_to_unit_length():
    images, texts = embeddings(20), embeddings(5, seed=1)
    assert text_quality(images.half(), texts.half()).value == pytest.approx(
        text_quality(images, texts).value, abs=1e-3
    )
    assert clip_diversity(images.half()) == pytest.approx(clip_diversity(images), abs=1e-3)


def test_clip_distance_of_5000_images_to_1000_is_the_mean_of_all_five_million():
    generated, references = embeddings(5000), embeddings(1000, seed=1)
    found = clip_distance(generated, references)
    everything = 1 - generated @ references.T  # [5000, 1000]
    assert found.value == pytest.approx(everything.mean().item(), abs=1e-12)
    assert torch.allclose(found.per_image, everything.mean(1), atol=1e-12, rtol=0)
    some = range(0, 5000, 250)  # the double loop, for one image in 250
    loop = [
        math.fsum(1 - cosine(generated[i], reference) for reference in references) / 1000
        for i in some
    ]
    assert found.per_image[list(some)].tolist() == pytest.approx(loop, abs=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(AirlibError, match="texts: embeddings must have unit length"):
        text_quality(embeddings(3), 2 * embeddings(3))
    with pytest.raises(AirlibError, match="width"):
        text_quality(embeddings(3), embeddings(3, width=16))
    with pytest.raises(AirlibError, match="unit length"):
        text_quality(torch.full((2, 32), math.nan), embeddings(3))
    with pytest.raises(AirlibError, match="at least 2"):
        clip_diversity(embeddings(1))
