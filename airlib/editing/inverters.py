r"""Pictures into latents of a source generator, and out again by an adapted one.

    picture --invert, source--> latents --draw, source--> reconstruction   (should be the picture)
                                        --draw, adapted--> edit            (should be of the target)

    inverter = ByEncoder(generator, load_encoder())                     # one pass
    inverter = BySearch(generator, perceptual, prior, config)           # II2S, from the mean latent
    inverter = BySearch(generator, perceptual, prior, config, encoder, curvature)  # and from there
    inverter = ByDdim(diffusion, DdimSchedule(t0=500))
    found = edit(inverter, air.apply(source), pictures)   # .latents .reconstruction .errors .edited
    inverter.draw(nada.apply(source), found.latents)      # by another model, inverted once

With a StyleGAN2 latents are w+ (AIR, supplement, Fig. 9); an inversion encoder takes pictures
[n, 3, H, H] of the generator's size to them: `tinyworld.inversion_encoder`, or an e4e or ReStyle of
faces (`generators.restyle`). With a diffusion model latents are x at the return time t0 of DDIM, as
in DiffusionCLIP (Kim et al. 2022) and AIR (supplement E.2, Fig. 10); t0 decides how much can
change: 400 of 1000 is the default of DiffusionCLIP, its examples have up to 601. The error of the
reconstruction is what the way there and back costs without any adaptation; no edit keeps more.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from airlib.editing.curvature import Curvature
from airlib.editing.inversion import Inversion, InversionConfig, errors_of, invert
from airlib.editing.p_norm import PNorm
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.base import Generator, images_at_once
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.stylegan2 import StyleGAN2
from airlib.images.checks import checked_pictures

InversionEncoder = Callable[[Tensor], Tensor]  # pictures [n, 3, H, H] -> w+ [n, num_ws, w_dim]


class Inverter(Protocol):
    """A way to invert pictures by one source generator: `ByEncoder`, `BySearch` or `ByDdim`."""

    @property
    def generator(self) -> Generator:
        """The source generator, which inverts."""

    def __call__(self, images: Tensor) -> Inversion:
        """The inversion of pictures [n, 3, H, H] in [-1, 1] of the generator's size.

        Raises AirlibError for other shapes, sizes and ranges, and for NaN.
        """

    def draw(self, generator: Any, latents: Tensor) -> Tensor:
        """Images [n, 3, H, H] that `generator`, the source or an adapted copy, makes of latents."""


@dataclass(frozen=True, eq=False)
class ByEncoder:
    """An inverter in one pass: latents are w+ as an inversion encoder sees them.

    Errors of the inversion have "perceptual" if `perceptual` is given.
    """

    generator: StyleGAN2
    encoder: InversionEncoder
    perceptual: PerceptualEmbedding | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        latents = encoded(self.encoder, images)
        reconstruction = self.draw(self.generator, latents)
        errors = errors_of(reconstruction, images, self.perceptual)
        return Inversion(latents, reconstruction, errors)

    def draw(self, generator: StyleGAN2, latents: Tensor) -> Tensor:
        """Images [n, 3, H, H] that the source or an adapted copy draws of w+ [n, num_ws, w_dim]."""
        return drawn(generator, latents)


@dataclass(frozen=True, eq=False)
class BySearch:
    """An inverter that searches for w+ (`inversion.invert`; II2S, Zhu et al. 2020).

    The search starts at the latents of the inversion encoder, or at the mean latent without one.
    curvature: the coordinates of the search; None: w+ itself.
    """

    generator: StyleGAN2
    perceptual: PerceptualEmbedding
    prior: PNorm
    config: InversionConfig = field(default_factory=InversionConfig)
    encoder: InversionEncoder | None = None
    curvature: Curvature | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        start = None if self.encoder is None else encoded(self.encoder, images)
        return invert(
            self.generator, images, self.perceptual, self.prior, self.config, start, self.curvature
        )

    def draw(self, generator: StyleGAN2, latents: Tensor) -> Tensor:
        """Images [n, 3, H, H] that the source or an adapted copy draws of w+ [n, num_ws, w_dim]."""
        return drawn(generator, latents)


@dataclass(frozen=True, eq=False)
class ByDdim:
    """An inverter by DDIM: up to t0 of a schedule and down again; latents are x at t0.

    Latents are [n, 3, H, H]. Errors of the inversion have "perceptual" if `perceptual` is given.
    """

    generator: DiffusionGenerator
    schedule: DdimSchedule = field(default_factory=DdimSchedule)
    perceptual: PerceptualEmbedding | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        latents = DdimGenerator(self.generator.unet, self.schedule).invert(images)
        reconstruction = self.draw(self.generator, latents)
        errors = errors_of(reconstruction, images, self.perceptual)
        return Inversion(latents, reconstruction, errors)

    def draw(self, generator: DiffusionGenerator, latents: Tensor) -> Tensor:
        """Images [n, 3, H, H] that the source or an adapted copy draws of x at t0, [n, 3, H, H]."""
        return drawn(DdimGenerator(generator.unet, self.schedule), latents)


@dataclass(frozen=True, eq=False)
class Manipulation(Inversion):
    """An inversion by the source generator, and the pictures as an adapted model draws them.

    edited: images [n, 3, H, W] that the adapted model makes of the inversion's latents.
    """

    edited: Tensor


def edit(inverter: Inverter, adapted: Generator, images: Tensor) -> Manipulation:
    """Invert pictures [n, 3, H, H] in [-1, 1], and draw their latents with `adapted`.

    Raises AirlibError for other shapes, sizes and ranges, for NaN, and if the models do not fit.
    """
    if adapted.resolution != inverter.generator.resolution:
        raise AirlibError(
            f"the source draws {inverter.generator.resolution} pixels and the adapted model "
            f"{adapted.resolution}; edit with an adaptation of this source"
        )
    found = inverter(images)
    edited = inverter.draw(adapted, found.latents)
    return Manipulation(found.latents, found.reconstruction, found.errors, edited)


@torch.no_grad()
def encoded(encoder: InversionEncoder, images: Tensor) -> Tensor:
    """Latents w+ [n, num_ws, w_dim] of images [n, 3, H, H], by an inversion encoder.

    A few images are read at a time, without gradients.
    """
    return torch.cat([encoder(part) for part in images.split(8)])


@torch.no_grad()
def drawn(generator: Generator, latents: Tensor) -> Tensor:
    """Images [n, 3, H, H] of latents, without noise maps and gradients, a few at a time."""
    return torch.cat([generator(part) for part in latents.split(images_at_once(generator))])


def _checked(generator: Generator, images: Tensor) -> Tensor:
    device = next(generator.parameters()).device
    return checked_pictures(images, generator.resolution).to(device)
