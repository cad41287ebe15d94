"""One training step as an objective sees it: shared latents, and embeddings that are computed once.

`source`, `anchor` and `adapted` images of a step come from the same latents and (by default) the
same noise maps. Whatever two loss terms both need, such as the embedding of the adapted image, is
computed for the first and reused by the second.
"""

from functools import cached_property
from typing import Protocol

import torch
from torch import Generator as Rng
from torch import Tensor

from airlib.clip_space.augmentation import random_views
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import SMALLEST_OFFSET
from airlib.generators.base import Generator, Noise
from airlib.seeding import rng

PERTURBATION = 0.02  # of the image range's half width, see `offsets_from`


class Step:
    """Step `index` (from 0) of `total`: what an objective reads its loss from.

    latents: [B, ...], shared by `source` and `adapted`. views: random views of each image that CLIP
    sees (0: the image itself). noise: "shared", "independent" or "none". Images are drawn and
    embedded when they are first asked for, and then kept.
    """

    def __init__(
        self, index: int, total: int, seed: int, source: Generator, adapted: Generator,
        space: ClipSpace, latents: Tensor, views: int, noise: str,
    ):  # fmt: skip
        self.index, self.total, self.seed = index, total, seed
        self.source, self.adapted, self.space = source, adapted, space
        self.latents, self.views, self._noise_mode = latents, views, noise

    def rng(self, *purpose: str | int) -> Rng:
        """Random numbers of this step for one purpose: the same in every run with this seed."""
        return rng(self.seed, "step", self.index, *purpose)

    def noise(self, who: str) -> Noise:
        """Noise maps for the images of `who` ("source", "adapted", "anchor"): those of everybody
        ("shared"), its own ("independent"), or None.
        """
        if self._noise_mode == "none":
            return None
        name = "everybody" if self._noise_mode == "shared" else who
        return self.source.sample_noise(len(self.latents), self.rng("noise", name))

    def embed(self, images: Tensor, who: str) -> list[Tensor]:
        """Images [B, 3, H, W] -> unit embeddings [views * B, D] of their random views per CLIP
        model; with views = 0 those [B, D] of the images themselves.
        """
        if self.views:
            images = random_views(images, self.views, self.rng("views", who))
        return self.space.embed_images(images)

    @cached_property
    def adapted_images(self) -> Tensor:
        """Images [B, 3, H, W] of the adapted generator, with gradient."""
        return self.adapted(self.latents, self.noise("adapted"))

    @cached_property
    def adapted_embeddings(self) -> list[Tensor]:
        """Unit embeddings [views * B, D] of `adapted_images` per CLIP model, with gradient."""
        return self.embed(self.adapted_images, "adapted")

    @cached_property
    def source_images(self) -> Tensor:
        """Images [B, 3, H, W] of the source generator, without gradient."""
        with torch.no_grad():
            return self.source(self.latents, self.noise("source"))

    @cached_property
    def source_embeddings(self) -> list[Tensor]:
        """Unit embeddings [views * B, D] of `source_images` per CLIP model, without gradient."""
        with torch.no_grad():
            return self.embed(self.source_images, "source")

    @torch.no_grad()
    def embeddings_of(self, generator: Generator, who: str) -> list[Tensor]:
        """Unit embeddings [views * B, D] per CLIP model of what another frozen generator draws from
        this step's latents. who: its name in the noise and view streams.
        """
        return self.embed(generator(self.latents, self.noise(who)), who)

    def offsets_from(self, reference: list[Tensor]) -> list[Tensor]:
        """Adapted minus reference embeddings, one [views * B, D] per CLIP model, with gradient.

        Where the adapted generator still equals the reference the offset is zero and has no
        direction. AIR (section 4) perturbs the adapted image in that case, which is done here for
        every method.
        """
        offsets = [a - r for a, r in zip(self.adapted_embeddings, reference, strict=True)]
        if all(bool((o.detach().norm(dim=1) > SMALLEST_OFFSET).all()) for o in offsets):
            return offsets
        jitter = torch.randn(self.adapted_images.shape, generator=self.rng("perturbation"))
        perturbed = self.adapted_images + PERTURBATION * jitter.to(self.adapted_images.device)
        embeddings = self.embed(perturbed, "adapted")
        return [e - r for e, r in zip(embeddings, reference, strict=True)]


class Objective(Protocol):
    """What pulls a generator: a loss, and whatever it must remember from step to step.

    settings: {"method": its name, ...} and all else that two runs must share for one to continue
    the other (JSON values). One that remembers nothing inherits the rest from `WithoutMemory`.
    """

    settings: dict

    def begin(self, source: Generator, adapted: Generator) -> None:
        """What comes before the first step, such as a first stage of training; not called again
        when a run is resumed.
        """

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """The loss terms of one step by name, scalars with gradient. The loop adds them up, each
        with the weight that its configuration gives the name (default 1).
        """

    def events(self) -> list[dict]:
        """What happened since the last call, for the log of the run (JSON values)."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Restore what `state` returned; `adapted` supplies the architecture of generators."""


class Regularizer(Protocol):
    """One more loss term beside any objective, without memory; see `airlib.methods.regularizers`.

    name: of the term in the log. weight: its factor in the sum. settings: as of an `Objective`.
    """

    name: str
    weight: float
    settings: dict

    def __call__(self, step: Step) -> Tensor:
        """The term of one step, a scalar with gradient, before the weight."""


class WithoutMemory:
    """The part of an `Objective` that is the same for every loss without memory: inherit from this
    and write `settings` and `__call__`.

    generator: what is adapted in place of the world's generator, for a method that makes its own.
    """

    generator: Generator | None = None

    def begin(self, source: Generator, adapted: Generator) -> None:
        """Nothing comes before the first step."""

    def events(self) -> list[dict]:
        """Nothing happens between steps."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Nothing changes during training."""
        return {}

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Nothing to restore."""
