"""Figures: one theme, one look per method, and grids that compare images of the same latents.

A figure answers one question and its title is the finding. `chart` opens an empty figure in the
theme, `image_grid` puts methods in rows and latents in columns, `method_style` gives a method the
same colour and marker in every notebook, and `save_figure` writes a PNG that carries its alt text.
Figures are made without pyplot, so a notebook shows them only where it says so.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext
from PIL import Image

from airlib.errors import AirlibError
from airlib.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.backend_bases import RendererBase
    from torch import Tensor

FILE_DPI, SCREEN_DPI = 144, 72  # files have twice the pixels of what a notebook shows
CELL, GAP = 128, 6  # pixels of one image, and between images, in the file of a grid

# Colours of Okabe and Ito, told apart with any colour vision; the marker says it again.
METHOD_STYLES = {
    "source": ("#595959", "x"),
    "NADA": ("#0072B2", "o"),
    "IPL": ("#E69F00", "s"),
    "SVL": ("#CC79A7", "D"),
    "AIR": ("#D55E00", "^"),
    "HDN": ("#009E73", "v"),
    "nada_angle": ("#56B4E9", "P"),  # arms of HyperDomainNet: d is its domain vector
    "d": ("#117733", "<"),
    "d_angle": ("#999933", ">"),
    "air_d": ("#882255", "h"),
    "truth": ("#000000", "*"),
}

THEME: dict[Any, Any] = {  # matplotlib's settings and their values
    "figure.dpi": SCREEN_DPI,
    "figure.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "image.cmap": "cividis",
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "legend.frameon": False,
}


def use_theme() -> None:
    """Apply the theme to every figure made from now on."""
    rcParams.update(THEME)


def method_style(method: str) -> dict[str, str]:
    """The look of a method in every figure: `color`, `marker` and `label` for plotting calls.

    The case of `method` is ignored. Raises AirlibError for a method without a look.
    """
    names = {name.lower(): name for name in METHOD_STYLES}
    if method.lower() not in names:
        raise AirlibError(f"no style for method {method!r}; known: {', '.join(METHOD_STYLES)}")
    name = names[method.lower()]
    color, marker = METHOD_STYLES[name]
    return {"color": color, "marker": marker, "label": name}


class PlainFigure(Figure):
    """A figure whose texts may hold `$`: only the powers on logarithmic axes are formulas."""

    def draw(self, renderer: "RendererBase") -> None:
        """Draw everything, names of classes with `$` in them as they are."""
        axes = [axis for one in self.axes for axis in (one.xaxis, one.yaxis)]
        powers = {
            label
            for axis in axes if isinstance(axis.get_major_formatter(), LogFormatterMathtext)
            for label in axis.get_ticklabels(which="both")
        }  # fmt: skip
        for text in self.findobj(Text):
            text.set_parse_math(text in powers)
        super().draw(renderer)


def empty_figure(width: float, height: float) -> Figure:
    """A figure in the theme without axes, `width` x `height` inches, with room for a stamp."""
    use_theme()
    layout = ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95))  # the strip below is for the stamp
    return PlainFigure(figsize=(width, height), layout=layout)


def chart(title: str, width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty chart in the theme: (figure, axes). `width` and `height` are in inches."""
    figure = empty_figure(width, height)
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def image_grid(
    rows: dict[str, "Tensor"], title: str, columns: Sequence[str] | None = None
) -> Figure:
    """Images in labelled rows; a column is one latent, so that rows compare like with like.

    rows: label -> images [n, 3, H, H] in [-1, 1] (values outside are clipped), the same n for all.
    Small images are enlarged without smoothing, so that every pixel is seen; large ones averaged.

    Raises AirlibError for no rows, rows of unequal length, wrong shapes, and NaN.
    """
    use_theme()
    strips = {label: _strip(label, images) for label, images in rows.items()}
    if len({len(images) for images in rows.values()}) != 1:
        counts = ", ".join(f"{label}: {len(images)}" for label, images in rows.items())
        raise AirlibError(f"an image grid needs rows of one length, not ({counts})")
    n = len(next(iter(rows.values())))
    if columns is not None and len(columns) != n:
        raise AirlibError(f"{len(columns)} column titles for {n} columns")

    # All lengths in pixels of the file, and even: then the small version is exact as well.
    side = 24 + 16 * max(len(label) for label in rows)
    head, foot = 40 + 28 * (columns is not None), 28
    width = max(side + n * (CELL + GAP), 16 + 14 * len(title))
    height = head + len(rows) * (CELL + GAP) + foot
    figure = PlainFigure(figsize=(width / FILE_DPI, height / FILE_DPI))
    figure.text(8 / width, 1 - 8 / height, title, va="top", weight="bold")
    for index, (label, strip) in enumerate(strips.items()):
        bottom = height - head - (index + 1) * (CELL + GAP)
        box = (side / width, bottom / height, n * (CELL + GAP) / width, CELL / height)
        axes = figure.add_axes(box)
        axes.imshow(strip, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        middle = (bottom + CELL / 2) / height
        figure.text((side - 10) / width, middle, label, ha="right", va="center")
    for index, name in enumerate(columns or ()):
        x = (side + index * (CELL + GAP) + CELL / 2) / width
        figure.text(x, 1 - (head - 6) / height, name, ha="center", va="bottom", size=9)
    return figure


def stamp(figure: Figure, text: str) -> None:
    """Write `text` small in the lower right corner, once: which profile a figure comes from."""
    if text not in {entry.get_text() for entry in figure.texts}:
        figure.text(0.995, 0.005, text, ha="right", va="bottom", size=8, color="#595959")


def save_figure(figure: Figure, path: str | Path, alt: str) -> Path:
    """Write a PNG whose metadata holds `alt`, the sentence that says what the figure shows.

    Returns the path. Raises AirlibError for an empty `alt`, and if the file cannot be written.
    """
    if not alt.strip():
        raise AirlibError(f"figure {Path(path).name} needs an alt text: say what it shows")
    return write_atomically(
        path,
        lambda temporary: figure.savefig(
            temporary, format="png", dpi=FILE_DPI, metadata={"Description": alt}
        ),
    )


def screen_png(figure: Figure) -> bytes:
    """The figure as a small PNG in 256 colours: notebooks with their outputs are kept in git."""
    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=SCREEN_DPI)
    colours = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(small, format="png", optimize=True)
    return small.getvalue()


def strip_png(images: "Tensor", side: int) -> bytes:
    """Images [n, 3, H, H] in [-1, 1] beside each other, `side` screen pixels high, as a PNG."""
    levels = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    pixels = levels.round().byte().permute(2, 0, 3, 1).flatten(1, 2).numpy()  # [H, n * H, 3]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture = picture.resize((side * len(images), side), Image.Resampling.NEAREST)
    file = BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def _strip(label: str, images: "Tensor") -> np.ndarray:
    """One row of a grid: [CELL, n * (CELL + GAP), 3] in [0, 1]; the gaps are white."""
    pixels = images.detach().cpu().float().numpy()
    if (
        pixels.ndim != 4
        or len(pixels) == 0
        or pixels.shape[1] != 3
        or pixels.shape[2] != pixels.shape[3]
    ):
        raise AirlibError(f"row {label!r} must be square images [n, 3, H, H], not {pixels.shape}")
    if not np.isfinite(pixels).all():
        raise AirlibError(f"row {label!r} holds NaN or infinite pixels")
    pixels = (np.clip(pixels, -1, 1) + 1) / 2
    white = np.ones((CELL, GAP, 3))
    cells = [_cell(image.transpose(1, 2, 0)) for image in pixels]
    return np.concatenate([part for cell in cells for part in (cell, white)], axis=1)


def _cell(image: np.ndarray) -> np.ndarray:
    """Bring [H, H, 3] to [CELL, CELL, 3]: nearest neighbour if smaller, box averages if larger."""
    size = len(image)
    starts = np.arange(CELL) * size // CELL
    if size <= CELL:
        return image[starts][:, starts]
    counts = np.diff(np.append(starts, size))
    sums = np.add.reduceat(np.add.reduceat(image, starts, axis=0), starts, axis=1)
    return sums / (counts[:, None, None] * counts[None, :, None])
