"""HyperDomainNet's losses against recordings of its code and of the paper's formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_space

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.errors import AirlibError
from airlib.methods.nada import NADA
from airlib.methods.regularizers import (
    DomainNorm,
    InDomainAngle,
    domain_norm,
    in_domain_angle,
    target_target_direction,
)
from airlib.methods.step import Step
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.stylegan2 import domain_vector, synthesis
from airlib.seeding import rng

TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}
WIDTHS = [64, 64, 64, 64, 64, 64, 32]  # input channels of the seven layers of the recorded network


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    path = Path(__file__).parents[1] / "golden" / "nada_direction.npz"
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


# --- in the loop ---------------------------------------------------------------------------------

SOURCE, SPACE = small_generator(), small_space()
FEW = AdaptationConfig(steps=3, batch=3, learning_rate=0.01)


def run(
    *regularizers: InDomainAngle | DomainNorm, moving: Parameterization | None = None, **options
) -> Adaptation:
    """NADA on the small networks."""
    objective, moving = NADA(SPACE, "human", "dog"), moving or domain_vector()
    config = options.pop("config", FEW)
    return adapt(SOURCE, SPACE, objective, moving, config, regularizers=regularizers, **options)


def test_a_regularizer_sees_the_images_of_the_step():
    adapted = small_generator(seed=1)
    latents = SOURCE.sample_latents(3, rng(0, "step"))
    step = Step(0, 3, 0, SOURCE, adapted, SPACE, latents, 0, "none")
    source, moved = SPACE.embed_images(SOURCE(latents)), SPACE.embed_images(adapted(latents))
    for as_in in ("paper", "code"):
        found = InDomainAngle(1.0, as_in)(step)
        torch.testing.assert_close(found, in_domain_angle(source[0], moved[0], as_in))


@pytest.mark.parametrize("make", [InDomainAngle, DomainNorm])
def test_a_regularizer_counts_by_its_weight_and_is_logged(make):
    plain, without, with_it = run(), run(make(0.0)), run(make(1e4))
    for name, value in plain.tensors.items():
        assert torch.equal(value, without.tensors[name])
    assert any(not torch.equal(v, with_it.tensors[k]) for k, v in plain.tensors.items())
    assert all(make.name in entry for entry in with_it.log)
    assert with_it.config["regularizers"] == [make(1e4).settings]


def test_the_domain_norm_holds_a_vector_near_one():
    def distance(result: Adaptation) -> float:
        return sum(float((d - 1).square().sum()) for d in result.tensors.values())

    config = AdaptationConfig(steps=12, batch=3, learning_rate=0.01)
    held = run(DomainNorm(1e3), config=config)
    assert 0 < distance(held) < 0.5 * distance(run(config=config))


def test_a_run_does_not_continue_under_another_regularizer(tmp_path):
    run(InDomainAngle(1.0), directory=tmp_path)
    for other in ((), (InDomainAngle(2.0),), (InDomainAngle(1.0, "paper"),)):
        with pytest.raises(AirlibError, match="other settings"):
            run(*other, directory=tmp_path)


def test_what_a_regularizer_cannot_measure_is_refused():
    with pytest.raises(AirlibError, match="batch of at least 2"):
        run(InDomainAngle(1.0), config=AdaptationConfig(steps=1, batch=1))
    with pytest.raises(AirlibError, match="no domain vector"):
        run(DomainNorm(1.0), moving=synthesis())
