"""HyperDomainNet's losses against recordings of its code and of the paper's formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from airlib.errors import AirlibError
from airlib.methods.regularizers import domain_norm, in_domain_angle, target_target_direction
from airlib.seeding import rng

TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}
WIDTHS = [64, 64, 64, 64, 64, 64, 32]  # input channels of the seven layers of the recorded network


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    path = Path(__file__).parent / "golden" / "nada_direction.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]).float() for name in file.files}


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(F.normalize(torch.randn(5, 8, generator=rng(i, "images")), dim=1) for i in (0, 1))


@pytest.mark.parametrize(
    ("as_in", "key"), [("paper", "paper/indomain_eq11_sum"), ("code", "hdn/indomain")]
)
def test_in_domain_angle_equals_the_recording(recorded, as_in, key):
    found = in_domain_angle(recorded["src_img"], recorded["trg_img"], as_in)
    torch.testing.assert_close(found, recorded[key], **TOLERANCE)


def test_in_domain_angle_by_hand():
    """Sources at a right angle, adapted images alike: the cosine of both pairs goes from 0 to 1."""
    source, adapted = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert in_domain_angle(source, adapted).item() == 2
    assert in_domain_angle(source, adapted, "code").item() == 1


def test_turning_all_images_together_costs_nothing(images):
    """The loss asks for angles between images, not for where they are."""
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=rng(2, "turn")))
    assert in_domain_angle(images[0], images[0] @ turn).item() < 1e-10
    assert in_domain_angle(*images).item() > 0.1


def test_the_source_gets_no_gradient(images):
    source, adapted = (tensor.clone().requires_grad_(True) for tensor in images)
    in_domain_angle(source, adapted).backward()
    assert source.grad is None and adapted.grad.norm() > 0


def test_target_target_direction_equals_the_recording(recorded):
    found = target_target_direction(recorded["trg_img"], recorded["trg_txt_per_sample"])
    torch.testing.assert_close(found, recorded["hdn/tt_direction"], **TOLERANCE)


def test_two_images_of_one_target_cost_one_and_move_nothing(images):
    adapted = images[0][:2].clone().requires_grad_(True)
    texts = torch.randn(1, 3, 8, generator=rng(3, "texts")).repeat(2, 1, 1)
    loss = target_target_direction(adapted, texts)
    loss.backward()
    assert loss.item() == 1 and not adapted.grad.any()


def test_domain_norm_equals_the_recording(recorded):
    vectors = (1 + recorded["paper/domain_norm_vec_minus1"]).split(WIDTHS)
    torch.testing.assert_close(
        domain_norm(vectors), recorded["paper/domain_norm_sum"], atol=1e-5, rtol=1e-6
    )
    torch.testing.assert_close(
        domain_norm(vectors, "code"), recorded["hdn/offsets_l2"], **TOLERANCE
    )


def test_domain_norm_of_a_batch_is_the_mean_of_its_vectors():
    vectors = [torch.randn(3, 4, generator=rng(4, "a")), torch.randn(3, 6, generator=rng(4, "b"))]
    each = [domain_norm([vector[i] for vector in vectors]) for i in range(3)]
    torch.testing.assert_close(domain_norm(vectors), torch.stack(each).mean())


def test_an_unknown_normalisation_is_refused(images):
    with pytest.raises(AirlibError, match='use "paper" or "code"'):
        in_domain_angle(*images, as_in="official")
