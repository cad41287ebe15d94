"""Every way to invert behind one interface: pictures in, latents, reconstruction and errors out.

    inverter = ByEncoder(generator, load_encoder())                     # one pass
    inverter = BySearch(generator, perceptual, prior, config)           # II2S, from the mean latent
    inverter = BySearch(generator, perceptual, prior, config, encoder, curvature)  # and from there
    inverter = ByDdim(diffusion, DdimSchedule(t0=500))
    found = inverter(pictures)                     # .latents .reconstruction .errors
    inverter.draw(adapted, found.latents)          # the same sitters by another model

An encoder takes pictures [n, 3, H, H] of the generator's size to its latents: `encoders.tiny`, or
an e4e or ReStyle of faces (`encoders.restyle`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from airlib.editing.curvature import Curvature
from airlib.editing.inversion import Inversion, InversionConfig, errors_of, invert
from airlib.editing.p_norm import PNorm
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.base import Generator, images_at_once
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.reference import checked_pictures

Encoder = Callable[[Tensor], Tensor]


class Inverter(Protocol):
    """A way to invert pictures by one source generator."""

    generator: Generator

    def __call__(self, images: Tensor) -> Inversion:
        """Of pictures [n, 3, H, H] in [-1, 1]; AirlibError for others, and for NaN."""

    def draw(self, generator: Generator, latents: Tensor) -> Tensor:
        """Images [n, 3, H, H] that `generator`, the source or an adapted copy, makes of latents."""


@dataclass(frozen=True, eq=False)
class ByEncoder:
    """Latents as an encoder sees them; errors have "perceptual" if it is given."""

    generator: StyleGAN2
    encoder: Encoder
    perceptual: PerceptualEmbedding | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        latents = encoded(self.encoder, images)
        drawn = self.draw(self.generator, latents)
        return Inversion(latents, drawn, errors_of(drawn, images, self.perceptual))

    def draw(self, generator: StyleGAN2, latents: Tensor) -> Tensor:
        return drawn(generator, latents)


@dataclass(frozen=True, eq=False)
class BySearch:
    """`inversion.invert`, starting from the mean latent or from an encoder's."""

    generator: StyleGAN2
    perceptual: PerceptualEmbedding
    prior: PNorm
    config: InversionConfig = field(default_factory=InversionConfig)
    encoder: Encoder | None = None
    curvature: Curvature | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        start = None if self.encoder is None else encoded(self.encoder, images)
        return invert(
            self.generator, images, self.perceptual, self.prior, self.config, start, self.curvature
        )

    def draw(self, generator: StyleGAN2, latents: Tensor) -> Tensor:
        return drawn(generator, latents)


@dataclass(frozen=True, eq=False)
class ByDdim:
    """Up to t0 of a schedule and down again; latents are x at t0, [n, 3, H, H]."""

    generator: DiffusionGenerator
    schedule: DdimSchedule = field(default_factory=DdimSchedule)
    perceptual: PerceptualEmbedding | None = None

    def __call__(self, images: Tensor) -> Inversion:
        images = _checked(self.generator, images)
        latents = DdimGenerator(self.generator.unet, self.schedule).invert(images)
        drawn = self.draw(self.generator, latents)
        return Inversion(latents, drawn, errors_of(drawn, images, self.perceptual))

    def draw(self, generator: DiffusionGenerator, latents: Tensor) -> Tensor:
        return drawn(DdimGenerator(generator.unet, self.schedule), latents)


@torch.no_grad()
def encoded(encoder: Encoder, images: Tensor) -> Tensor:
    """Latents of images [n, 3, H, H], a few at a time."""
    return torch.cat([encoder(part) for part in images.split(8)])


@torch.no_grad()
def drawn(generator: Generator, latents: Tensor) -> Tensor:
    """Images of latents, without noise maps, a few at a time."""
    return torch.cat([generator(part) for part in latents.split(images_at_once(generator))])


def _checked(generator: Generator, images: Tensor) -> Tensor:
    device = next(generator.parameters()).device
    return checked_pictures(images, generator.resolution).to(device)
