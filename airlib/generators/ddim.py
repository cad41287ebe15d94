r"""DDIM (Song et al. 2021): from a picture to noise and back, by the same deterministic move.

    x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
    x_u = sqrt(abar_u) x_0 + sqrt(1 - abar_u) eps

    ddim = DdimGenerator(unet, DdimSchedule(t0=400))
    latents = ddim.invert(pictures)                        # x at time t0
    images = ddim(latents)                                 # near `pictures`

eps is predicted from x_t, at the time that a move leaves, upwards as well as downwards. The times
are whole training steps, evenly spread from 0 to t0 as in DiffusionCLIP's code: a picture counts as
x_0 and is moved up to x_t0. Generation moves down again and then once more, from 0 to -1 where no
noise is left (abar = 1), a step of about 0.01 eps that inversion does not have.

diffusers has these moves too. Its schedulers spread their steps over all 1000 and keep abar in
float32; the dozen lines here end where they should, in the precision of their input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator as Rng
from torch import Tensor

from airlib.errors import AirlibError
from airlib.generators.base import Noise, images_at_once
from airlib.generators.diffusion import DiffusionGenerator

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
"""Share of the signal's variance that is left at each training step."""


@dataclass(frozen=True)
class DdimSchedule:
    """How far pictures are moved up to noise, and in how many steps; DiffusionCLIP's defaults.

    t0: the training step, 1 ... 999, that pictures are moved up to; the higher, the more an edit
    can change and the less of a picture stays. inversion_steps, steps: how many times from 0 to t0
    are visited on the way up and down. Raises AirlibError for numbers that are impossible.
    """

    t0: int = 400
    inversion_steps: int = 40
    steps: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.t0 < len(ABAR):
            raise AirlibError(f"no return from time {self.t0}; choose t0 from 1 to {len(ABAR) - 1}")
        for steps in (self.inversion_steps, self.steps):
            if not 2 <= steps <= self.t0 + 1:
                raise AirlibError(
                    f"{steps} steps between 0 and {self.t0} are impossible; "
                    f"choose 2 to {self.t0 + 1}"
                )


@dataclass(frozen=True, eq=False)
class InvertedImages:
    """Pictures [n, 3, H, W] in [-1, 1] and the latents [n, 3, H, W] that they were inverted to."""

    images: Tensor
    latents: Tensor

    def images_of(self, latents: Tensor) -> Tensor:
        """The pictures [B, 3, H, W] that latents [B, 3, H, W] were inverted from.

        Raises AirlibError for a latent that is not one of these pictures'.
        """
        known = self.latents.flatten(1).to(latents.device)
        same = (latents.flatten(1)[:, None] == known).all(dim=2)  # [B, n]
        if not same.any(dim=1).all():
            raise AirlibError(
                "a latent belongs to none of the inverted pictures; "
                "adapt the DdimGenerator that holds these pictures"
            )
        return self.images.to(latents.device)[same.int().argmax(dim=1)]

    def __deepcopy__(self, memo: dict) -> "InvertedImages":
        """The same object: copies of a generator share what nobody changes."""
        return self


def ddim_times(t0: int, steps: int) -> list[int]:
    """`steps` training steps from 0 to t0, evenly spread and cut to whole ones (699.99 is 699)."""
    return [int(t) for t in np.linspace(0, 1, steps) * t0]


def ddim(predict: Callable[[Tensor, Any], Tensor], x: Tensor, times: Sequence[int]) -> Tensor:
    """x at times[0] -> x at times[-1], all in -1 ... 999. predict(x, t): the noise in x at t."""
    for t, u in pairwise(times):
        (kept, added), (kept_u, added_u) = _scales(t), _scales(u)
        noise = predict(x, t)
        x = kept_u * ((x - added * noise) / kept) + added_u * noise
    return x


def _scales(t: int) -> tuple[float, float]:
    """sqrt(abar) and sqrt(1 - abar)."""
    abar = ABAR[t] if t >= 0 else 1.0
    return float(abar**0.5), float((1 - abar) ** 0.5)


class DdimGenerator(DiffusionGenerator):
    """`unet` as a generator whose latents are x at t0, for instance of inverted pictures.

    It has the weights of a `DiffusionGenerator` of the same UNet and no others, so an adaptation of
    one applies to the other.

    Args:
        pictures: what `sample_latents` draws from; without them it refuses.
        checkpointing, gradient_steps: as in `DiffusionGenerator`.
    """

    def __init__(
        self, unet: "UNet2DModel", schedule: DdimSchedule, pictures: InvertedImages | None = None,
        checkpointing: bool = False, gradient_steps: int | None = None,
    ):  # fmt: skip
        super().__init__(unet, schedule.steps, checkpointing, gradient_steps)
        self.schedule, self.pictures = schedule, pictures

    def sample_z(self, n: int, rng: Rng) -> Tensor:
        """Latents [n, 3, H, W] of the inverted pictures, in random order: all come once before one
        comes twice. Raises AirlibError if there are no pictures.
        """
        if self.pictures is None:
            raise AirlibError("there are no inverted pictures to draw from; pass `pictures`")
        latents = self.pictures.latents
        rounds = -(-n // len(latents))
        order = torch.cat([torch.randperm(len(latents), generator=rng) for _ in range(rounds)])
        return latents[order[:n].to(latents.device)].to(self.unet.device)

    def forward(self, latents: Tensor, noise: Noise = None) -> Tensor:
        if noise:
            raise AirlibError("a diffusion generator has no noise maps; pass noise=None")
        times = [*reversed(ddim_times(self.schedule.t0, self.steps)), -1]
        first = self.steps - self.gradient_steps  # moves without gradient
        with torch.no_grad():
            x = ddim(self._predict, latents, times[: first + 1])
        return ddim(self._predict, x, times[first:])

    @torch.no_grad()
    def invert(self, images: Tensor) -> Tensor:
        """Pictures [n, 3, H, W] in [-1, 1] -> latents [n, 3, H, W] that draw them: x at time t0."""
        times = ddim_times(self.schedule.t0, self.schedule.inversion_steps)
        parts = images.to(self.unet.device).split(images_at_once(self))
        return torch.cat([ddim(self._predict, part, times) for part in parts])
