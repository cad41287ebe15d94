"""The tiny world with a diffusion model for its generator.

    world = open_world("tiny", "diffusion-human")
    baby = world.adapt("air_lora", "diffusion-human-baby")
    images = world.draw(baby.apply(world.generator), 8)      # [8, 3, 64, 64]

x_T says nothing about a sitter, so no true target is known and nothing is paired; Frechet distances
are to fresh renders of the target domain. The model draws 32 pixels. The judges see 64, so whatever
is scored or shown is enlarged, references as well: they have lost the same detail before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.evaluation.features import Judge
from airlib.generators.diffusion import DiffusionGenerator
from airlib.profiles import Profile
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.renderer import render
from airlib.tinyworld.train_diffusion import enlarge, generator_of, reduce, world_diffusion
from airlib.worlds.base import World
from airlib.worlds.tiny import SOURCES, TinyWorld

PREFIX = "diffusion-"


@dataclass(frozen=True, eq=False)
class TinyDiffusionWorld(World):
    """The networks of `TinyWorld` around the world diffusion model, restricted to one domain."""

    knows_truth: ClassVar[bool] = False
    reference_rows: ClassVar[tuple[str, ...]] = TinyWorld.reference_rows

    @classmethod
    def open(cls, profile: Profile, source: str) -> Self:
        """The world diffusion model restricted to `source`, and the networks of `TinyWorld`."""
        generator = _restricted(SOURCES[source.removeprefix(PREFIX)], profile)
        return cls(profile, source, generator, cls.clip(profile), *cls.load_judges(profile))

    @classmethod
    def clip(cls, profile: Profile) -> ClipSpace:
        return TinyWorld.clip(profile)

    @classmethod
    def load_judges(cls, profile: Profile) -> tuple[tuple[Judge, ...], str]:
        return TinyWorld.load_judges(profile)

    def as_scored(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 3, 64, 64]."""
        return enlarge(images)

    def reference_images(self, pair: str) -> Iterable[Tensor]:
        n = self.profile.evaluation.references
        return enlarge(_renders(self._target(pair), n, "references")).split(50)

    def pictures(self, n: int) -> Tensor:
        """Renders [n, 3, 32, 32] of the source domain."""
        return _renders(SOURCES[self.source.removeprefix(PREFIX)], n, "pictures")

    def edited_truth(self, pair: str, n: int) -> Tensor:
        """The sitters of the first n `pictures` in the target domain [n, 3, 64, 64], enlarged."""
        return enlarge(_renders(self._target(pair), n, "pictures"))

    def row(self, name: str, pair: str) -> Iterable[Tensor]:
        """Images of a reference row: "source"; "prior", the world diffusion model told to draw the
        target domain; "truth", other renders of it than the references: the floor of a distance.
        """
        n = self.profile.evaluation.samples
        if name == "prior":
            return self.batches(_restricted(self._target(pair), self.profile), n)
        if name == "truth":
            return enlarge(_renders(self._target(pair), n, "evaluation")).split(50)
        return super().row(name, pair)

    def _target(self, pair: str) -> Domain:
        return Domain.parse(self.pair(pair).target)


def _renders(domain: Domain, n: int, purpose: str) -> Tensor:
    """Portraits [n, 3, 32, 32] of the sitters of one stream."""
    z = torch.randn(n, LATENT_DIM, generator=rng(0, "latents", purpose))
    return torch.cat([reduce(render(part, domain)) for part in z.split(50)])


def _restricted(domain: Domain, profile: Profile) -> DiffusionGenerator:
    return generator_of(world_diffusion(), domain, **profile.diffusion.as_dict())
