"""Figures and the notebook session: exact pixels, alt texts, files that are whole or absent."""

import io
import json
import resource

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from airlib.errors import AirlibError
from airlib.reproduction.notebook import setup
from airlib.showing import figures


def pixels(figure: Figure) -> np.ndarray:
    """The file of a figure as [H, W, 3] in 0..255."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figures.FILE_DPI)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` occurs in `picture`, up to one grey level."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, part.shape)[:, :, 0]
    corners = np.argwhere(np.abs(windows[..., 0, 0, :] - part[0, 0]).max(-1) <= 1)
    return any(np.abs(windows[y, x] - part).max() <= 1 for y, x in corners)


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return ((image.permute(1, 2, 0).numpy() + 1) / 2 * 255).round().astype(int)


def test_grid_shows_every_pixel_of_every_image():
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = figures.image_grid({"source": images, "AIR": -images}, "same latents", ["a", "b", "c"])
    picture = pixels(grid)
    for image in (*images, *-images):
        enlarged = as_bytes(image).repeat(2, axis=0).repeat(2, axis=1)
        assert contains(picture, enlarged)
    assert {"source", "AIR", "same latents", "a", "b", "c"} <= {t.get_text() for t in grid.texts}


def test_grid_averages_large_images_and_clips():
    images = torch.full((1, 3, 300, 300), 0.5)
    images[..., ::2] = 1.5  # clipped to 1
    cell = figures._cell(((images[0].clip(-1, 1) + 1) / 2).permute(1, 2, 0).numpy())
    assert cell.shape == (figures.CELL, figures.CELL, 3)
    assert cell.min() >= 0.75 and cell.max() <= 1
    assert pixels(figures.image_grid({"a": images}, "t")).max() == 255


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "rows of one length"),
        ({"a": torch.zeros(2, 3, 8, 8), "b": torch.zeros(3, 3, 8, 8)}, "a: 2, b: 3"),
        ({"a": torch.zeros(2, 1, 8, 8)}, "row 'a' must be square images"),
        ({"a": torch.zeros(2, 3, 8, 9)}, "row 'a' must be square images"),
        ({"a": torch.full((1, 3, 8, 8), torch.nan)}, "NaN"),
    ],
)
def test_grid_refuses_what_is_no_grid(rows, message):
    with pytest.raises(AirlibError, match=message):
        figures.image_grid(rows, "title")


def test_methods_are_told_apart_by_colour_and_by_marker():
    colors, markers = zip(*figures.METHOD_STYLES.values(), strict=True)
    assert len(set(colors)) == len(set(markers)) == len(figures.METHOD_STYLES)
    assert figures.method_style("nada") == figures.method_style("NADA")
    with pytest.raises(AirlibError, match="no style for method 'GAN'; known: source, NADA"):
        figures.method_style("GAN")


def test_dollars_are_no_formulas_and_powers_of_ten_are(tmp_path):
    text = "from $\\frac{ a$ to $b$"  # no formula that matplotlib could read
    figure, axes = figures.chart(text)
    axes.bar([text, "other"], [1, 2], label=text)
    axes.legend(title=text)
    axes.annotate(text, (0, 1))
    figures.save_figure(figure, tmp_path / "a.png", "a chart")
    grid = figures.image_grid({text: torch.zeros(2, 3, 8, 8)}, text, [text, "$"])
    figures.screen_png(grid)
    assert not any(part.get_parse_math() for part in grid.findobj(Text))

    figure, axes = figures.chart("a $ and a $")
    axes.loglog([1, 10, 1e5], [1e-4, 1, 3])
    figures.screen_png(figure)
    assert not axes.title.get_parse_math()
    assert all(label.get_parse_math() for label in axes.get_xticklabels() + axes.get_yticklabels())
    assert rcParams["text.parse_math"]  # figures of the user's own are as ever


def test_a_figure_file_carries_its_alt_text_and_is_reproducible(tmp_path):
    paths = []
    for name in ("a", "b"):
        figure, axes = figures.chart("FID falls with steps")
        axes.plot([0, 1], [2, 1], **figures.method_style("AIR"))
        paths.append(figures.save_figure(figure, tmp_path / f"{name}.png", "FID ↓ over steps"))
    assert Image.open(paths[0]).text["Description"] == "FID ↓ over steps"
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(AirlibError, match="needs an alt text"):
        figures.save_figure(figure, tmp_path / "c.png", " ")


def test_a_full_disk_leaves_no_figure(tmp_path):
    """The file size limit stands in for the disk: writing fails in the middle of the file."""
    figure, _ = figures.chart("title")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(AirlibError, match=r"cannot write .*figure.png: File too large"):
            figures.save_figure(figure, tmp_path / "figure.png", "alt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_session_saves_and_records(tmp_path, capsys):
    session = setup("03_air", "tiny", 5, str(tmp_path), {"methods.air.steps": 7}, dry_run=True)
    assert "torch" in capsys.readouterr().out
    assert session.profile.methods.air.steps == 7
    figure, _ = figures.chart("title")
    session.show(figure, "curve", alt="A falling curve.", title="It falls")
    session.show(figure, "curve", alt="A falling curve.", title="It falls")  # the cell ran twice
    assert capsys.readouterr().out == "It falls: A falling curve.\n" * 2
    session.finish()
    assert [text.get_text() for text in figure.texts] == ["profile: tiny, dry run"]
    assert Image.open(tmp_path / "tiny/03_air/curve.png").text["Description"] == "A falling curve."
    results = json.loads((tmp_path / "tiny/03_air/results.json").read_text())
    assert results["figures"] == [
        {"file": "curve.png", "alt": "A falling curve.", "title": "It falls"}
    ]
    assert results["parameters"] == {"overrides": {"methods.air.steps": 7}, "dry_run": True}
    assert results["seed"] == 5
    assert str(tmp_path) not in json.dumps(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "large"}, "unknown profile 'large'"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": 1.0}, "seed must be a whole number >= 0"),
        ({"dry_run": "yes"}, "dry_run must be True or False"),
        ({"overrides": {"x": 1}}, "x does not exist in profile tiny"),
        ({"notebook": "../03"}, "notebook name '../03' may hold letters"),
    ],
)
def test_setup_refuses_wrong_parameters(tmp_path, arguments, message):
    good = {"notebook": "03_air", "profile": "tiny", "seed": 0, "out_dir": str(tmp_path)}
    with pytest.raises(AirlibError, match=message):
        setup(**good | arguments)


def test_setup_refuses_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(AirlibError, match="cannot write in .*choose a writable directory"):
        setup("03_air", "tiny", 0, str(tmp_path / "out"))
