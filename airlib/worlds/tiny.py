"""The tiny world: shipped weights, two judges, and a renderer that knows every right answer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.evaluation.features import PAIRED, Judge, Reference
from airlib.evaluation.protocols import Scores
from airlib.evaluation.truth_gap import GapReference, TruthGap
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.nada import NADA
from airlib.profiles import Profile
from airlib.results import Metric
from airlib.tinyworld import train_generator
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.judge import NETWORKS, load_judge
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shipped import WEIGHTS
from airlib.tinyworld.tiny_clip import tiny_encoder
from airlib.tinyworld.train_generator import (
    GeneratorTask,
    NarrowGeneratorTask,
    condition,
    world_generator,
)
from airlib.worlds.base import World
from airlib.worlds.memory import remembered
from airlib.worlds.numbers import is_by_picture, is_method

SOURCES = {domain.species: domain for domain in train_generator.SOURCES}
GAP_SAMPLES = 96  # latents of a truth gap


@dataclass(frozen=True, eq=False)
class TinyWorld(World):
    """The embedded world, in which any latent can be drawn in any domain."""

    knows_truth: ClassVar[bool] = True
    reference_rows: ClassVar[tuple[str, ...]] = ("source", "prior", "truth")

    @classmethod
    def open(cls, profile: Profile, source: str) -> Self:
        """The world generator restricted to `source` (human or dog), and the networks around it."""
        generator, judges = _restricted(SOURCES[source]), cls.load_judges(profile)
        return cls(profile, source, generator, cls.clip(profile), *judges)

    @classmethod
    def clip(cls, profile: Profile) -> ClipSpace:
        """The tiny CLIP, once for each weight of the profile."""
        numbers = profile.world
        encoders = [tiny_encoder(antialias=numbers.clip_antialias) for _ in numbers.clip_weights]
        return ClipSpace(list(zip(encoders, numbers.clip_weights, strict=True)))

    @classmethod
    def load_judges(cls, profile: Profile) -> tuple[tuple[Judge, ...], str]:
        """The convolutional judge and the transformer, both shipped, and ""."""
        return tuple(load_judge(name) for name in NETWORKS), ""

    def narrow(self) -> "TinyWorld":
        """A copy of the world whose source generator has seen nothing but people."""
        if SOURCES[self.source] != NarrowGeneratorTask.domain:
            raise AirlibError(f"the narrow generator draws people, not {self.source}s")
        return replace(self, generator=_restricted(SOURCES[self.source], NarrowGeneratorTask.name))

    def target_generator(self, pair: str) -> StyleGAN2:
        """The world generator restricted to the pair's target domain, which it has seen."""
        return _restricted(Domain.parse(self.pair(pair).target))

    def truth(self, pair: str, z: Tensor) -> Tensor:
        """The true target image of each latent [N, 3, H, W], drawn by the renderer."""
        return render(z, Domain.parse(self.pair(pair).target))

    def reference_images(self, pair: str) -> Iterable[Tensor]:
        """Renders of the target domain, of sitters who are in no other set."""
        return self.truth(pair, self.z(self.profile.evaluation.references, "references")).split(50)

    def pictures(self, n: int) -> Tensor:
        """n renders [n, 3, 64, 64] of the source domain."""
        return render(self.z(n, "pictures"), SOURCES[self.source])

    def edited_truth(self, pair: str, n: int) -> Tensor:
        """The sitters of the first n `pictures` in the target domain [n, 3, 64, 64]."""
        return self.truth(pair, self.z(n, "pictures"))

    def true_targets(self, pair: str) -> Tensor:
        return self.truth(pair, self.z(min(PAIRED, self.profile.evaluation.samples)))

    def row(self, name: str, pair: str) -> Iterable[Tensor]:
        """Images of a reference row: "source"; "prior", the world generator told to draw the target
        domain (what a perfect adaptation of these weights would give); "truth", the true targets.

        The truth are the latents' own targets: paired distances are 0 by definition, the Frechet
        distance is its floor.
        """
        n = self.profile.evaluation.samples
        if name == "prior":
            return self.batches(self.target_generator(pair), n)
        if name == "truth":
            return self.truth(pair, self.z(n)).split(50)
        return super().row(name, pair)

    def evaluate(
        self, batches: Iterable[Tensor], reference: Reference, pair: str, method: str,
        seed: int | None, protocol: str = "quick", cache: Path | None = None,
    ) -> Scores:  # fmt: skip
        """The metrics of any protocol; for an adaptation by words, whose truth the reference knows,
        the truth gap as well.
        """
        scores = super().evaluate(batches, reference, pair, method, seed, protocol, cache)
        if reference.truth is not None and _is_told_in_words(self.profile, method):
            images = scores.images[:GAP_SAMPLES]
            gap, n = self.truth_gap(pair, images).gap, len(images)
            how = f"truthgap{n}: directional loss of the true targets minus reached, {n} latents"
            metric = Metric("clip_truth_gap", gap, n, None, how, pair, method, seed)
            scores.metrics.append(metric)
        return scores

    def truth_gap(self, pair: str, images: Tensor) -> TruthGap:
        """Directional loss of true targets, and of images [N, 3, H, W] of the first N of `z`."""
        return self._gap_reference(pair, len(images)).reached_by(images)

    @remembered
    def _gap_reference(self, pair: str, n: int) -> GapReference:
        numbers = self.numbers("nada", pair)
        nada = self.objective("nada", pair, numbers, seed=0)
        assert isinstance(nada, NADA)
        directions = nada.directions
        true = render(self.z(n), SOURCES[self.source]), self.truth(pair, self.z(n))
        source = self.draw(self.generator, n)
        return GapReference.of(self.space, directions, source, true, numbers["views"])


def _is_told_in_words(profile: Profile, method: str) -> bool:
    """Whether a name in results is that of a method with a text direction to compare with."""
    return is_method(profile, method) and not is_by_picture(profile, method)


def _restricted(domain: Domain, network: str = GeneratorTask.name) -> StyleGAN2:
    generator = world_generator(WEIGHTS / f"{network}.safetensors")
    return generator.restrict(condition(torch.tensor([domain.index]))[0])
