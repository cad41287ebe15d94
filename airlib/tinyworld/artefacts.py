"""Damage as generators make it, in known amounts: what the judges learn to see and are examined on.

Every kind takes images [n, 3, H, W] in [-1, 1], severities [n] in (0, 1] and a generator, and
returns damaged images of the same shape. Severity 0.3 is visible at a second look, 1 at the first.
`damage_randomly` applies a few of them and returns the severities as training targets. `attack` is
the damage that nobody sees but the network it is aimed at.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CLEAN_SHARE = 0.35  # of the images `damage_randomly` leaves alone
SECOND_SHARE = 0.3  # of the damaged ones that get two kinds


def _normal(n: int, rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=rng)


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=rng)


def _smooth_field(n: int, channels: int, cells: int, size: tuple, rng: torch.Generator) -> Tensor:
    """Smooth random fields [n, channels, H, W], about unit variance, `cells` bumps across."""
    coarse = _normal(n, rng, channels, cells, cells)
    return 1.3 * F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates: rows [1, 1, H, 1] and columns [1, 1, 1, W]."""
    height, width = images.shape[2:]
    return torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)


def _somewhere(images: Tensor, rng: torch.Generator) -> Tensor:
    """Soft random regions [n, 1, H, W] in [0, 1]: most artefacts cover a part of the image only."""
    return torch.sigmoid(4 * _smooth_field(len(images), 1, 4, images.shape[2:], rng) + 2)


def dots(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """A grid of coloured dots 3 to 9 pixels apart, as adapted generators grow on skin."""
    n = len(images)
    rows, columns = _grid(images)
    period = _uniform(n, 3, 9, rng)
    phase = 2 * torch.pi * torch.rand(2, n, 1, 1, 1, generator=rng)
    wave = torch.cos(2 * torch.pi * rows / period + phase[0])
    wave = wave + torch.cos(2 * torch.pi * columns / period + phase[1])
    spots = (wave - 0.6).clamp(min=0) / 1.4  # [n, 1, H, W], 1 at the centre of a dot
    color = _normal(n, rng, 3, 1, 1)
    color = color / color.norm(dim=1, keepdim=True) * 1.5
    return images + _amount(severity, 0.9) * color * spots * _somewhere(images, rng)


def checkerboard(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """Alternating squares of 1, 2 or 4 pixels, the trace of up-sampling convolutions."""
    n = len(images)
    rows, columns = _grid(images)
    cell = 2 ** torch.randint(0, 3, (n, 1, 1, 1), generator=rng)
    board = ((rows // cell + columns // cell) % 2 * 2 - 1).float()  # [n, 1, H, W], +-1
    color = 1 + 0.5 * _normal(n, rng, 3, 1, 1)
    return images + _amount(severity, 0.35) * color * board * _somewhere(images, rng)


def blur(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian blur with a standard deviation of up to 2.5 pixels; draws nothing from `rng`."""
    n, channels = images.shape[:2]
    offsets = torch.arange(-6, 7)
    sigma = (0.3 + 2.2 * severity).view(n, 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [n * 3, 13]
    x = F.pad(images, (6, 6, 6, 6), mode="replicate").flatten(0, 1)[None]  # [1, n * 3, H, W]
    x = F.conv2d(x, kernel[:, None, :, None], groups=n * channels)
    x = F.conv2d(x, kernel[:, None, None, :], groups=n * channels)
    return x.view_as(images)


def noise(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """Pixel noise, or blotches of 2 to 4 pixels."""
    n = len(images)
    height, width = images.shape[2:]
    fine = _normal(n, rng, 3, height, width)
    coarse = _normal(n, rng, 3, height // 4, width // 4)
    coarse = 1.3 * F.interpolate(coarse, size=(height, width), mode="bilinear")
    is_fine = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
    return images + _amount(severity, 0.3) * torch.where(is_fine, fine, coarse)


def color_cast(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """A tint that drifts over the image: bright blotches, green faces."""
    n = len(images)
    even = _normal(n, rng, 3, 1, 1)
    uneven = _smooth_field(n, 3, 3, images.shape[2:], rng)
    return images + _amount(severity, 0.45) * (even + uneven) / 2**0.5


def patches(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """A rectangle of up to half the height and width, cut from another image of the batch."""
    n = len(images)
    height, width = images.shape[2:]
    rows, columns = _grid(images)
    extent = 0.5 * severity.clamp(max=1).sqrt().view(n, 1, 1, 1)
    top = height * _uniform(n, 0, 1, rng) * (1 - extent)
    left = width * _uniform(n, 0, 1, rng) * (1 - extent)
    inside = (rows >= top) & (rows < top + height * extent)
    inside = inside & (columns >= left) & (columns < left + width * extent)
    other = images.roll(1, 0).flip(2) if n > 1 else images.flip(2)
    return torch.where(inside, other, images)


def warp(images: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """A smooth random displacement of a few pixels: smeared shapes, lopsided faces."""
    n = len(images)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    where = F.affine_grid(identity, list(images.shape), align_corners=False)  # [n, H, W, 2]
    shift = _smooth_field(n, 2, 5, images.shape[2:], rng).permute(0, 2, 3, 1)
    where = where + _amount(severity, 0.14) * shift
    return F.grid_sample(images, where, padding_mode="reflection", align_corners=False)


def _amount(severity: Tensor, at_full: float) -> Tensor:
    return at_full * severity.view(-1, 1, 1, 1)


KINDS = {  # in the order in which they are applied: a late blur would hide the patterns
    "patches": patches,
    "warp": warp,
    "blur": blur,
    "color_cast": color_cast,
    "noise": noise,
    "dots": dots,
    "checkerboard": checkerboard,
}


def damage(images: Tensor, kind: str, severity: float, rng: torch.Generator) -> Tensor:
    """Images [n, 3, H, W] in [-1, 1], all damaged in one way and to one degree, and clipped.

    kind: a key of `KINDS`. severity: in (0, 1]; 0.3 is visible at a second look, 1 at the first.
    """
    return KINDS[kind](images, torch.full((len(images),), severity), rng).clamp(-1, 1)


def damage_randomly(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Damage a batch as the judge sees it in training.

    Returns the images [n, 3, H, W] in [-1, 1] and the severity of each kind [n, len(KINDS)], 0
    where it was not applied. Each image gets none, one or two kinds.
    """
    n = len(images)
    first = torch.rand(n, generator=rng) >= CLEAN_SHARE
    second = first & (torch.rand(n, generator=rng) < SECOND_SHARE)
    order = torch.rand(n, len(KINDS), generator=rng).argsort(1)
    severity = torch.zeros(n, len(KINDS))
    for chosen, position in ((first, 0), (second, 1)):
        rows = chosen.nonzero()[:, 0]
        severity[rows, order[rows, position]] = 0.05 + 0.95 * torch.rand(len(rows), generator=rng)
    damaged = images.clone()
    for column, function in enumerate(KINDS.values()):
        rows = severity[:, column].nonzero()[:, 0]
        if len(rows):
            damaged[rows] = function(damaged[rows], severity[rows, column], rng)
    return damaged.clamp(-1, 1), severity


def attack(
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    max_radius: float,
    rng: torch.Generator,
    steps: int = 1,
) -> Tensor:
    """`images` [n, 3, H, W] moved to raise `loss(images)`, each by at most a random L2 norm.

    Gradient steps from a random start, each as long as the radius and projected back into it: one
    (Wong et al. 2020, "Fast is better than free") or more (Madry et al. 2018). The norms are
    uniform in [0, max_radius]. Nothing is clipped.
    """
    radius = max_radius * torch.rand(len(images), 1, 1, 1, generator=rng)
    change = 0.5 * radius * _unit(torch.randn(images.shape, generator=rng))
    for _ in range(steps):
        moved = (images + change).requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        change = change + radius * _unit(gradient)
        change = _unit(change) * torch.minimum(_norm(change), radius)
    return images + change


def _norm(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _unit(images: Tensor) -> Tensor:
    return images / _norm(images).clamp_min(1e-12)
