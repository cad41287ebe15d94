"""The evidence behind anchors: misalignment and distance along a run of AIR."""

import math

import pytest
import torch

from airlib.errors import AirlibError
from airlib.studies.anchors import anchor_path
from airlib.studies.misalignment.offsets import misalignment

X, Y, Z = torch.eye(3)


def anchor(step: int, image: torch.Tensor, prompt: torch.Tensor) -> dict:
    return {
        "event": "anchor", "step": step,
        "image_mean": [image.tolist()], "prompt": [prompt.tolist()],
    }  # fmt: skip


def test_a_path_by_hand():
    """Source at X, target at Y. The first anchor is half-way and its prompt as well: offsets are
    parallel. The second is at X again and its prompt at Z: 60 degrees between Y - X and Y - Z.
    """
    log = [{"step": 0, "direction": 1.0}, anchor(5, (X + Y) / 2, (X + Y) / 2), anchor(7, X, Z)]
    path = anchor_path(log, X, Y, X, Y)
    assert path.steps == [0, 5, 7]
    assert path.M == pytest.approx([0, 0, 1 - math.cos(math.pi / 3)], abs=1e-6)
    assert path.D == pytest.approx([1, 1 - math.sqrt(0.5), 1], abs=1e-6)
    assert path.M_unlearnt == pytest.approx([0, 0, 0], abs=1e-6)


def test_an_unlearnt_prompt_keeps_the_direction_of_the_source():
    """Anchor at Z: image offset Y - Z, text offset still Y - X."""
    path = anchor_path([anchor(3, Z, Z)], X, Y, X, Y)
    assert path.M[1] == pytest.approx(0, abs=1e-6)
    assert path.M_unlearnt[1] == pytest.approx(0.5, abs=1e-6)


def test_it_is_the_misalignment_of_study_1():
    stream = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 4, 8, generator=stream)
    log = [anchor(step, images[step], texts[step]) for step in (1, 2)]
    path = anchor_path(log, images[0], images[3], texts[0], texts[3])
    study = misalignment(images, texts)
    assert path.M == pytest.approx(study.M[:3, 3].tolist(), abs=1e-5)
    assert path.D == pytest.approx(study.D[:3, 3].tolist(), abs=1e-5)


def test_a_run_without_anchors_is_refused():
    with pytest.raises(AirlibError, match="no anchor"):
        anchor_path([{"step": 0, "direction": 1.0}], X, Y, X, Y)
