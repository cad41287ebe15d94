"""What every generator offers, whether it is a GAN or a diffusion model.

Methods see a generator only through this protocol, so they never ask which kind they hold:

    latents = generator.sample_latents(4, rng)      # shared by source, anchor and adapted copy
    noise = generator.sample_noise(4, rng)          # the same maps for all three
    images = generator(latents, noise)              # [4, 3, H, W] in [-1, 1]

The mapping network is frozen in every method of both papers, so a latent is what enters the part
that moves: w of a StyleGAN2, x_T of a diffusion model, which has no mapping network.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import torch
from torch import Generator as Rng
from torch import Tensor, nn

Noise = list[Tensor] | str | None


def images_at_once(generator: "Generator") -> int:
    """How many images to draw in one batch without gradients: 4 of 1024 pixels, 50 of 64."""
    return min(50, max(1, 4 * 1024**2 // generator.resolution**2))


class Generator(Protocol):
    """A differentiable image generator whose layers can be chosen and copied."""

    resolution: int
    num_layers: int

    def sample_z(self, n: int, rng: Rng) -> Tensor:
        """Standard normal [n, ...]: what latents are mapped from."""

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z -> latents; z itself where there is no mapping network."""

    def sample_latents(self, n: int, rng: Rng, truncation: float = 1.0) -> Tensor:
        """Latents [n, ...], without gradient."""

    def sample_noise(self, n: int, rng: Rng) -> list[Tensor]:
        """One set of noise maps for n images."""

    def __call__(self, latents: Tensor, noise: Noise = None) -> Tensor:
        """Images [B, 3, H, W], nominally in [-1, 1]."""

    def layer(self, index: int) -> nn.Module:
        """The index-th layer that NADA's adaptive selection may choose, 0 <= index < num_layers."""

    def with_mapping(self) -> Self:
        """The same with everything inside that can be trained, and z for latents."""

    def copy_frozen(self) -> Self:
        """An independent copy without gradients."""


class DrawnBatches(Sequence[Tensor]):
    """Images [B, 3, H, W] of latents, drawn whenever a batch is asked for; finish: applied last."""

    def __init__(self, generator: Generator, latents: Tensor, finish: Callable[[Tensor], Tensor]):
        self.generator, self.finish = generator, finish
        self.parts = latents.split(images_at_once(generator))

    def __len__(self) -> int:
        return len(self.parts)

    @torch.no_grad()
    def __getitem__(self, index: int) -> Tensor:
        return self.finish(self.generator(self.parts[index]))
