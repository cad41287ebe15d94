"""What every world offers: latents, adaptation by any method, and references to score against."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.templates import NADA_TEMPLATES, templates_of
from airlib.errors import AirlibError
from airlib.evaluation.features import NO_JUDGES, Judge, Reference
from airlib.evaluation.protocols import Scores, evaluate
from airlib.generators.base import DrawnBatches, Generator
from airlib.methods.air import AIR, AIRConfig
from airlib.methods.ipl import IPL, IPLConfig
from airlib.methods.nada import NADA
from airlib.methods.prompt_learning import PromptConfig
from airlib.methods.regularizers import InDomainAngle
from airlib.methods.step import Objective
from airlib.methods.svl import SVL, SVLConfig
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.registry import parameterization_named
from airlib.profiles import Profile, method_numbers
from airlib.results import Metric
from airlib.seeding import rng


@dataclass(frozen=True, eq=False)
class World(ABC):
    """Everything an experiment needs, opened by `open_world`."""

    profile: Profile
    source: str
    generator: Generator
    space: ClipSpace
    judges: tuple[Judge, ...]
    without_judges: str = NO_JUDGES  # why there are none, where there are none

    knows_truth: ClassVar[bool]  # whether the true target of a latent can be drawn
    reference_rows: ClassVar[tuple[str, ...]]  # of a table: what methods are compared with

    @classmethod
    @abstractmethod
    def open(cls, profile: Profile, source: str | None) -> Self:
        """See `open_world`."""

    @classmethod
    @abstractmethod
    def load_judges(cls, profile: Profile) -> tuple[tuple[Judge, ...], str]:
        """Networks beside CLIP that measure distances of images, the main one first; if they are
        not here none, and what to do about it.
        """

    @abstractmethod
    def reference_images(self, pair: str) -> Iterable[Tensor]:
        """Images of a pair's target domain, in batches [B, 3, H, W]."""

    @abstractmethod
    def pictures(self, n: int) -> Tensor:
        """n pictures [n, 3, H, H] of the source domain that no generator drew, H its resolution."""

    def edited_truth(self, pair: str, n: int) -> Tensor | None:
        """What `pictures` should become in a pair's target domain, where it is known; of the size
        that the judges see.
        """
        return None

    def pair(self, name: str) -> Profile:
        """The pair called `name`, if it starts from this world's source."""
        known = [key for key, pair in self.profile.pairs.items() if pair.source == self.source]
        if name not in known:
            raise AirlibError(
                f"no pair {name!r} for source {self.source!r} in profile {self.profile.name}; "
                f"choose from {', '.join(known)}"
            )
        return self.profile.pairs[name]

    # -- images --------------------------------------------------------------------------------
    def z(self, n: int, purpose: str = "evaluation") -> Tensor:
        """The first n latents [n, ...] of a fixed stream, the same for every method and seed."""
        return self.generator.sample_z(n, rng(0, "latents", purpose))

    @property
    def draws_by_diffusion(self) -> bool:
        """Whether the source is a diffusion model."""
        return self.profile.sources[self.source].generator == "diffusion"

    @property
    def truncation(self) -> float:
        """psi of the images that are scored."""
        return 1.0 if self.draws_by_diffusion else self.profile.evaluation.truncation

    def sample(self, n: int, purpose: str = "evaluation") -> Tensor:
        """`z` mapped to what enters the generator."""
        return self.generator.map(self.z(n, purpose), self.truncation)

    def as_scored(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] of the generator's size, as they are shown and judged."""
        return images

    @torch.no_grad()
    def batches(self, generator: Generator, n: int) -> Sequence[Tensor]:
        """Images [B, 3, H, W] of the first n of `z`, by this world's generator or an adapted copy.

        Unlike `generator(world.sample(n))`, right also where the mapping network was adapted.
        """
        latents = generator.map(self.z(n), self.truncation)
        return DrawnBatches(generator, latents, self.as_scored)

    def draw(self, generator: Generator, n: int) -> Tensor:
        """`batches` as one tensor [n, 3, H, W]."""
        return torch.cat(list(self.batches(generator, n)))

    # -- scores --------------------------------------------------------------------------------
    def row(self, name: str, pair: str) -> Iterable[Tensor]:
        """The images of one of `reference_rows`, in batches."""
        if name != "source":
            raise AirlibError(f"there is no row {name!r} in profile {self.profile.name}")
        return self.batches(self.generator, self.profile.evaluation.samples)

    def true_targets(self, pair: str) -> Tensor | None:
        """The true targets [P, 3, H, W] of the first of `z`, where they are known."""
        return None

    def sentences(self, pair: str) -> list[str]:
        """The target of a pair in words, the same ones whatever templates a method is given."""
        return [template.format(self.pair(pair).target_class) for template in NADA_TEMPLATES]

    @cache  # noqa: B019 - a world lives as long as its notebook
    def reference(self, pair: str) -> Reference:
        """The target domain of a pair, as the metrics see it."""
        return self.reference_of(pair, self.reference_images(pair))

    def reference_of(
        self, pair: str, images: Iterable[Tensor], cache: Path | None = None
    ) -> Reference:
        """The same with other images of the target domain. cache: see `evaluation.features.see`."""
        encoder, truth = self.space.encoders[0], self.true_targets(pair)
        return Reference.of(
            self.judges, encoder, images, truth, self.sentences(pair), cache, self.without_judges
        )

    def score(
        self, batches: Iterable[Tensor], pair: str, method: str, seed: int, protocol: str = "quick"
    ) -> list[Metric]:
        """The metrics of images that were drawn from `z` in order."""
        return self.evaluate(batches, self.reference(pair), pair, method, seed, protocol).metrics

    def evaluate(
        self, batches: Iterable[Tensor], reference: Reference, pair: str, method: str,
        seed: int | None, protocol: str = "quick", cache: Path | None = None,
    ) -> Scores:  # fmt: skip
        """The metrics of any protocol, of images that were drawn from `z` in order."""
        return evaluate(batches, reference, protocol, cache, pair, method, seed)

    # -- adaptation ----------------------------------------------------------------------------
    def adapt(
        self, method: str, pair: str, seed: int = 0, directory: str | Path | None = None, **options
    ) -> Adaptation:
        """Adapt the source generator to a pair's target with the profile's numbers.

        method: one of the profile's methods or arms. options: numbers of it to change for this run;
        `on_step`; `objective`, a loss to follow instead of the method's own; `regularizers`, more
        terms; `mixing` and `weights` of `AdaptationConfig`. directory: where to checkpoint; calling
        again continues.
        """
        on_step, objective = options.pop("on_step", None), options.pop("objective", None)
        regularizers = list(options.pop("regularizers", ()))
        changed = dict(options)
        loop = {key: options.pop(key) for key in ("mixing", "weights") if key in options}
        numbers = self.numbers(method, pair, options) | loop
        moving = self.parameterization(numbers["parameterization"], pair)
        numbers["parameterization"] = moving.name
        changed |= {"parameterization": moving.name} if "parameterization" in changed else {}
        config = AdaptationConfig(
            **{k: numbers[k] for k in ("steps", "batch", "learning_rate", "views", "noise")},
            **{k: numbers[k] for k in ("mixing", "weights") if k in numbers},
            betas=tuple(numbers["betas"]),
            seed=seed,
        )
        labels = {"profile": self.profile.name, "method": method, "pair": pair, "numbers": numbers}
        labels |= {"options": changed} if changed else {}
        weight = numbers.get("in_domain_angle", 0.0)
        regularizers += [InDomainAngle(weight)] if weight else []
        source = self.generator.with_mapping() if moving.whole else self.generator
        return adapt(
            source, self.space, objective or self.objective(method, pair, numbers, seed),
            moving, config, directory, labels, on_step, regularizers,
        )  # fmt: skip

    def objective(self, method: str, pair: str, numbers: dict, seed: int) -> Objective:
        """The loss of `method` for the texts of `pair`."""
        texts = self.pair(pair)
        classes = texts.source_class, texts.target_class
        templates = templates_of(self.profile.world.templates)
        loss = self.profile.arms[method].method if method in self.profile.arms else method
        return OBJECTIVES[loss](self.space, *classes, templates, numbers, seed)

    def parameterization(self, what: str | Parameterization, pair: str) -> Parameterization:
        """What may move, by name or as it is, for the target of one pair.

        Raises AirlibError for an unknown name; one that does not fit the generator is refused when
        it is attached.
        """
        moving = parameterization_named(what) if isinstance(what, str) else what
        return moving.bind(self.space, self.pair(pair).target_class)

    def numbers(self, method: str, pair: str, options: dict) -> dict:
        """The profile's numbers of a method for one pair, changed by `options`."""
        numbers = method_numbers(self.profile, method)
        for name in options:
            if name not in numbers:
                raise AirlibError(
                    f"{method} has no option {name!r}; choose from {', '.join(numbers)}"
                )
        extra = {k: v for k, v in self.pair(pair).as_dict().items() if k in numbers}
        return {**numbers, **extra, **options}


def _nada(
    space: ClipSpace, source: str, target: str, templates: Sequence[str], numbers: dict, seed: int
) -> NADA:
    return NADA(space, source, target, templates)


def _air(
    space: ClipSpace, source: str, target: str, templates: Sequence[str], numbers: dict, seed: int
) -> AIR:
    prompt = PromptConfig(
        numbers["prompt_steps"], numbers["prompt_learning_rate"], numbers["prompt_tokens"]
    )
    keys = ["t_thresh", "t_int", "prompt_pairs", "chain_start"]
    keys += [key for key in ("learn_from", "keep_direction") if key in numbers]  # of an arm
    config = AIRConfig(
        prompt=prompt,
        **{key: numbers[key] for key in keys},
    )
    return AIR(space, source, target, config, templates, seed=seed)


def _ipl(
    space: ClipSpace, source: str, target: str, templates: Sequence[str], numbers: dict, seed: int
) -> IPL:
    keys = ("mapper_steps", "mapper_batch", "mapper_learning_rate", "prompt_tokens")
    keys += ("domain_weight", "source_weight", "residual")
    config = IPLConfig(*(numbers[key] for key in keys))
    return IPL(space, source, target, config, templates, seed)


def _svl(
    space: ClipSpace, source: str, target: str, templates: Sequence[str], numbers: dict, seed: int
) -> SVL:
    config = SVLConfig(**{field.name: numbers[field.name] for field in fields(SVLConfig)})
    return SVL(space, source, target, config, templates, seed)


OBJECTIVES = {"nada": _nada, "ipl": _ipl, "svl": _svl, "air": _air}
"""Method of a profile -> its loss for two classes, from the numbers of its table."""
