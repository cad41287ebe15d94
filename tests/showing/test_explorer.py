"""The explorer: its picture follows every kind of control, and an error does not break it."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.showing.figures import strip_png
from airlib.showing.widgets import Explorer

COLOURS = ["red", "blue"]


def draw(strength: float, colour: str, count: int, word: str) -> torch.Tensor:
    if word == "nonsense":
        raise AirlibError("no such word: <nonsense>")
    images = torch.full([count + 1, 3, 8, 8], -1.0)
    images[:, 0 if colour == "red" else 2] = 2 * strength - 1
    return images


def shown(explorer: Explorer) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(explorer.picture.value)))


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(draw, 16, strength=(0.0, 1.0), colour=COLOURS, count=3, word="hello")


def test_the_picture_follows_every_control(explorer):
    assert shown(explorer).shape == (16, 16, 3)
    assert not shown(explorer).any()
    explorer.controls["strength"].value = 1.0
    assert (shown(explorer) == (255, 0, 0)).all()
    explorer.controls["colour"].value = "blue"
    assert (shown(explorer) == (0, 0, 255)).all()
    explorer.controls["count"].value = 2
    assert shown(explorer).shape == (16, 48, 3)


def test_a_slider_starts_at_the_first_of_its_ends(explorer):
    assert explorer.controls["strength"].value == 0.0
    down = Explorer(draw, 16, strength=(1.0, 0.0), colour=COLOURS, count=3, word="hello")
    slider = down.controls["strength"]
    assert (slider.value, slider.min, slider.max) == (1.0, 0.0, 1.0)
    assert (shown(down) == (255, 0, 0)).all()


def test_a_failure_is_told_and_the_last_picture_stays(explorer):
    before = explorer.picture.value
    explorer.controls["word"].value = "nonsense"
    assert "no such word: &lt;nonsense&gt;" in explorer.message.value
    assert explorer.picture.value == before
    explorer.controls["word"].value = "hello again"
    assert explorer.message.value == ""


def test_a_strip_keeps_pixels_and_order():
    images = torch.stack([torch.full([3, 4, 4], value) for value in (-1.0, 0.2, 1.0)])
    pixels = np.asarray(Image.open(BytesIO(strip_png(images, 8))))
    assert pixels.shape == (8, 24, 3)
    assert [int(pixels[0, x, 0]) for x in (0, 8, 16)] == [0, 153, 255]
