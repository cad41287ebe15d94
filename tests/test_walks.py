"""Walks: models along a way between domains, attributes of inverted pictures, and what is saved."""

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.editing.export import save_gif, save_png
from airlib.errors import AirlibError

# --- files ---------------------------------------------------------------------------------------

FRAMES = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 8, 8)


def test_a_strip_is_read_back_as_it_was(tmp_path):
    pixels = np.asarray(Image.open(save_png(FRAMES, tmp_path / "strip.png")))
    assert pixels.shape == (8, 32, 3)
    assert pixels[0, ::8, 0].tolist() == [0, 85, 170, 255]
    assert Image.open(save_png(FRAMES[:1], tmp_path / "one.png", side=32)).size == (32, 32)


@pytest.mark.parametrize(("and_back", "expected"), [(True, [0, 85, 170, 255, 170, 85]),
                                                    (False, [0, 85, 170, 255])])  # fmt: skip
def test_a_gif_plays_for_ever_with_every_frame_as_long_as_it_should(tmp_path, and_back, expected):
    path = save_gif(FRAMES, tmp_path / "walk.gif", 0.08, 16, and_back)
    with Image.open(path) as gif:
        assert gif.n_frames == len(expected) and gif.info["loop"] == 0
        for index, level in enumerate(expected):
            gif.seek(index)
            assert gif.info["duration"] == 80 and gif.size == (16, 16)
            assert (np.asarray(gif.convert("RGB")) == level).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["walk.gif"]


def test_colours_of_a_gif_are_close_to_those_of_the_images(tmp_path):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with Image.open(save_gif(images, tmp_path / "noise.gif")) as gif:
        for index, image in enumerate(images):
            gif.seek(index)
            found = np.asarray(gif.convert("RGB")) / 127.5 - 1
            assert np.abs(found - image.permute(1, 2, 0).numpy()).mean() < 0.02


@pytest.mark.parametrize(
    ("images", "seconds", "words"),
    [
        (FRAMES[0], 0.1, r"got \[3, 8, 8\]"),
        (FRAMES[:0], 0.1, r"got \[0, 3, 8, 8\]"),
        (FRAMES * float("nan"), 0.1, "NaN"),
        (FRAMES, 0.001, "0.02 s to 655 s"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path, images, seconds, words):
    with pytest.raises(AirlibError, match=words):
        save_gif(images, tmp_path / "walk.gif", seconds)
    assert not list(tmp_path.iterdir())
