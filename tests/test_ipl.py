"""IPL's losses against a recording of its code (stub encoders, so that features are given)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from airlib.clip_space.offsets import directional_loss
from airlib.methods.ipl import contrastive_loss, domain_loss, prompt_directions, prompt_features
from airlib.seeding import rng

TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    path = Path(__file__).parent / "golden" / "ipl_losses.npz"
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]).float() for name in file.files}


@pytest.fixture(scope="module")
def prompts(recorded) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target prompts of three images."""
    return tuple(
        prompt_features(recorded[f"delta_{side}"][:, 0], recorded[f"init_{side}"])
        for side in ("src", "trg")
    )


def test_stage_2_equals_the_recording(recorded, prompts):
    directions = prompt_directions(*prompts)
    torch.testing.assert_close(directions, recorded["ipl/target_direction"], **TOLERANCE)
    images = [F.normalize(recorded[f"img_{side}"], dim=1) for side in ("src", "trg")]
    found = directional_loss(images[1] - images[0], directions)
    torch.testing.assert_close(found, recorded["ipl/directional_loss"], **TOLERANCE)


def test_stage_1_equals_the_recording(recorded, prompts):
    contrastive = contrastive_loss(F.normalize(recorded["img_src"], dim=1), prompts[0])
    torch.testing.assert_close(contrastive, recorded["ipl/stage1_loss_lambda0"], **TOLERANCE)
    classes = [F.normalize(recorded[f"{side}_templates"], dim=1) for side in ("src", "trg")]
    domains = [domain_loss(*pair) for pair in zip(prompts, classes, strict=True)]
    total = contrastive + sum(domains)
    torch.testing.assert_close(total, recorded["ipl/stage1_loss_lambda1"], **TOLERANCE)


def test_contrastive_loss_by_hand():
    """Orthogonal pairs at scale s lose log(1 + exp(-s)); prompts that are all alike, log 2."""
    found = contrastive_loss(torch.eye(2), torch.eye(2), logit_scale=3.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-3)))
    swapped = contrastive_loss(torch.eye(2), torch.eye(2).flip(0), logit_scale=3.0)
    assert swapped.item() == pytest.approx(3 + found.item())
    alike = contrastive_loss(torch.eye(2), torch.eye(2)[:1].repeat(2, 1), logit_scale=1e-4)
    assert alike.item() == pytest.approx(math.log(2), abs=1e-4)


def test_domain_loss_is_zero_on_the_mean_of_the_templates_and_two_against_it():
    templates = F.normalize(torch.randn(5, 8, generator=rng(0, "templates")), dim=1)
    on_it = F.normalize(templates.mean(0), dim=0).repeat(3, 1)
    assert domain_loss(on_it, templates).item() == pytest.approx(0, abs=1e-6)
    assert domain_loss(-on_it, templates).item() == pytest.approx(2, abs=1e-6)


def test_a_prompt_that_learnt_nothing_is_the_written_sentence():
    written = torch.randn(1, 8, generator=rng(0, "written"))
    found = prompt_features(torch.zeros(3, 8), written)
    torch.testing.assert_close(found, F.normalize(written, dim=1).repeat(3, 1))
