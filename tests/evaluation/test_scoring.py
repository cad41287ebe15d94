"""Protocols: what is measured, what is left out and why, how sure, and starting again."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_networks import small_encoder

from airlib.errors import AirlibError
from airlib.evaluation import measures
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.features import LABELS, Reference, see
from airlib.evaluation.frechet import Gaussian, frechet_distance
from airlib.evaluation.kernel_distance import kernel_distance
from airlib.evaluation.manifold import manifold
from airlib.evaluation.protocols import Scores, scores_of
from airlib.evaluation.text_alignment import clip_diversity
from airlib.results import Metric
from airlib.seeding import rng
from airlib.tinyworld.judge import ConvJudge, VitJudge

OUTPUTS = {"species": 9, "damage": 7}


def pictures(n: int, seed: int = 0, brightness: float = 0.0) -> torch.Tensor:
    """Smooth random pictures [n, 3, 16, 16]."""
    coarse = torch.randn(n, 3, 4, 4, generator=rng(seed, "pictures")) * 0.6 + brightness
    return torch.nn.functional.interpolate(coarse, size=16, mode="bicubic").clamp(-1, 1)


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judges = ConvJudge(OUTPUTS, width=8), VitJudge(OUTPUTS, width=16, depth=2, heads=2, size=16)
    return [judge.eval().requires_grad_(False) for judge in judges], small_encoder()


@pytest.fixture(scope="module")
def reference(networks) -> Reference:
    """60 references; the true targets of the first 20 latents are the first 20 of them."""
    images = pictures(60)
    return Reference.of(*networks, images.split(25), images[:20], ["a photo of a cat", "a cat"])


def by_name(scores: Scores) -> dict[str, Metric]:
    assert len({metric.name for metric in scores.metrics}) == len(scores.metrics)
    return {metric.name: metric for metric in scores.metrics}


def values(scores: Scores) -> dict[str, float]:
    return {name: metric.value for name, metric in by_name(scores).items()}


# --- what is measured


def test_a_set_scored_against_itself(reference):
    found = values(scores_of(pictures(60).split(16), reference, "full"))
    for name in ("frechet", "frechet_vit", "clip_gap"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    for name in ("paired_feature", "paired_l1", "paired_edge"):  # the truth itself
        assert found[name] == pytest.approx(0, abs=1e-6), name
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["kernel"] <= 1e-9  # unbiased: equal sets come out below 0
    assert found["clip_generated_diversity"] == pytest.approx(found["clip_reference_diversity"])


def test_full_has_the_values_of_quick_first(reference):
    other = pictures(60, 1, 0.3)
    quick = scores_of(other.split(50), reference, "quick", pair="a-b", method="air", seed=3)
    full = scores_of(other.split(50), reference, "full", pair="a-b", method="air", seed=3)
    assert quick.metrics == full.metrics[: len(quick.metrics)]
    assert not quick.omitted and not full.omitted
    assert set(LABELS) <= {metric.name for metric in full.metrics}
    for metric in full.metrics:
        assert (metric.pair, metric.method, metric.seed) == ("a-b", "air", 3)
        assert metric.interval[0] <= metric.value <= metric.interval[1], metric
        assert metric.interval[0] < metric.interval[1], metric
        assert str(metric.n) in metric.protocol.split(":")[0], metric


def test_values_are_those_of_the_metrics_on_plain_features(reference, networks):
    (judge, vit), encoder = networks
    x, y = pictures(40, 1, 0.3), pictures(60)
    found = values(scores_of(x.split(16), reference, "full"))
    close = {"rel": 1e-4, "abs": 1e-6}  # batches of another size round differently
    for suffix, network in (("", judge), ("_vit", vit)):
        a, b = network.features(x), network.features(y)
        assert found[f"frechet{suffix}"] == pytest.approx(frechet_distance(a, b), **close)
        assert found[f"kernel{suffix}"] == pytest.approx(kernel_distance(a, b), **close)
    overlap = manifold(judge.features(x), judge.features(y), k=3)
    assert (found["precision"], found["density"]) == (overlap.precision, overlap.density)
    assert (found["recall"], found["coverage"]) == (overlap.recall, overlap.coverage)
    distance = clip_distance(encoder.embed_images(x), encoder.embed_images(y))
    assert found["clip_distance"] == pytest.approx(distance.value, **close)
    parts = ("clip_gap", "clip_generated_diversity", "clip_reference_diversity")
    assert sum(found[part] for part in parts) == pytest.approx(distance.value, **close)


def test_order_and_batches_do_not_matter(reference):
    x = pictures(60, 1, 0.3)
    shuffled = x[torch.randperm(60, generator=rng(0, "order"))]
    first = values(scores_of(x.split(60), reference, "full"))
    for images, names in ((x.split(7), first), (shuffled.split(11), set(first) - PAIRED)):
        again = values(scores_of(images, reference, "full"))
        for name in names:
            assert again[name] == pytest.approx(first[name], rel=1e-3, abs=1e-6), name


# These depend on which images come first.
PAIRED = {"paired_feature", "paired_l1", "paired_edge", "diversity"}


def test_pixels_beyond_white_count_as_white(reference):
    x = pictures(30, 1) * 3
    found = values(scores_of([x], reference, "full"))
    assert found == pytest.approx(values(scores_of([x.clamp(-1, 1)], reference, "full")))


# --- how sure


def test_intervals_are_as_wide_as_independent_sets_differ():
    def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        normal = torch.randn(320, 6, generator=rng(seed, "features"), dtype=torch.float64)
        return normal[:120] + 0.5, normal[120:]

    def statistic(x, y) -> list[float]:
        return [kernel_distance(x, y), manifold(x, y).precision]

    replicates = torch.tensor([statistic(*pair(seed)) for seed in range(1, 80)])
    widths = torch.zeros(2)
    for seed in range(100, 104):  # a single interval varies by a fifth
        found = measures._by_halves(statistic, *pair(seed), f"test {seed}", least=-math.inf)
        widths += torch.tensor([(high - low) / 2 for _, (low, high) in found]) / 4
    assert widths.tolist() == pytest.approx((1.96 * replicates.std(0)).tolist(), rel=0.3)


def test_interval_of_a_mean_over_pairs():
    def embeddings(seed: int) -> torch.Tensor:
        rows = torch.randn(80, 5, generator=rng(seed, "embeddings"), dtype=torch.float64) + 0.5
        return rows / rows.norm(dim=1, keepdim=True)

    replicates = torch.tensor([clip_diversity(embeddings(seed)) for seed in range(200)])
    x = embeddings(1000)
    low, high = measures._interval_of_pairs(clip_diversity(x), 1 - x @ x.mean(0))
    assert (low + high) / 2 == pytest.approx(clip_diversity(x))
    assert (high - low) / 2 == pytest.approx(1.96 * replicates.std().item(), rel=0.3)


# --- bad input


@pytest.mark.parametrize(
    ("n", "missing"),
    [
        (2, {"overlap": "k = 3 neighbours need", "intra-LPIPS": "10 clusters of 2 images"}),
        (3, {"overlap": "the smaller has 3", "intra-LPIPS": "choose fewer clusters"}),
        (6, {"intra-LPIPS": "10 clusters of 6 images"}),
        (10, {"intra-LPIPS": "no cluster has a pair"}),
        (12, {}),
    ],
)
def test_what_a_small_set_cannot_tell_is_named(networks, n, missing):
    images = pictures(60)
    reference = Reference.of(*networks, [images], images[:n], ["a cat"])
    scores = scores_of([pictures(n, 1)], reference, "full")
    assert set(scores.omitted) == set(missing)
    for measure, words in missing.items():
        assert words in scores.omitted[measure]
    assert {"frechet", "kernel", "clip_distance", "text_quality"} <= set(by_name(scores))


def test_one_image_is_too_few_for_sweeps_and_said_to_be(networks):
    images = pictures(60)
    reference = Reference.of(*networks, [images], images[:1])
    with pytest.raises(AirlibError, match="at least 2"):
        scores_of([pictures(1, 1)], reference, "quick")
    scores = scores_of([pictures(1, 1)], reference, "full")
    assert "Frechet distance" in scores.omitted and "overlap" in scores.omitted


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_images_has_no_interval(networks, n):
    images = pictures(60)
    reference = Reference.of(*networks, [images], images[:n], ["a cat"])
    scores = scores_of([pictures(n, 1)], reference, "full")
    assert {"clip_distance", "clip_gap", "text_quality"} <= set(by_name(scores)) or n == 1
    assert [m.name for m in scores.metrics if m.interval is not None] == []
    if n == 1:  # nothing that is about two
        assert "CLIP distance split" in scores.omitted and "diversity" in scores.omitted
        assert not [name for name in by_name(scores) if name.endswith("diversity")]


def test_halves_that_agree_say_nothing_about_other_images(networks):
    """All images inside, in every half: no reason to claim that all others will be."""
    images = pictures(60)
    scores = scores_of([images], Reference.of(*networks, [images]), "full")
    assert by_name(scores)["precision"].value == 1
    assert by_name(scores)["precision"].interval != (1.0, 1.0)


def test_statistics_of_references_give_the_frechet_distance_alone(networks):
    judges, encoder = networks
    images, generated = pictures(60), pictures(40, 1)
    whole = Reference.of(judges, encoder, [images])
    width = whole.features[0].shape[1]
    features = whole.features[0].double()
    known = Gaussian(features.mean(0), features.T.cov())
    scores = scores_of([generated], Reference.of_statistics(judges, encoder, known), "full")
    expected = by_name(scores_of([generated], whole, "full"))
    found = by_name(scores)
    assert found["frechet"].value == pytest.approx(expected["frechet"].value, rel=1e-6)
    assert found["frechet"].protocol.endswith("40 generated images, statistics of the references")
    assert found["diversity"] == expected["diversity"]
    assert {"CLIP distance", "CLIP distance split", "kernel distance", "overlap"} <= set(
        scores.omitted
    )
    wrong = Gaussian(torch.zeros(width + 1), torch.eye(width + 1))
    with pytest.raises(AirlibError, match=f"statistics are of {width + 1} features"):
        Reference.of_statistics(judges, encoder, wrong)


def test_one_image_over_and_over_gives_numbers(reference):
    scores = scores_of([pictures(1, 1).expand(30, -1, -1, -1)], reference, "full")
    assert not scores.omitted
    found = values(scores)
    assert all(map(math.isfinite, found.values()))
    for name in ("diversity", "clip_diversity", "intra_lpips", "clip_generated_diversity"):
        assert found[name] == pytest.approx(0, abs=1e-6), name


def test_without_judges_truth_or_texts_fewer_measures_apply(networks):
    judges, encoder = networks
    scores = scores_of([pictures(20, 1)], Reference.of((), encoder, [pictures(30)]), "full")
    names = {"clip_distance", "clip_gap", "clip_generated_diversity", "clip_reference_diversity"}
    assert set(by_name(scores)) == names
    assert scores.omitted["overlap"] == "this profile has no judges"
    assert "no pair was named" in scores.omitted["text alignment"]
    scores = scores_of([pictures(20, 1)], Reference.of(judges, encoder, [pictures(30)]), "full")
    assert set(scores.omitted) == {"paired distances", "text alignment"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_pixels_are_named_before_anything_is_kept(reference, tmp_path, value):
    images = pictures(30, 1)
    images[17, 1, 3, 3] = value
    with pytest.raises(AirlibError, match="image 17 holds NaN or infinite pixels"):
        scores_of(images.split(10), reference, "full", tmp_path / "set")
    assert len(list((tmp_path / "set").iterdir())) == 1  # the batch before


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 16, 16), (0, 3, 16, 16)])
def test_other_shapes_are_refused(reference, shape):
    with pytest.raises(AirlibError, match=r"expected images \[B, 3, H, W\]"):
        scores_of([torch.zeros(shape)], reference)
    with pytest.raises(AirlibError, match="no images"):
        scores_of([], reference)
    with pytest.raises(AirlibError, match="unknown protocol 'fast'; choose from quick, text, "):
        scores_of([pictures(4)], reference, "fast")


# --- stopped and started again


class Stopped(Exception):
    pass


class Batches(Sequence):
    """Counts what it is asked for, and stops everything at batch `last`."""

    def __init__(self, images: torch.Tensor, last: int = 99):
        self.parts, self.last, self.asked = images.split(10), last, []

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.asked.append(index)
        if index == self.last:
            raise Stopped
        return self.parts[index]


def test_a_stopped_evaluation_ends_with_the_same_numbers(reference, tmp_path):
    images = pictures(60, 1, 0.3)
    whole = scores_of(images.split(10), reference, "full")
    for last in (0, 1, 4, 5):  # every attempt gets further
        with pytest.raises(Stopped):
            scores_of(Batches(images, last), reference, "full", tmp_path)
        assert len(list(tmp_path.iterdir())) == last
    assert scores_of(Batches(images), reference, "full", tmp_path).metrics == whole.metrics


def test_known_batches_are_not_asked_for_again(networks, tmp_path):
    judges, encoder = networks
    images = pictures(60, 1)
    first = see(Batches(images), judges, encoder, 15, tmp_path)
    batches = Batches(images)
    again = see(batches, judges, encoder, 15, tmp_path)
    assert batches.asked == [0, 1]  # the first 15 images are in these
    assert torch.equal(again.images, images[:15]) and torch.equal(again.clip, first.clip)
    assert all(map(torch.equal, again.features, first.features))
    (tmp_path / "00004.safetensors").unlink()
    batches = Batches(images)
    assert torch.equal(see(batches, judges, encoder, 0, tmp_path).clip, first.clip)
    assert batches.asked == [4]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_features_are_named(networks, tmp_path, damage):
    judges, encoder = networks
    see([pictures(5)], judges, encoder, 0, tmp_path)
    path: Path = tmp_path / "00000.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        see([pictures(5)], judges[:1], encoder, 0, tmp_path / "other")
        path.write_bytes((tmp_path / "other" / "00000.safetensors").read_bytes())
    with pytest.raises(AirlibError, match="00000.safetensors are damaged; delete the file"):
        see([pictures(5)], judges, encoder, 0, tmp_path)
