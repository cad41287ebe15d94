"""What every generator offers, whether it is a GAN or a diffusion model.

Methods see a generator only through this class, so they never ask which kind they hold:

    latents = generator.sample_latents(4, rng)      # shared by source, anchor and adapted copy
    noise = generator.sample_noise(4, rng)          # the same maps for all three
    images = generator(latents, noise)              # [4, 3, H, W] in [-1, 1]

The mapping network is frozen in every method of both papers, so a latent is what enters the part
that moves: w of a StyleGAN2, x_T of a diffusion model, which has no mapping network.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self, overload

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.progress import beat

Noise = list[Tensor] | str | None


def images_at_once(generator: "Generator") -> int:
    """How many images of `generator` to draw in one batch without gradients: 4 of 1024 pixels, 50
    of 64 pixels or fewer.
    """
    return min(50, max(1, 4 * 1024**2 // generator.resolution**2))


class Generator(nn.Module, ABC):
    """A differentiable image generator whose layers can be chosen and copied.

    resolution: height and width of its images.
    """

    resolution: int

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """How many layers NADA's adaptive selection may choose from."""

    @abstractmethod
    def sample_z(self, n: int, rng: Rng) -> Tensor:
        """Standard normal [n, ...] on the generator's device: what latents are mapped from."""

    @abstractmethod
    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [n, ...] -> latents [n, ...]; z itself where there is no mapping network.

        truncation: 1 is none, 0 the mean latent. Raises AirlibError where there is no truncation.
        """

    def sample_latents(self, n: int, rng: Rng, truncation: float = 1.0) -> Tensor:
        """Latents [n, ...] of `sample_z`, mapped, without gradient."""
        return self.map(self.sample_z(n, rng), truncation)

    @abstractmethod
    def sample_noise(self, n: int, rng: Rng) -> list[Tensor]:
        """One set of noise maps for n images: a tensor [n, 1, r, r] per layer that takes noise."""

    @abstractmethod
    def forward(self, latents: Tensor, noise: Noise = None) -> Tensor:
        """Images [B, 3, H, W], nominally in [-1, 1], of latents [B, ...].

        noise: the maps of `sample_noise`, "const" for the fixed maps of a StyleGAN2, None for none.
        """

    @abstractmethod
    def layer(self, index: int) -> nn.Module:
        """The index-th layer that NADA's adaptive selection may choose, 0 <= index < num_layers."""

    @abstractmethod
    def with_mapping(self) -> "Generator":
        """A frozen copy that draws the same images from z, everything trainable inside.

        A generator that has no mapping network returns itself.
        """

    def copy_frozen(self) -> Self:
        """An independent copy without gradients, in evaluation mode."""
        return copy.deepcopy(self).requires_grad_(False).eval()


class DrawnBatches(Sequence[Tensor]):
    """Images [B, 3, H, W] of latents [n, ...], drawn whenever a batch is asked for.

    finish: applied to each batch of images before it is returned.
    """

    def __init__(self, generator: Generator, latents: Tensor, finish: Callable[[Tensor], Tensor]):
        self.generator, self.finish = generator, finish
        self.parts = latents.split(images_at_once(generator))

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    @torch.no_grad()
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        beat()
        return self.finish(self.generator(self.parts[index]))
