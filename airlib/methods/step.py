"""One training step as an objective sees it: shared latents, and embeddings that are computed once.

`source`, `anchor` and `adapted` images of a step come from the same latents and (by default) the
same noise maps. Whatever two loss terms both need, such as the embedding of the adapted image, is
computed for the first and reused by the second.
"""

from functools import cached_property
from typing import Protocol

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.clip_space.augmentation import random_views
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import SMALLEST_OFFSET
from airlib.generators.base import Noise
from airlib.seeding import rng

PERTURBATION = 0.02  # of the image range's half width, see `offsets_from`


class Step:
    """Step `index` of `total`: latents [B, ...], noise and embeddings [views * B, D], one per CLIP
    model.
    """

    def __init__(
        self, index: int, total: int, seed: int, source: nn.Module, adapted: nn.Module,
        space: ClipSpace, latents: Tensor, views: int, noise: str,
    ):  # fmt: skip
        self.index, self.total, self.seed = index, total, seed
        self.source, self.adapted, self.space = source, adapted, space
        self.latents, self.views, self._noise_mode = latents, views, noise

    def rng(self, *purpose: str | int) -> Rng:
        """The stream of this step for one purpose."""
        return rng(self.seed, "step", self.index, *purpose)

    def noise(self, who: str) -> Noise:
        """Noise maps of `who`: everybody's ("shared"), its own ("independent"), or none."""
        if self._noise_mode == "none":
            return None
        name = "everybody" if self._noise_mode == "shared" else who
        return self.source.sample_noise(len(self.latents), self.rng("noise", name))

    def embed(self, images: Tensor, who: str) -> list[Tensor]:
        """Images -> embeddings of their random views (or of themselves, with views = 0)."""
        if self.views:
            images = random_views(images, self.views, self.rng("views", who))
        return self.space.embed_images(images)

    @cached_property
    def adapted_images(self) -> Tensor:
        """[B, 3, H, W] with gradient."""
        return self.adapted(self.latents, self.noise("adapted"))

    @cached_property
    def adapted_embeddings(self) -> list[Tensor]:
        return self.embed(self.adapted_images, "adapted")

    @cached_property
    def source_images(self) -> Tensor:
        with torch.no_grad():
            return self.source(self.latents, self.noise("source"))

    @cached_property
    def source_embeddings(self) -> list[Tensor]:
        with torch.no_grad():
            return self.embed(self.source_images, "source")

    @torch.no_grad()
    def embeddings_of(self, generator: nn.Module, who: str) -> list[Tensor]:
        """Embeddings of another frozen generator at this step's latents."""
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
    """A loss with memory.

    settings: what two runs must share for one to continue the other (JSON values).
    """

    settings: dict

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Named scalar terms; the loop sums them with the weights of its configuration."""

    def events(self) -> list[dict]:
        """What happened since the last call, for the log (JSON values)."""

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor], adapted: nn.Module) -> None:
        """Restore `state`; `adapted` supplies architectures."""


class Regularizer(Protocol):
    """One more term beside any objective, without memory; see `airlib.methods.regularizers`."""

    name: str
    weight: float
    settings: dict

    def __call__(self, step: Step) -> Tensor:
        """Its value, a scalar, before the weight."""


class WithoutMemory:
    """What the loop wants of an objective, for one that remembers nothing from step to step."""

    def events(self) -> list[dict]:
        """Nothing happens between steps."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Nothing changes during training."""
        return {}

    def load_state(self, state: dict[str, Tensor], adapted: nn.Module) -> None:
        """Nothing to restore."""
