"""Inception against torch-fidelity's extractor on the same weights, and the judge made of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import small_encoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError
from airlib.evaluation.features import LABELS, Reference, see
from airlib.evaluation.frechet import frechet_distance
from airlib.evaluation.networks import inception, published_judge
from airlib.evaluation.networks.inception import Inception
from airlib.evaluation.networks.loading import random_state
from airlib.evaluation.networks.lpips import Lpips
from airlib.evaluation.networks.published_judge import PublishedJudge
from airlib.evaluation.perceptual import scaled_down
from airlib.evaluation.protocols import Scores, scores_of
from airlib.seeding import rng

pytestmark = pytest.mark.slow  # opens networks of full size

PAIRED = {"paired_feature", "paired_l1", "paired_edge"}  # need true targets


def pictures(n: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random pictures [n, 3, size, size] of 8 bits per channel, as numbers in [-1, 1]."""
    coarse = torch.randn(n, 3, 6, 6, generator=rng(seed, "pictures"))
    smooth = F.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)
    return ((smooth + 1) * 127.5).round() / 127.5 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as published: random weights, and batch norms that do something."""
    stream = rng(0, "weights")
    state = random_state(inception._layers())
    for name, tensor in state.items():
        if ".bn." in name and tensor.ndim:
            state[name] = tensor + 0.2 * torch.rand(tensor.shape, generator=stream)
    state["fc.weight"] = torch.randn(1008, 2048, generator=stream) / 100
    state["fc.bias"] = torch.zeros(1008)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def official(weights) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("official", ["2048"], feature_extractor_weights_path=weights)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [80, 320])
def test_features_equal_those_of_torch_fidelity(official, weights, size):
    images = pictures(1, size)
    ours = Inception(read_torch(weights), "torch-fidelity")
    (expected,) = official(((images + 1) * 127.5).round().to(torch.uint8))
    close(ours(images), expected)


@pytest.mark.parametrize("size", [80, 320])
def test_features_of_the_other_resizing_are_those_of_the_same_network(official, weights, size):
    """pytorch-fid's steps by hand: bilinear to 299, [0, 1] to [-1, 1], the layers."""
    images = pictures(1, size)
    layers = nn.Sequential(*[m for name, m in official.named_children() if name != "fc"])
    small = F.interpolate((images + 1) / 2, size=(299, 299), mode="bilinear", align_corners=False)
    expected = layers(2 * small - 1).flatten(1)
    found = Inception(read_torch(weights))(images)
    close(found, expected)
    other = Inception(read_torch(weights), "torch-fidelity")(images)
    assert (other - found).abs().max() > 1e-3 * found.abs().max()  # not the same distance


def test_images_are_seen_as_they_would_be_saved(weights):
    network, images = Inception(read_torch(weights)), pictures(1, 40)
    noise = 0.4 / 127.5 * torch.rand(images.shape, generator=rng(0, "noise"))
    assert torch.equal(network(images + noise), network(images))
    white = torch.full((1, 3, 40, 40), 1.0)
    assert torch.equal(network(3 * white), network(white))


def test_random_weights_are_the_same_every_time_and_let_images_through():
    images = pictures(2, 32)
    found = Inception.untrained()(images)
    assert torch.equal(found, Inception.untrained()(images))
    assert 1e-3 < float(found.std()) < 1e3
    assert (found[0] - found[1]).norm() > 0.01 * found[0].norm()


def test_weights_of_another_network_are_refused(weights, monkeypatch, tmp_path):
    state = read_torch(weights)
    with pytest.raises(AirlibError, match="choose from pytorch-fid, torch-fidelity"):
        Inception(state, "bicubic")
    lacking = {name: tensor for name, tensor in state.items() if "Mixed_7c" not in name}
    with pytest.raises(AirlibError, match="not weights of Inception: Mixed_7c"):
        Inception(lacking)
    with pytest.raises(AirlibError, match="not weights of Inception: size mismatch"):
        Inception(state | {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)})
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path))
    with pytest.raises(AirlibError, match="airlib fetch --only inception-fid"):
        Inception()


# --- the judge -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(weights) -> PublishedJudge:
    """As if its weights were the published ones."""
    return PublishedJudge(Inception(read_torch(weights)), Lpips.untrained("vgg"))


@pytest.fixture(scope="module")
def scores(judge) -> Scores:
    reference = Reference.of([judge], small_encoder(), [pictures(12, 16)], sentences=["a cat"])
    return scores_of(
        [pictures(12, 16, seed=1)], reference, "full", pair="a-b", method="air", seed=0
    )


def test_every_column_but_those_of_true_targets_is_filled(scores):
    assert set(scores.omitted) == {"paired distances"}
    second = {"frechet_vit", "kernel_vit"}
    assert set(LABELS) - PAIRED - second <= {metric.name for metric in scores.metrics}


def test_protocols_name_the_network_that_measured(scores):
    found = {metric.name: metric.protocol.partition(":") for metric in scores.metrics}
    short = {name: protocol[0] for name, protocol in found.items()}
    assert (short["frechet"], short["kernel"]) == ("fid12_inception", "kid12_inception")
    assert short["precision"] == "overlap12_k3_inception"
    assert short["diversity"] == "pairwise12_lpips-vgg256"
    assert short["intra_lpips"] == "intralpips12_k10_within_lpips-vgg256"
    how = "pytorch-fid's Inception features; 12 generated, 12 reference images"
    assert found["frechet"][2].strip() == how


def test_values_are_those_of_the_two_networks(scores, judge):
    value = {metric.name: metric.value for metric in scores.metrics}
    x, y = pictures(12, 16, seed=1), pictures(12, 16)
    distance = frechet_distance(judge.inception(x), judge.inception(y))
    assert value["frechet"] == pytest.approx(distance, rel=1e-4)
    phi = judge.lpips.embedding()(x)
    pairs = torch.cdist(phi.double(), phi.double()).square().sum() / (12 * 11)
    assert value["diversity"] == pytest.approx(float(pairs), rel=1e-4)


def test_large_images_are_kept_and_compared_at_256_pixels(judge):
    images = pictures(1, 512)
    seen = see([images], [judge], small_encoder(), keep=1)
    assert seen.images.shape == (1, 3, 256, 256)
    for x, y in zip(judge.maps(images), judge.maps(seen.images), strict=True):
        assert torch.equal(x, y)


def test_scaling_down_is_that_of_pillow():
    """Pillow rounds to 8 bits after each of its two passes, of which the second adds up to 1.3 of
    the first one's error.
    """
    image = pictures(1, 96)
    saved = ((image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(saved).resize((40, 40), Image.Resampling.BICUBIC))
    found = (scaled_down(image, 40)[0].clamp(-1, 1) + 1) * 127.5
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 0.5 + 1.3 * 0.5
    white = torch.full((1, 3, 96, 96), 3.0)
    torch.testing.assert_close(scaled_down(white, 40), torch.ones(1, 3, 40, 40))
    assert scaled_down(image, 96) is image and scaled_down(image, None) is image


def test_what_is_missing_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path))
    text = published_judge.missing()
    assert "\n" not in text and not list(tmp_path.iterdir())
    for name in published_judge.ASSETS:
        assert f"`airlib fetch --only {name}`" in text
