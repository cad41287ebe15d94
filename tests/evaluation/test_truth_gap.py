"""The truth gap: what a directional loss makes of the right answer."""

import pytest
import torch
from small_networks import small_space

from airlib.evaluation.truth_gap import GapReference, TruthGap
from airlib.seeding import rng


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 12, 3, 16, 16, generator=rng(0, "pictures")) * 2 - 1


def truth_gap(space, directions, adapted, true, views) -> TruthGap:
    source, reached = adapted
    return GapReference.of(space, directions, source, true, views).reached_by(reached)


def direction(space, source, target):
    offsets = space.embed_images(target)[0] - space.embed_images(source)[0]
    return [torch.nn.functional.normalize(offsets.mean(dim=0), dim=0)]


def test_without_views_reaching_the_truth_leaves_no_gap(pictures):
    space, (source, target, _) = small_space(), pictures
    toward = direction(space, source, target)
    found = truth_gap(space, toward, (source, target), (source, target), views=0)
    assert found.gap == 0 and 0 < found.truth < 1


def test_the_gap_says_who_follows_the_text_further(pictures):
    """The text points at `other`: images that went there beat a truth that is elsewhere."""
    space, (source, truth, other) = small_space(), pictures
    toward = direction(space, source, other)
    fooled = truth_gap(space, toward, (source, other), (source, truth), views=0)
    safe = truth_gap(space, toward, (source, truth), (source, other), views=0)
    assert fooled.gap > 0.1 and safe.gap == pytest.approx(-fooled.gap)


def test_views_are_drawn_apart_for_the_two_sides_and_repeat(pictures):
    space, (source, target, _) = small_space(), pictures
    toward = direction(space, source, target)
    gaps = [truth_gap(space, toward, (source, target), (source, target), views=2) for _ in range(2)]
    assert gaps[0] == gaps[1]
    assert gaps[0].gap != 0 and abs(gaps[0].gap) < 0.2
