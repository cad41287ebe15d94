"""LPIPS of all pairs against the package `lpips`, pair by pair, and its memory in blocks."""

import math

import lpips
import pytest
import torch
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.evaluation.networks.lpips import Lpips, lpips_matrix, squared_distances
from airlib.evaluation.perceptual import PerceptualEmbedding, mean_pairwise_distance
from airlib.seeding import rng

pytestmark = pytest.mark.filterwarnings("ignore:.*pretrained:UserWarning", "ignore:.*weight enum")


def official(net: str) -> lpips.LPIPS:
    """The package's module with its learnt weights on a random trunk."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()


def trunk_of(module: lpips.LPIPS) -> dict[str, Tensor]:
    """Its trunk under the names of torchvision: slice1.0.weight is features.0.weight."""
    return {
        "features." + name.split(".", 1)[1]: tensor
        for name, tensor in module.net.state_dict().items()
    }


def pictures(n: int, size: int = 32) -> Tensor:
    """Smooth pictures [n, 3, size, size] in [-1, 1], in pairs that differ little."""
    coarse = torch.randn(n, 3, 8, 8, generator=rng(0, "pictures"))
    coarse[1::2] = coarse[: n - n % 2 : 2] + 0.1 * coarse[1::2]
    return nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)


def loop(module: lpips.LPIPS, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([module(images, image[None]).flatten() for image in images])


@pytest.fixture(scope="module", params=["alex", "vgg"])
def pair(request) -> tuple[lpips.LPIPS, Lpips]:
    module = official(request.param)
    return module, Lpips(request.param, trunk_of(module))


def test_all_pairs_equal_the_package_pair_by_pair(pair):
    module, ours = pair
    images = pictures(6)
    found, expected = lpips_matrix(images, ours.embedding()), loop(module, images)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-6
    assert (found - expected).abs().max() < 1e-4 * expected[0, 1]  # pictures that differ little
    assert torch.equal(found, found.T) and (found.diagonal() == 0).all()


def test_one_pair_equals_the_package(pair):
    module, ours = pair
    x, y = pictures(4)[:2], pictures(4)[2:]
    with torch.no_grad():
        expected = module(x, y).flatten()
    found = ours.embedding().paired_distance(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def one_map(images: Tensor) -> list[Tensor]:
    return [images, images[..., ::2, ::2].square()]


def counted(maps) -> tuple[PerceptualEmbedding, list[int]]:
    """An embedding, and the list in which it notes the size of every batch it embeds."""
    sizes: list[int] = []

    def noting(images: Tensor) -> list[Tensor]:
        sizes.append(len(images))
        return maps(images)

    return PerceptualEmbedding(noting), sizes


def test_little_memory_changes_nothing_but_the_number_of_passes():
    images = pictures(40, size=16)
    width = 3 * 16 * 16 + 3 * 8 * 8
    plenty, sizes = counted(one_map)
    expected = lpips_matrix(images, plenty)
    assert sum(sizes) == 40 + 1  # every image once, and one image as the origin
    for fit in (17, 20, 33, 60, 200):
        tight, sizes = counted(one_map)
        found = lpips_matrix(images, tight, memory=4 * width * fit)
        assert (found - expected).abs().max() < 1e-6 * expected.max()
        assert max(sizes) <= fit / 16
    assert sum(sizes) == 40 + 1
    tiny = lpips_matrix(images.split(7), plenty, memory=4 * width * 17)
    assert (tiny - expected).abs().max() < 1e-6 * expected.max()
    with pytest.raises(AirlibError, match=f"at least {4 * width * 17:,}"):
        lpips_matrix(images, plenty, memory=4 * width * 17 - 1)


def test_distances_of_the_matrix_have_the_mean_of_the_closed_form():
    images, embedding = pictures(30, size=16), PerceptualEmbedding(one_map)
    mean = lpips_matrix(images, embedding).sum() / (30 * 29)
    assert mean.item() == pytest.approx(mean_pairwise_distance(embedding(images)), rel=1e-6)


def test_long_embeddings_are_summed_without_losing_digits():
    """A float32 product over the whole length is off by more than the tolerance here."""
    x = torch.rand(4, 4_000_000, generator=rng(0, "long"))
    exact = torch.cdist(x.double(), x.double()).square()
    found = squared_distances(x, x)
    assert ((found - exact).abs() / x.square().sum(1).mean()).max() < 1e-7
    naive = x.square().sum(1)[:, None] + x.square().sum(1) - 2 * x @ x.T
    assert ((naive - exact).abs() / x.square().sum(1).mean()).max() > 1e-7


def test_weights_of_another_network_are_refused():
    alex = trunk_of(official("alex"))
    with pytest.raises(AirlibError, match="choose from alex, vgg"):
        Lpips("resnet", alex)
    with pytest.raises(AirlibError, match="not weights of vgg"):
        Lpips("vgg", alex)
    with pytest.raises(AirlibError, match="size mismatch"):
        Lpips("alex", alex | {"features.0.weight": torch.zeros(64, 3, 5, 5)})


def test_without_its_asset_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path))
    with pytest.raises(AirlibError, match="airlib fetch --only vgg16"):
        Lpips("vgg")


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_what_are_no_images_is_refused(images):
    with pytest.raises(AirlibError, match="expected images"):
        lpips_matrix(images, PerceptualEmbedding(one_map))


def test_a_picture_with_nan_is_named():
    images = pictures(5, size=16)
    images[3, 0, 2, 2] = math.nan
    with pytest.raises(AirlibError, match="image 3 is the first"):
        lpips_matrix(images, PerceptualEmbedding(one_map))


def test_only_scoring_clips(pair):
    """A loss pulls back a pixel that has left the range; a score sees what is displayed."""
    embedding = pair[1].embedding()
    bright = (pictures(2) + 0.8).requires_grad_()
    beyond = bright.detach() > 1
    assert 0.1 < beyond.float().mean() < 0.9
    assert torch.equal(embedding(bright), embedding(bright.detach().clamp(-1, 1)))
    target = embedding(pictures(2))
    (embedding.embed(bright) - target).square().sum().backward()
    assert (bright.grad[beyond] != 0).float().mean() > 0.99
