"""Metrics against hand-worked numbers, brute force and invariances; intervals against the truth."""

import itertools
import math

import pytest
import torch

from airlib.errors import AirlibError
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.frechet import (
    _trace_from_covariances,
    _trace_from_samples,
    frechet_distance,
)
from airlib.evaluation.intervals import (
    frechet_bootstrap,
    mean_bootstrap,
    mean_interval,
    paired_difference,
    student_quantile,
)
from airlib.evaluation.perceptual import (
    PerceptualEmbedding,
    mean_pairwise_distance,
    paired_edge_l1,
    paired_l1,
)
from airlib.files import save_tensors
from airlib.seeding import rng
from airlib.tinyworld.artefacts import KINDS, damage, damage_randomly
from airlib.tinyworld.judge import ConvJudge, load_judge


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed, "test"), dtype=dtype)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True)


def random_rotation(n: int) -> torch.Tensor:
    return torch.linalg.qr(normal(n, n, seed=9)).Q


def exact_gaussian(mean: list[float], deviations: list[float]) -> torch.Tensor:
    """2F rows whose sample mean and (diagonal, unbiased) covariance are exactly those given."""
    size = len(mean)
    axes = torch.diag(torch.tensor(deviations, dtype=torch.float64))
    scale = math.sqrt((2 * size - 1) / 2)
    return torch.cat([axes, -axes]) * scale + torch.tensor(mean, dtype=torch.float64)


# --- Frechet distance


def test_frechet_distance_of_two_known_gaussians():
    x = exact_gaussian([0, 0, 0], [1, 2, 3])
    y = exact_gaussian([1, 0, 2], [2, 2, 5])
    # |m|^2 = 1 + 4; per axis (s_x - s_y)^2 = 1, 0, 4
    assert frechet_distance(x, y) == pytest.approx(5 + 5, abs=1e-12)


def test_frechet_distance_is_zero_only_for_equal_sets_and_symmetric():
    for rows in (20, 200):  # below and above 64 features
        x, y = normal(rows, 64), normal(rows + 7, 64, seed=1) + 0.1
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
        assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)
        assert frechet_distance(x, y) > 0.1


@pytest.mark.parametrize("rows", [20, 200])
def test_frechet_distance_ignores_rotation_and_shift_and_scales_quadratically(rows):
    x, y, turn = normal(rows, 48), normal(rows, 48, seed=1) * 1.5, random_rotation(48)
    distance = frechet_distance(x, y)
    assert frechet_distance(x @ turn + 3, y @ turn + 3) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(2 * x, 2 * y) == pytest.approx(4 * distance, rel=1e-9)


def test_both_routes_to_the_trace_agree_also_with_fewer_samples_than_features():
    for rows_a, rows_b in ((300, 200), (300, 20), (10, 12)):
        a, b = normal(rows_a, 32), normal(rows_b, 32, seed=1) + normal(1, 32, seed=2)
        by_samples = _trace_from_samples(a, b).item()
        by_covariances = _trace_from_covariances(a.T @ a, b.T @ b).item()
        assert by_covariances == pytest.approx(by_samples, rel=1e-6)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = normal(300, 24) @ normal(24, 24, seed=3), normal(400, 24, seed=1) + 0.5
    root = linalg.sqrtm(x.T.cov().numpy() @ y.T.cov().numpy()).real
    gap = float((x.mean(0) - y.mean(0)).square().sum())
    expected = gap + float(x.T.cov().trace() + y.T.cov().trace()) - 2 * root.trace()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "x", [torch.zeros(5), torch.zeros(1, 3), torch.full((4, 3), math.nan), torch.zeros(4, 2)]
)
def test_frechet_distance_refuses_what_it_cannot_measure(x):
    with pytest.raises(AirlibError):
        frechet_distance(x, torch.zeros(4, 3))


# --- perceptual distance


def two_maps(images: torch.Tensor) -> list[torch.Tensor]:
    """Stands in for a network: the image itself, and its halves as more channels."""
    return [images, torch.cat([images[..., ::2, ::2], images[..., 1::2, 1::2].square()], 1)]


def lpips_by_definition(x, y, weights) -> float:
    total = 0.0
    for fx, fy, weight in zip(two_maps(x[None]), two_maps(y[None]), weights, strict=True):
        fx = fx / (fx.square().sum(1, keepdim=True).sqrt() + 1e-10)
        fy = fy / (fy.square().sum(1, keepdim=True).sqrt() + 1e-10)
        difference = (fx - fy).square() * torch.as_tensor(weight).view(1, -1, 1, 1)
        total += difference.sum(1).mean().item()
    return total


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.3, torch.arange(6) / 3.0]])
def test_perceptual_distance_is_lpips_by_its_definition(weights):
    x, y = (normal(5, 3, 8, 8, seed=i, dtype=torch.float32).clamp(-1, 1) for i in (0, 1))
    found = PerceptualEmbedding(two_maps, weights).paired_distance(x, y)
    expected = [lpips_by_definition(*pair, weights) for pair in zip(x, y, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_perceptual_distance_of_one_pixel_by_hand():
    x = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    y = torch.tensor([0.0, 0.5, 0.0]).view(1, 3, 1, 1)
    embedding = PerceptualEmbedding(lambda images: [images])
    assert embedding.paired_distance(x, y).item() == pytest.approx(2.0)  # orthogonal unit vectors
    assert embedding.paired_distance(x, 7 * x).item() == pytest.approx(0.0)  # length is ignored


def test_mean_pairwise_distance_equals_the_loop_over_all_pairs():
    phi = normal(17, 40) + 5  # far from the origin, where the closed form could cancel
    loop = [(a - b).square().sum().item() for a, b in itertools.permutations(phi, 2)]
    expected = sum(loop) / len(loop)
    assert mean_pairwise_distance(phi) == pytest.approx(expected, rel=1e-12)
    assert mean_pairwise_distance(phi.split(5)) == pytest.approx(expected, rel=1e-12)
    assert mean_pairwise_distance(phi[:1].expand(9, -1)) == pytest.approx(0, abs=1e-10)


def test_paired_l1_is_a_mean_of_visible_differences():
    x, y = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    y[1] = 3.0  # a picture cannot be brighter than 1
    assert paired_l1(x, y).tolist() == pytest.approx([0.5, 1.0])


def test_paired_edge_l1_forgives_a_shift_of_colour_and_counts_a_missing_line():
    line = torch.full((1, 3, 4, 4), -0.5)
    line[..., 1] = 0.5  # a vertical line, one pixel wide
    empty = torch.full((1, 3, 4, 4), -0.5)
    assert paired_edge_l1(line, line + 0.25).item() == 0
    # Across the line 2 of 3 horizontal differences are off by 1, no vertical one: (2/3 + 0) / 2.
    assert paired_edge_l1(line, empty).item() == pytest.approx(1 / 3)


def test_perceptual_distance_refuses_mismatches():
    embedding = PerceptualEmbedding(two_maps)
    with pytest.raises(AirlibError, match="match"):
        embedding.paired_distance(torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 8, 8))
    with pytest.raises(AirlibError, match="negative"):
        PerceptualEmbedding(two_maps, [1.0, -1.0])
    with pytest.raises(AirlibError, match="2 feature maps"):
        PerceptualEmbedding(two_maps, [1.0])(torch.zeros(1, 3, 8, 8))
    with pytest.raises(AirlibError, match="at least 2"):
        mean_pairwise_distance(torch.zeros(1, 4))


# --- CLIP distance


def test_clip_distance_is_the_mean_over_all_pairs_and_its_parts_add_up():
    x, y = unit(normal(30, 16) + 1), unit(normal(50, 16, seed=1) - 0.2)
    found = clip_distance(x, y)
    loop = torch.tensor([[1 - float(a @ b) for b in y] for a in x], dtype=torch.float64)
    assert found.value == pytest.approx(loop.mean().item(), abs=1e-12)
    assert found.per_image.tolist() == pytest.approx(loop.mean(1).tolist(), abs=1e-12)
    parts = found.gap + found.generated_diversity + found.reference_diversity
    assert parts == pytest.approx(found.value, abs=1e-12)
    pairwise = mean_pairwise_distance(x) * (len(x) - 1) / len(x) / 4  # i = j pairs included
    assert found.generated_diversity == pytest.approx(pairwise, abs=1e-12)


def test_clip_distance_by_hand_and_the_reward_of_collapse():
    references = torch.eye(2)
    diverse = clip_distance(torch.eye(2), references)
    assert (diverse.value, diverse.gap) == pytest.approx((0.5, 0.0))
    assert diverse.generated_diversity == diverse.reference_diversity == pytest.approx(0.25)
    collapsed = clip_distance(torch.full((5, 2), math.sqrt(0.5)), references)
    assert collapsed.value < diverse.value and collapsed.generated_diversity == pytest.approx(0)


def test_clip_distance_needs_unit_embeddings():
    with pytest.raises(AirlibError, match="unit length"):
        clip_distance(torch.ones(3, 4), unit(torch.ones(3, 4)))
    with pytest.raises(AirlibError, match="width"):
        clip_distance(torch.eye(3), torch.eye(4))


# --- intervals


def test_student_quantiles_match_the_tables():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}
    for degrees, quantile in table.items():
        assert student_quantile(degrees) == pytest.approx(quantile, abs=6e-4)


def test_interval_over_seeds_by_hand():
    low, high = mean_interval([1.0, 2.0, 3.0])  # mean 2, sd 1, t = 4.303
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert mean_interval([1.0]) is None


def test_bootstrap_interval_of_a_mean_has_the_right_width_and_is_seeded():
    values = normal(400)
    low, high = mean_bootstrap(values, rng(0, "bootstrap"))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert mean_bootstrap(values, rng(0, "bootstrap")) == (low, high)
    assert mean_bootstrap(values, rng(1, "bootstrap")) != (low, high)


def test_frechet_interval_is_centred_and_as_wide_as_independent_replicates():
    def pair(seed):
        return normal(200, 8, seed=2 * seed), normal(200, 8, seed=2 * seed + 1) * 1.3

    replicates = torch.tensor([frechet_distance(*pair(seed)) for seed in range(1, 60)])
    value, (low, high) = frechet_bootstrap(*pair(0), rng(0, "b"), resamples=200)
    assert value == frechet_distance(*pair(0))
    assert (low + high) / 2 == pytest.approx(value, rel=1e-9)
    assert high - low == pytest.approx(2 * 1.96 * replicates.std().item(), rel=0.35)


def keyed(values: list[float]) -> dict:
    return {("pair", seed): value for seed, value in enumerate(values)}


def test_sign_flip_test_is_exact_for_few_runs():
    zero = keyed([0.0] * 5)
    found = paired_difference(keyed([1.0, 2.0, 3.0, 4.0, 5.0]), zero, rng(0))
    assert found.p_value == pytest.approx(2 / 2**5)  # only all plus and all minus are as far
    assert (found.mean, found.n) == (3.0, 5)
    mixed = paired_difference(keyed([1.0, -1.0, 1.0, -1.0, 0.0]), zero, rng(0))
    assert mixed.p_value == 1.0
    swapped = paired_difference(zero, keyed([1.0, 2.0, 3.0, 4.0, 5.0]), rng(0))
    assert (swapped.mean, swapped.p_value) == (-3.0, found.p_value)


def test_sampled_sign_flips_agree_with_the_exact_test():
    differences = (normal(16) + 0.5).tolist()
    exact = paired_difference(keyed(differences), keyed([0.0] * 16), rng(0))
    padded = differences + [0.0] * 4  # zeros change no mean, but push n over the exact limit
    sampled = paired_difference(keyed(padded), keyed([0.0] * 20), rng(0))
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.006)
    assert sampled.p_value > 0


def test_runs_without_partner_are_refused():
    with pytest.raises(AirlibError, match="without a partner"):
        paired_difference({("a", 0): 1.0}, {("a", 1): 1.0}, rng(0))
    with pytest.raises(AirlibError, match="NaN"):
        mean_interval([1.0, math.nan])


# --- the judge and its artefacts


@pytest.fixture(scope="module")
def judge() -> ConvJudge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConvJudge({"species": 9, "damage": 7}, width=8).eval()


def test_judge_maps_and_features(judge):
    images = normal(3, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        maps, features = judge.maps(images), judge.features(images)
        assert [tuple(m.shape) for m in maps] == [
            (3, 8, 32, 32),
            (3, 16, 16, 16),
            (3, 32, 8, 8),
            (3, 32, 8, 8),
        ]
        torch.testing.assert_close(features, maps[-1].mean((2, 3)))
        torch.testing.assert_close(judge.features(images[1:2]), features[1:2])
        torch.testing.assert_close(judge.features(images.clamp(-1, 1)), features)
        assert {k: tuple(v.shape) for k, v in judge(images).items()} == {
            "species": (3, 9),
            "damage": (3, 7),
        }


def test_judge_weights_come_back_from_half_precision(judge, tmp_path):
    half = {k: v.half() for k, v in judge.state_dict().items() if "num_batches" not in k}
    path = save_tensors(tmp_path / "judge.safetensors", half, judge.config)
    loaded = load_judge(path)
    images = normal(2, 3, 64, 64, dtype=torch.float32)
    torch.testing.assert_close(
        loaded.features(images), judge.features(images), rtol=2e-2, atol=2e-3
    )
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    half.pop("stages.0.0.0.weight")
    for bad in (half, {"other": torch.zeros(1)}):
        save_tensors(path, bad, judge.config)
        with pytest.raises(AirlibError, match="judge"):
            load_judge(path)
    with pytest.raises(AirlibError, match="no such file"):
        load_judge(tmp_path / "missing.safetensors")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth random pictures [12, 3, 64, 64] within [-1, 1]."""
    coarse = normal(12, 3, 6, 6, dtype=torch.float32)
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1) * 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_damage_grows_with_severity_and_is_seeded(kind, pictures):
    steps = [damage(pictures, kind, severity, rng(0, kind)) for severity in (0.1, 0.4, 0.9)]
    changes = [paired_l1(pictures, damaged).mean() for damaged in steps]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert all(s.shape == pictures.shape and s.abs().max() <= 1 for s in steps)
    assert torch.equal(steps[1], damage(pictures, kind, 0.4, rng(0, kind)))


def test_random_damage_tells_what_it_did(pictures):
    images = pictures.repeat(40, 1, 1, 1)
    damaged, severity = damage_randomly(images, rng(0, "damage"))
    untouched = severity.sum(1) == 0
    changed = paired_l1(images, damaged) > 0
    assert torch.equal(damaged[untouched], images[untouched])
    assert changed[~untouched].float().mean() > 0.97
    assert 0.25 < untouched.float().mean() < 0.45
    assert ((severity > 0).sum(1) <= 2).all() and severity.max() <= 1
