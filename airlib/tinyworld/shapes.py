"""Signed distances to simple shapes, and the canvas that turns them into paint.

A signed distance [n, H, W] is negative inside a shape, positive outside and measured in units
of half the image. A pixel is covered by ``0.5 - distance / pixel``, which gives every edge one
pixel of anti-aliasing at any resolution. The canvas keeps three layers: the painted image, the
ink of the outlines (styles decide how visible it is) and the mask of the figure.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from airlib.tinyworld.styles import Look


def ellipse(x: Tensor, y: Tensor, center_x, center_y, radius_x, radius_y) -> Tensor:
    """Approximate signed distance of (x, y) to an axis-parallel ellipse (exact for a circle)."""
    u, v = (x - center_x) / radius_x, (y - center_y) / radius_y
    mean_radius = abs(radius_x * radius_y + 1e-9) ** 0.5
    return ((u * u + v * v).sqrt() - 1) * mean_radius


def strip(value: Tensor, half_width: float | Tensor) -> Tensor:
    """Signed distance to the strip |value| < half_width."""
    return value.abs() - half_width


def capsule(x: Tensor, y: Tensor, start, end, start_radius, end_radius) -> Tensor:
    """Signed distance of (x, y) to a stroke from ``start`` to ``end``, points (x, y).

    The stroke's radius changes evenly from ``start_radius`` to ``end_radius``.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = x - start[0], y - start[1]
    along = ((x * dx + y * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
    to_axis = ((x - along * dx) ** 2 + (y - along * dy) ** 2).sqrt()
    return to_axis - (start_radius * (1 - along) + end_radius * along)


def both(first: Tensor, *others: Tensor) -> Tensor:
    """Signed distance to the intersection of shapes, from their signed distances."""
    for other in others:
        first = torch.maximum(first, other)
    return first


def either(first: Tensor, *others: Tensor) -> Tensor:
    """Signed distance to the union of shapes, from their signed distances."""
    for other in others:
        first = torch.minimum(first, other)
    return first


def rgb(red: float, green: float, blue: float) -> Tensor:
    """A colour [1, 3, 1, 1], values in [0, 1]."""
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1)


def pixel_grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y of the pixel centres, each [1, size, size], from -1 (left, top) to 1."""
    ticks = (torch.arange(size) + 0.5) * (2.0 / size) - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return x[None], y[None]


class Bulge(NamedTuple):
    """Shading of a flat shape like part of a ball of this radius and centre."""

    radius: float | Tensor
    center_y: float | Tensor
    center_x: float | Tensor = 0.0
    strength: float = 1.0


class Canvas:
    """A picture in the making: what has been painted so far.

    image [n, 3, size, size] in [0, 1]; ink and figure [n, size, size] in [0, 1].
    x and y are the coordinates [n, size, size] in which the light (x, y) shades bulges.
    """

    def __init__(self, background: Tensor, x: Tensor, y: Tensor, light: tuple, look: "Look"):
        self.image = background
        self.ink = torch.zeros_like(x)
        self.figure = torch.zeros_like(x)
        self.x, self.y, self.light, self.look = x, y, light, look
        self.size = x.shape[-1]
        self.pixel = 2.0 / self.size
        self.line_width = look.line_width * self.pixel * 1.5

    def coverage(self, distance: Tensor) -> Tensor:
        """The share of each pixel that lies inside the shape of this signed distance, 0 .. 1."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def paint(
        self,
        distance: Tensor,
        color: Tensor,
        opacity: float | Tensor = 1.0,
        outline: float = 1.0,
        bulge: Bulge | None = None,
    ) -> None:
        """Fill the shape of signed `distance` with a colour [n or 1, 3, 1, 1].

        outline: how strongly to ink the edge of the shape; 0 only hides older ink. bulge: shading.
        """
        if isinstance(opacity, Tensor) and not opacity.any():
            return
        alpha = self.coverage(distance) * opacity
        if bulge is not None:
            color = color * (1 + self._shading(distance, bulge))[:, None]
        self.tint(alpha, color)
        torch.maximum(self.figure, alpha, out=self.figure)
        if not self.look.ink:
            return
        if outline > 0:
            self.ink.mul_(1 - alpha)
            self.draw(distance, opacity * outline)
        else:
            self.ink.mul_(1 - 0.9 * alpha)

    def tint(self, alpha: Tensor, color: Tensor) -> None:
        """Blend towards a colour without touching ink or figure; alpha [n, size, size]."""
        self.image.lerp_(color, alpha[:, None])

    def darken(self, amount: Tensor) -> None:
        """Multiply the image by 1 - amount [n, size, size]."""
        self.image.mul_((1 - amount)[:, None])

    def draw(self, distance: Tensor, strength: float | Tensor) -> None:
        """Ink the edge of the shape of this signed distance."""
        stroke = 1 - (distance.abs() / (self.line_width + 1e-4) - 0.6).clamp(0, 1)
        self.add_ink(stroke * strength)

    def add_ink(self, amount: Tensor) -> None:
        """Add ink [n, size, size], scaled by the style's; where there is more, that stays."""
        self.ink = torch.maximum(self.ink, amount * self.look.ink)

    def _shading(self, distance: Tensor, bulge: Bulge) -> Tensor:
        light_x, light_y = self.light
        lit = light_x * (self.x - bulge.center_x) + light_y * (self.y - bulge.center_y)
        rim = torch.exp(distance / (bulge.radius * 0.22)).clamp(max=1)
        relief = lit / bulge.radius * 0.16 - 0.20 * rim
        return relief * self.look.shading * bulge.strength
