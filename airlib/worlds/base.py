"""What every world offers: latents, adaptation by any method, and references to score against."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.templates import NADA_TEMPLATES, sentences_of
from airlib.errors import AirlibError
from airlib.evaluation.features import NO_JUDGES, Judge, Reference
from airlib.evaluation.protocols import Scores, scores_of
from airlib.generators.base import DrawnBatches, Generator
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.registry import REGULARIZERS, defaults_of, method_class
from airlib.methods.step import Objective, Regularizer
from airlib.methods.task import Task
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.registry import parameterization_named
from airlib.profiles import Profile, method_names
from airlib.results import Metric
from airlib.seeding import rng
from airlib.worlds.examples import example_of, picture_of
from airlib.worlds.inverting import perceptual_of
from airlib.worlds.memory import remembered
from airlib.worlds.numbers import changed, is_by_picture, loop_defaults, method_of, numbers_of


@dataclass(frozen=True, eq=False)
class World(ABC):
    """Everything an experiment needs, opened by `open_world`."""

    profile: Profile
    source: str
    generator: Generator
    space: ClipSpace
    judges: tuple[Judge, ...]
    without_judges: str = NO_JUDGES  # if `judges` is empty: the reason, for messages

    knows_truth: ClassVar[bool]  # whether the true target of a latent can be drawn
    reference_rows: ClassVar[tuple[str, ...]]  # of a table: what methods are compared with

    @classmethod
    @abstractmethod
    def open(cls, profile: Profile, source: str) -> Self:
        """The world of a profile around one of its sources; `open_world` calls this.

        Raises AirlibError for missing or damaged weights.
        """

    @classmethod
    @abstractmethod
    def clip(cls, profile: Profile) -> ClipSpace:
        """The CLIP models of a profile, for questions that need no generator."""

    @classmethod
    @abstractmethod
    def load_judges(cls, profile: Profile) -> tuple[tuple[Judge, ...], str]:
        """Networks beside CLIP that measure distances of images, the main one first, and "". If
        they are not on this machine: an empty tuple, and what to do about it.
        """

    @abstractmethod
    def reference_images(self, pair: str) -> Iterable[Tensor]:
        """Images of a pair's target domain, in batches [B, 3, H, W]."""

    @abstractmethod
    def pictures(self, n: int) -> Tensor:
        """n pictures [n, 3, H, H] of the source domain that no generator drew, H its resolution."""

    def edited_truth(self, pair: str, n: int) -> Tensor | None:
        """What the first n of `pictures` should become in a pair's target domain [n, 3, S, S], S
        being the size that the judges see; None in a world that does not know it.
        """
        return None

    def truth(self, pair: str, z: Tensor) -> Tensor:
        """The true target [n, 3, H, H] of each of `z` [n, ...], in a world that `knows_truth`.

        Raises AirlibError in every other world.
        """
        raise AirlibError(f"no true target is known in profile {self.profile.name}")

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
    def stylegan2(self) -> StyleGAN2:
        """The source generator, for what only a StyleGAN2 can do; AirlibError for another kind."""
        if not isinstance(self.generator, StyleGAN2):
            raise AirlibError(
                f"{self.source} is no StyleGAN2 but a {type(self.generator).__name__}; "
                "open a source that is one"
            )
        return self.generator

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
        return sentences_of(NADA_TEMPLATES, self.pair(pair).target_class)

    @remembered
    def reference(self, pair: str) -> Reference:
        """The target domain of a pair, as the metrics see it."""
        return self.reference_of(pair, self.reference_images(pair))

    def reference_of(
        self, pair: str, images: Iterable[Tensor], cache: Path | None = None
    ) -> Reference:
        """The target domain of a pair by other images, in batches [B, 3, H, W] in [-1, 1].

        cache: a folder for their features, which belongs to these images and networks.
        """
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
        return scores_of(batches, reference, protocol, cache, pair, method, seed)

    # -- adaptation ----------------------------------------------------------------------------
    def adapt(
        self, method: str | Objective, pair: str, seed: int = 0,
        directory: str | Path | None = None, *,
        parameterization: str | Parameterization | None = None,
        regularizers: Sequence[Regularizer] = (),
        on_step: Callable[[int, Generator], None] | None = None, **options: Any,
    ) -> Adaptation:  # fmt: skip
        """Adapt the source generator to the target of `pair`, with the profile's numbers.

            world.adapt("air", "human-baby", t_int=0.2, parameterization="domain_vector")

        method: a name (of the profile's methods and arms, or registered), or an objective of your
        own. parameterization: what may move, a name or an object; default: the profile's.
        regularizers: further loss terms. on_step(k, adapted): called before step k and at the end.
        options: numbers to change, see `numbers`. directory: where to checkpoint; the same call
        continues there. Raises AirlibError for unknown names and numbers before anything runs.
        """
        name = method if isinstance(method, str) else name_of(method)
        given = {} if parameterization is None else {"parameterization": _name(parameterization)}
        numbers = self.numbers(method, pair, {**options, **given})
        moving = self.parameterization(parameterization or numbers["parameterization"], pair)
        if isinstance(method, str):
            objective = self.objective(method, pair, numbers, seed)
        else:
            objective = method
        labels = {"profile": self.profile.name, "method": name, "pair": pair, "numbers": numbers}
        labels |= {"options": {**options, **given}} if options or given else {}
        source = getattr(objective, "generator", None) or self.generator
        return adapt(
            source.with_mapping() if moving.whole else source, self.space, objective, moving,
            loop_of(numbers, seed), directory, labels, on_step,
            [*regularizers, *regularizers_of(numbers)],
        )  # fmt: skip

    def numbers(
        self, method: str | Objective, pair: str, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Every number of a method for one pair: the profile's, changed by the pair and `options`.

        Of an objective only those of the loop are left to change: it has its own already.
        Raises AirlibError for unknown names and for values of another type.
        """
        texts, kind = self.pair(pair), self.profile.sources[self.source].generator
        if not isinstance(method, str):
            own = name_of(method)
            table = own if own in method_names(self.profile) else "nada"
            numbers = numbers_of(self.profile, table, kind)
            numbers = {key: numbers[key] for key in loop_defaults()}
            by_picture = getattr(method, "by_picture", False)
        else:
            own, numbers = method, numbers_of(self.profile, method, kind)
            by_picture = is_by_picture(self.profile, method)
        if not by_picture:
            numbers |= {key: value for key, value in texts.as_dict().items() if key in numbers}
        return changed(numbers, options or {}, own)

    def objective(self, method: str, pair: str, numbers: Mapping[str, Any], seed: int) -> Objective:
        """The loss of a method or arm for one pair, from its `numbers`. seed: of what is random in
        the loss itself, such as the images that AIR learns prompts from.
        """
        name = method_of(self.profile, method)
        own = {key: numbers[key] for key in defaults_of(name)}
        kind = method_class(name)
        return kind.of(self.task(pair), kind.Config(**own), seed)

    def task(self, pair: str) -> Task:
        """What a method is told about one pair; see `airlib.methods.task`."""
        texts, shown = self.pair(pair), self.profile.manipulation.pictures
        return Task(
            self.space, self.generator, texts.source_class, texts.target_class,
            picture=lambda: picture_of(self, pair),
            latent=lambda: example_of(self, pair).inversion.latents,
            perceptual=lambda: perceptual_of(self),
            source_pictures=lambda n: self.pictures(shown + n)[shown:],
        )  # fmt: skip

    def parameterization(self, name: str | Parameterization, pair: str) -> Parameterization:
        """What may move, by name or as it is, for the target of one pair.

        Raises AirlibError for an unknown name; one that does not fit the generator is refused when
        it is attached.
        """
        found = parameterization_named(name) if isinstance(name, str) else name
        return found.bind(self.space, self.pair(pair).target_class)


def name_of(objective: Objective) -> str:
    """What runs of an objective are called: settings["method"].

    Raises AirlibError for an object that is no objective, and says what it lacks.
    """
    wanted = ("settings", "begin", "__call__", "events", "state", "load_state")
    if missing := [part for part in wanted if not hasattr(objective, part)]:
        raise AirlibError(
            f"{type(objective).__name__} is no method: it has no {', '.join(missing)}; inherit "
            "from airlib.methods.step.WithoutMemory and set `settings`"
        )
    name = objective.settings.get("method")
    if not isinstance(name, str):
        raise AirlibError(
            f'the settings of {type(objective).__name__} do not name it; add {{"method": "..."}}'
        )
    return name


def loop_of(numbers: Mapping[str, Any], seed: int) -> AdaptationConfig:
    """The numbers of the loop among those of a method."""
    known = {entry.name for entry in fields(AdaptationConfig)} & numbers.keys()
    own = {key: numbers[key] for key in known}
    return AdaptationConfig(**{**own, "betas": tuple(own["betas"]), "seed": seed})


def regularizers_of(numbers: Mapping[str, Any]) -> list[Regularizer]:
    """The terms of `REGULARIZERS` whose weight is not 0 among the numbers of a method."""
    weights = {name: numbers.get(name, 0.0) for name in REGULARIZERS}
    return [REGULARIZERS[name](weight) for name, weight in weights.items() if weight]


def _name(parameterization: str | Parameterization) -> str:
    return parameterization if isinstance(parameterization, str) else parameterization.name
