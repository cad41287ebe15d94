"""Uploads to the explorer: through the real widget, good pictures and all kinds of bad ones."""

import datetime
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from airlib.images.pictures import read_picture
from airlib.showing.widgets import Explorer

SIZE = 16
GRADIENT = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)


def draw(picture: Tensor | None, strength: float) -> Tensor:
    """The picture, darker; a gray one stands for none."""
    picture = torch.zeros(1, 3, SIZE, SIZE) if picture is None else picture
    return picture - strength


@pytest.fixture
def explorer() -> Explorer:
    pictures = {"none": None, "white": torch.ones(1, 3, SIZE, SIZE)}
    return Explorer(draw, SIZE, SIZE, picture=pictures, strength=(0.0, 1.0))


def shown(explorer: Explorer) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(explorer.picture.value)))


def saved(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def upload(explorer: Explorer, content: bytes, name: str = "me.png") -> None:
    """As the front end does it."""
    file = {"name": name, "type": "image/png", "size": len(content)}
    file |= {"content": memoryview(content), "last_modified": datetime.datetime.now(datetime.UTC)}
    explorer.uploads["picture"].value = (file,)


def test_an_upload_is_cut_chosen_and_drawn(explorer):
    content = saved(Image.fromarray(GRADIENT))
    upload(explorer, content)
    expected = (read_picture(content, SIZE)[0].permute(1, 2, 0) + 1) * 127.5
    assert (shown(explorer) == expected.round().byte().numpy()).all()
    assert "me.png" in explorer.controls["picture"].value and explorer.message.value == ""
    explorer.controls["strength"].value = 1.0
    assert shown(explorer).mean() < expected.mean().item()


def test_the_pictures_that_were_there_can_be_chosen_again(explorer):
    upload(explorer, saved(Image.fromarray(GRADIENT)))
    for name, level in (("white", 255), ("none", 128), ("white", 255)):
        explorer.controls["picture"].value = name
        assert (shown(explorer) == level).all()


def test_two_uploads_of_one_name_are_two_pictures(explorer):
    for colour in ("red", "blue"):
        upload(explorer, saved(Image.new("RGB", (20, 20), colour)))
        assert len(np.unique(shown(explorer).reshape(-1, 3), axis=0)) == 1
    red, blue = (name for name in explorer.controls["picture"].options[1::-1])
    assert (shown(explorer) == (0, 0, 255)).all()
    explorer.controls["picture"].value = red
    assert (shown(explorer) == (255, 0, 0)).all() and blue != red


MOVING = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
BAD = {
    "no image": (b"MZ" + bytes(200), "cannot read the image"),
    "nothing": (b"", "cannot read the image"),
    "cut off": (saved(Image.fromarray(GRADIENT))[:-400], "cannot read the image"),
    "tiny": (saved(Image.new("RGB", (15, 400))), "has 15 x 400 pixels; 16 a side are the least"),
    "huge": (saved(Image.new("1", (13_000, 13_000))), "more than 150 million; make it smaller"),
    "animated": (
        saved(MOVING[0], "gif", save_all=True, append_images=MOVING[1:]),
        "holds several pictures; save the one that you mean",
    ),
    "32 bits": (saved(Image.new("F", (20, 20)), "tiff"), "save it with 8 or 16"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_told_and_the_last_one_stays(explorer, kind):
    content, words = BAD[kind]
    explorer.controls["picture"].value = "white"
    before, options = explorer.picture.value, explorer.controls["picture"].options
    upload(explorer, content, "<b>.png")
    assert words in explorer.message.value and "&lt;b&gt;.png" in explorer.message.value
    assert explorer.picture.value == before and explorer.controls["picture"].options == options
    explorer.controls["picture"].value = "none"
    assert explorer.message.value == "" and explorer.picture.value != before


WIDE = (np.arange(400).reshape(20, 20) * 160).astype(np.uint16)  # up to 63840 of 65535
GRAY = np.repeat((WIDE >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
SHADED = Image.fromarray(GRAY).convert("RGBA")
SHADED.putalpha(Image.fromarray((WIDE >> 8).astype(np.uint8)))
ODD = {
    "grayscale": (Image.fromarray(GRAY[:, :, 0]), Image.fromarray(GRAY)),
    "16 bits": (Image.fromarray(WIDE), Image.fromarray(GRAY)),
    "alpha": (
        SHADED,
        Image.fromarray((GRAY / 255.0 * GRAY + 255 - GRAY).round().astype(np.uint8)),
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_unusual_colours_are_read_as_what_they_look_like(explorer, kind):
    """The rule of `images.pictures`: of 16 bits the upper 8, transparent parts on white."""
    odd, plain = ODD[kind]
    upload(explorer, saved(odd))
    first, message = shown(explorer).astype(int), explorer.message.value
    upload(explorer, saved(plain))
    assert message == "" and np.abs(first - shown(explorer)).max() <= 1
    assert np.ptp(first) > 50
