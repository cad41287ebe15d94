"""Inversion and style mixing: the prior is a standard normal, and what was drawn is found again."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator
from torch import Tensor

from airlib.editing.curvature import Curvature
from airlib.editing.inversion import Inversion, InversionConfig, invert
from airlib.editing.p_norm import PNorm
from airlib.editing.style_mixing import content_layers, mix_styles
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.seeding import rng

GENERATOR = small_generator()
PERCEPTUAL = PerceptualEmbedding(lambda images: [F.avg_pool2d(images, size) for size in (2, 4)])
SEARCH = InversionConfig(steps=150, learning_rate=0.05)


@pytest.fixture(scope="module")
def prior() -> PNorm:
    return PNorm.of(GENERATOR, 20_000, rng(0, "prior"))


def drawn(n: int) -> Tensor:
    with torch.no_grad():
        return GENERATOR(GENERATOR.sample_latents(n, rng(1, "drawn"))).clamp(-1, 1)


# --- P-norm space --------------------------------------------------------------------------------


def test_mapped_latents_are_uncorrelated_with_unit_variance_around_zero(prior):
    v = prior(GENERATOR.sample_latents(20_000, rng(2, "fresh")))[:, 3].double()
    assert v.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(v.T.cov(), torch.eye(16).double(), atol=0.1, rtol=0)


def test_the_length_is_the_mahalanobis_distance_before_the_activation(prior):
    """Against NumPy's covariance of the numbers that enter the mapping's last leaky ReLU."""
    mapping, last = GENERATOR.mapping, []
    hook = mapping.fc1.register_forward_hook(lambda *arguments: last.append(arguments[2]))
    w = GENERATOR.map(GENERATOR.sample_z(20_000, rng(3, "z")))[:, 0]
    hook.remove()
    x = last[0].double().numpy()
    assert np.allclose(F.leaky_relu(w, 5.0), 2**0.5 * x, atol=1e-4)
    off = x[:50] - x.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", off, np.linalg.inv(np.cov(x.T)), off)
    found = prior(w[:50]).square().sum(dim=1)
    assert np.allclose(found, expected, rtol=0.1)


def test_an_axis_that_the_mapping_does_not_use_costs_no_more_than_its_floor():
    generator = small_generator()
    generator.mapping.fc1.weight[0] = 0  # the first entry of w is the same for everybody
    step = torch.zeros(1, generator.num_ws, 16)
    step[:, :, 0] = 0.01
    costs = []
    for floor in (0.0, 0.1):
        prior = PNorm.of(generator, 5000, rng(0, "prior"), floor)
        least = max(floor, 1e-7) * prior.deviations.max()
        assert prior.deviations.min() >= least * 0.999
        mean = generator.mapping.w_avg.expand_as(step)
        costs.append((prior(mean + step) - prior(mean)).norm(dim=2).max().item())
        slope = 5.0 if generator.mapping.w_avg[0] < 0 else 1.0
        assert costs[-1] == pytest.approx(slope * 0.01 / least.item(), rel=0.01)
    assert costs[0] > 1000 * costs[1]


def test_too_few_latents_for_the_axes_are_refused():
    with pytest.raises(AirlibError, match="16 latents do not show 16 axes"):
        PNorm.of(GENERATOR, 16, rng(0, "prior"))


# --- inversion -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inverted(prior) -> Inversion:
    return invert(GENERATOR, drawn(3), PERCEPTUAL, prior, SEARCH)


def test_a_drawn_image_is_found_again(inverted, prior):
    images = drawn(3)
    with torch.no_grad():
        mean = GENERATOR(GENERATOR.mapping.w_avg.expand(3, GENERATOR.num_ws, -1))
    start = (mean - images).square().mean(dim=(1, 2, 3))
    assert (inverted.errors["mse"] < 0.1 * start).all()
    assert torch.equal(GENERATOR(inverted.latents), inverted.reconstruction)
    found = (inverted.reconstruction - images).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found, inverted.errors["mse"])
    distance = PERCEPTUAL.paired_distance(inverted.reconstruction, images)
    torch.testing.assert_close(distance, inverted.errors["perceptual"])


def test_every_entry_of_w_plus_is_free(inverted):
    assert inverted.latents.shape == (3, GENERATOR.num_ws, 16)
    assert inverted.latents.std(dim=1).max() > 0.01
    assert not inverted.latents.requires_grad
    assert not any(p.requires_grad for p in GENERATOR.parameters())


def test_images_are_inverted_without_regard_to_each_other(prior):
    few = InversionConfig(steps=10, learning_rate=0.05)
    together = invert(GENERATOR, drawn(10), PERCEPTUAL, prior, few).latents
    alone = invert(GENERATOR, drawn(10)[9:], PERCEPTUAL, prior, few).latents
    torch.testing.assert_close(together[9:], alone, atol=1e-3, rtol=1e-3)


def test_the_search_starts_at_the_mean_latent(prior):
    still = InversionConfig(steps=1, learning_rate=1e-9)
    found = invert(GENERATOR, drawn(2), PERCEPTUAL, prior, still)
    mean = GENERATOR.mapping.w_avg.expand_as(found.latents)
    torch.testing.assert_close(found.latents, mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.errors["prior"], prior(mean).square().mean(dim=(1, 2)))


def test_a_search_that_starts_at_the_answer_is_ahead_of_one_from_the_mean(prior):
    """The prior pulls a little, so it does not stay; a wrong start is refused."""
    known, few = GENERATOR.sample_latents(3, rng(1, "drawn")), InversionConfig(10, 0.01)
    images = GENERATOR(known).clamp(-1, 1)
    ahead = invert(GENERATOR, images, PERCEPTUAL, prior, few, known)
    behind = invert(GENERATOR, images, PERCEPTUAL, prior, few)
    assert (ahead.errors["l1"] < 0.2 * behind.errors["l1"]).all()
    with pytest.raises(AirlibError, match=r"of \[3, 6, 16\] latents cannot start at \[2, 6, 16\]"):
        invert(GENERATOR, images, PERCEPTUAL, prior, few, known[:2])


@pytest.mark.slow  # searches latents
def test_a_heavier_prior_keeps_latents_nearer_and_images_further(inverted, prior):
    heavy = InversionConfig(SEARCH.steps, SEARCH.learning_rate, prior_weight=10.0)
    found = invert(GENERATOR, drawn(3), PERCEPTUAL, prior, heavy)
    assert (found.errors["prior"] < inverted.errors["prior"]).all()
    assert (found.errors["mse"] > inverted.errors["mse"]).all()


NOT_FINITE = drawn(1).index_fill(3, torch.tensor([4]), float("nan"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (drawn(1)[0], r"expected pictures \[n, 3, 16, 16\], got \[3, 16, 16\]"),
        (drawn(1)[:, :1], r"got \[1, 1, 16, 16\]"),
        (drawn(1)[:, :, :8], r"got \[1, 3, 8, 16\]"),
        (torch.zeros(1, 3, 8, 8), "resize them to what the generator draws"),
        (torch.zeros(0, 3, 16, 16), r"got \[0, 3, 16, 16\]"),
        (NOT_FINITE, "NaN or infinite"),
        (drawn(1) * 127.5 + 127.5, "and not from -1 to 1; scale them"),
    ],
)
def test_what_cannot_be_inverted_is_refused(images, words, prior):
    with pytest.raises(AirlibError, match=words):
        invert(GENERATOR, images, PERCEPTUAL, prior, SEARCH)


def test_a_search_that_diverges_says_so(prior):
    with pytest.raises(AirlibError, match="lower its learning rate"):
        invert(GENERATOR, drawn(1), PERCEPTUAL, prior, InversionConfig(9, learning_rate=1e30))


@pytest.mark.parametrize("numbers", [(0, 0.01, 0.01), (1, 0.0, 0.01), (1, 0.01, -1.0)])
def test_numbers_without_meaning_are_refused(numbers):
    with pytest.raises(AirlibError, match="steps must be at least 1"):
        InversionConfig(*numbers)


# --- curvature -----------------------------------------------------------------------------------


def of_curvature(prior: PNorm, n: int, seed: int = 0, weight: float = SEARCH.prior_weight):
    return Curvature.of(GENERATOR, PERCEPTUAL, prior, weight, n, rng(seed, "curvature"))


@pytest.fixture(scope="module")
def curvature(prior) -> Curvature:
    return of_curvature(prior, 200)


def residuals(prior: PNorm, latents: Tensor, weight: float) -> Tensor:
    """What the loss squares and sums, of one latent [num_ws, w_dim]."""
    drawn = GENERATOR(latents[None])
    parts = (
        drawn / drawn.numel() ** 0.5,
        PERCEPTUAL.embed(drawn),
        prior(latents) * (weight / latents.numel()) ** 0.5,
    )
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.slow  # searches latents
def test_it_is_the_mean_second_derivative_of_the_loss(prior):
    """Against J^T J of all that the loss squares, by forward differentiation and without signs."""
    weight, some = 3.0, GENERATOR.sample_latents(40, rng(0, "curvature"))
    exact = 0.0
    for latents in some:
        jacobian = torch.func.jacfwd(lambda w: residuals(prior, w, weight))(latents).flatten(1)
        exact = exact + jacobian.T @ jacobian / len(some)
    factor = of_curvature(prior, 4000, weight=weight).factor
    found = factor @ factor.T
    assert torch.equal(factor, factor.tril())
    drawn = found - exact - torch.eye(len(exact)) * (found - exact).diagonal().mean()
    assert drawn.norm() < 0.15 * exact.norm()  # other sitters, and the noise of the signs


def test_coordinates_and_latents_are_each_other_s_inverse(curvature):
    latents = GENERATOR.sample_latents(5, rng(8, "some"))
    there = curvature.coordinates(latents)
    assert there.shape == latents.shape and not torch.allclose(there, latents, atol=0.1)
    torch.testing.assert_close(curvature.latents(there), latents, atol=1e-4, rtol=1e-4)


def test_the_same_images_are_drawn_for_the_same_seed(prior, curvature):
    assert torch.equal(curvature.factor, of_curvature(prior, 200).factor)
    assert not torch.equal(curvature.factor, of_curvature(prior, 200, seed=1).factor)
    with pytest.raises(AirlibError, match="take at least 1"):
        of_curvature(prior, 0)


def test_axes_without_a_floor_do_not_break_it():
    """The first entry of w is the same for everybody, and a step along it costs 1e14 times more."""
    generator = small_generator()
    generator.mapping.fc1.weight[0] = 0
    prior = PNorm.of(generator, 5000, rng(0, "prior"))
    found = Curvature.of(generator, PERCEPTUAL, prior, 0.01, 8, rng(0, "curvature"))
    assert found.factor.isfinite().all()


# --- style mixing --------------------------------------------------------------------------------


def test_the_split_of_mind_the_gap_at_1024_pixels_and_its_share_elsewhere():
    assert [content_layers(n) for n in (18, 16, 14, 10)] == [7, 6, 5, 4]


def test_the_extremes_of_the_swap_are_the_plain_images():
    content = GENERATOR.sample_latents(4, rng(4, "content"))
    style = GENERATOR.sample_latents(1, rng(5, "style"))
    assert torch.equal(mix_styles(content, style, GENERATOR.num_ws), content)
    assert torch.equal(mix_styles(content, style, 0), style.expand_as(content))
    assert torch.equal(mix_styles(content, content), content)


def test_the_coarse_entries_are_the_content_s_and_the_fine_ones_the_style_s():
    content = torch.zeros(2, 18, 3)
    mixed = mix_styles(content, torch.ones(1, 18, 3))
    assert mixed[0, :, 0].tolist() == [0] * 7 + [1] * 11 and torch.equal(mixed[0], mixed[1])
    own = mix_styles(content, torch.stack([torch.ones(18, 3), 2 * torch.ones(18, 3)]))
    assert own[:, -1, 0].tolist() == [1, 2]
    assert not content.any()


@pytest.mark.parametrize(
    ("shape", "layers", "words"),
    [
        ((1, 6, 16), 7, "7 of 6 layers"),
        ((1, 6, 16), -1, "-1 of 6 layers"),
        ((1, 5, 16), 3, "cannot mix"),
        ((3, 6, 16), 3, "cannot mix"),
        ((6, 16), 3, "cannot mix"),
    ],
)
def test_latents_that_do_not_fit_are_refused(shape, layers, words):
    with pytest.raises(AirlibError, match=words):
        mix_styles(torch.zeros(2, 6, 16), torch.zeros(shape), layers)
