"""The six styles: how strongly each draws its parts (``Look``), and how it finishes a picture.

A finish is a function of the portrait's layers: it gets the canvas (image [n, 3, H, W], ink
and figure [n, H, W]) and the sitter (geometry and light) and returns the image [n, 3, H, W].
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.tinyworld.shapes import pixel_grid, rgb

if TYPE_CHECKING:
    from airlib.tinyworld.shapes import Canvas
    from airlib.tinyworld.sitter import Sitter


def photo(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of photos: exposure, and a lens that darkens the corners."""
    x, y = pixel_grid(canvas.size)
    vignette = 1 - 0.16 * (x * x + y * y)[:, None]
    return canvas.image * sitter.traits.brightness[:, None] * vignette


def sketch(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of sketches: outlines and hatching on white paper.

    Hatching has two directions, the second in the darks only.
    """
    x, y = pixel_grid(canvas.size)
    luminance = (canvas.image * rgb(0.35, 0.5, 0.15)).sum(1)
    hatching = torch.sin((x + y) * 36) * 0.5 + 0.5
    cross_hatching = torch.sin((x - y) * 36) * 0.5 + 0.5
    mid_tones = (0.68 - luminance).clamp(0, 0.6) * (0.45 + 0.55 * hatching)
    darks = (0.35 - luminance).clamp(0, 0.35) * 0.8 * cross_hatching
    wall = 0.05 * hatching * (0.6 - luminance).clamp(0, 1)
    tone = canvas.figure * (mid_tones + darks) + (1 - canvas.figure) * wall
    paper = 0.96 - tone * 0.95 - canvas.ink * 0.72 * 0.85
    return paper[:, None].expand(-1, 3, -1, -1)


def cartoon(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of cartoons: saturated, partly posterised to five levels, black outlines."""
    image = _saturate(canvas.image, 1.45)
    image = (image * 5).round() / 5 * 0.35 + image * 0.65 + 0.04
    return image * (1 - canvas.ink[:, None] * 0.95)


def pixar(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of 3D renders: warm, with a bright rim opposite the light and a soft highlight."""
    x, y, light_x = sitter.x, sitter.y, sitter.traits.light_x
    image = _saturate(canvas.image, 1.3) * rgb(1.08, 1.0, 0.92) + 0.03
    edge = torch.exp(-(((sitter.head + 0.05) / 0.05) ** 2))
    rim = edge * (-light_x * x * 1.6 - y * 0.5).clamp(0, 1) * canvas.figure * 0.35
    dx, dy = (x - light_x * 0.12) / 0.12, (y + sitter.height * 0.55) / 0.10
    highlight = torch.exp(-(dx**2 + dy**2)) * 0.22 * canvas.figure
    image = image + rim[:, None] * rgb(1.0, 0.9, 0.7) + highlight[:, None]
    return image * 0.85 + 0.15 * F.avg_pool2d(image, 3, 1, 1)


def watercolor(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of watercolours: bleeding colours and uneven pigment.

    Pigment varies smoothly, thins out on the wall and pools at edges.
    """
    x, y = pixel_grid(canvas.size)
    figure = canvas.figure[:, None]
    blurred = F.avg_pool2d(F.pad(canvas.image, (2, 2, 2, 2), mode="replicate"), 5, 1)
    color = _saturate(blurred * 0.55 + canvas.image * 0.45, 1.5)
    variation = sitter.patches(canvas.size)[:, None] * 1.2
    on_figure = (0.62 + 0.16 * variation).clamp(0.12, 0.95)
    border = (x.abs().pow(4) + y.abs().pow(4))[:, None] * 0.9
    on_wall = (0.75 + 0.35 * variation - border).clamp(0, 0.8) * 0.6
    pigment = figure * on_figure + (1 - figure) * on_wall
    pooled = (F.max_pool2d(pigment, 3, 1, 1) - pigment).clamp(0, 0.5)
    image = 0.97 * (1 - pigment) + pigment * (color * 1.08 + 0.02) - pooled * 0.35 * figure
    return image * (1 - canvas.ink[:, None] * 0.35)


def wall_painting(canvas: "Canvas", sitter: "Sitter") -> Tensor:
    """The finish of wall paintings: faded paint on bricks, mortar showing, patches peeled off."""
    image = _saturate(canvas.image, 0.62) * 0.72 + 0.28 * rgb(0.72, 0.58, 0.42)
    image = image * (1 - canvas.ink[:, None] * rgb(0.55, 0.65, 0.75))
    stains = sitter.patches(canvas.size)[:, None] * 1.2
    image = image * (1 - 0.30 * _mortar(canvas.size)[:, None]) + 0.035 * stains
    peeled = ((stains - 1.35) * 3).clamp(0, 1) * 0.6
    return image * (1 - peeled) + peeled * rgb(0.70, 0.62, 0.52)


def _mortar(size: int) -> Tensor:
    """Joints between bricks half as high as wide, each row shifted by half a brick."""
    x, y = pixel_grid(size)
    y = y + 0.1
    row = torch.floor(y / 0.25)
    across = torch.remainder(y, 0.25)
    along = torch.remainder(x + 0.3 + row * 0.25, 0.5)
    joints = [
        (0.5 - ((t - 0.02).abs() - 0.018) / (2.0 / size)).clamp(0, 1) for t in (across, along)
    ]
    return torch.maximum(*joints)


def _saturate(image: Tensor, amount: float) -> Tensor:
    """Scale the distance of every colour from grey."""
    grey = image.mean(1, keepdim=True)
    return grey + (image - grey) * amount


class Look(NamedTuple):
    """One style: strengths of the effects that parts draw, then its finish."""

    shading: float
    line_width: float  # in units of 1.5 pixels
    ink: float  # visibility of outlines
    bokeh: float  # contrast of the blurred background
    blush: float
    eye_openness: float
    eye_glint: float
    eyelid: float
    nose_shadow: float
    nose_glint: float
    finish: Callable[["Canvas", "Sitter"], Tensor]


# fmt: off
LOOKS = {
    #             shading line  ink bokeh blush eye: open glint lid   nose: shadow glint
    "photo":         Look( .85,  .00,  .00, .07, 1.0, 1.00,  .85, 1.0, 1.0, .35, photo),
    "sketch":        Look( .70,  .75,  .95, .00,  .4, 1.00,  .80,  .6,  .7, .20, sketch),
    "cartoon":       Look( .12, 1.15, 1.00, .00, 1.3, 1.10, 1.00, 1.0,  .4, .30, cartoon),
    "pixar":         Look(1.15,  .00,  .00, .05, 1.3, 1.15, 1.00,  .8,  .8, .50, pixar),
    "watercolor":    Look( .35,  .35,  .35, .05, 1.0, 1.00,  .70,  .6,  .7, .25, watercolor),
    "wall painting": Look( .40,  .70,  .60, .03, 1.0, 1.00,  .40,  .8,  .7, .15, wall_painting),
}
# fmt: on
