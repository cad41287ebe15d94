"""A world: a source generator, a CLIP space, two judges, and the pairs that can be tried in it.

    world = open_world("tiny", "human")
    baby = world.adapt("air", "human-baby", seed=0)
    images = baby.apply(world.generator)(world.sample(8))

`profile` decides weights and numbers, never code paths. In the tiny world the renderer can draw the
true target of any latent (`truth`), so a method is compared with what it should have made.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, Objective, adapt
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.templates import IMAGENET_TEMPLATES, NADA_TEMPLATES, SINGLE
from airlib.errors import AirlibError
from airlib.evaluation.protocol import Reference
from airlib.files import load_tensors
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.air import AIR, AIRConfig
from airlib.methods.nada import NADA
from airlib.methods.prompt_learning import PromptConfig
from airlib.parameterizations import (
    Parameterization,
    adaptive_layers,
    affine,
    domain_embedding,
    domain_vector,
    synthesis,
)
from airlib.profiles import Profile, load_profile
from airlib.seeding import rng
from airlib.studies.truth_gap import TruthGap, truth_gap
from airlib.tinyworld import train_generator
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.judge import NETWORKS, Judge, VitJudge, load_judge
from airlib.tinyworld.renderer import render
from airlib.tinyworld.train_generator import condition
from airlib.tinyworld.training import WEIGHTS

TEMPLATES = {"nada79": NADA_TEMPLATES, "imagenet80": IMAGENET_TEMPLATES, "single": SINGLE}
METHODS = ("nada", "air")
SOURCES = {domain.species: domain for domain in train_generator.SOURCES}
PARAMETERIZATIONS = {
    "synthesis": synthesis,
    "affine": affine,
    "domain_vector": domain_vector,
    "domain_embedding": domain_embedding,
}
DRAWN_AT_ONCE = 50
GAP_SAMPLES = 96  # latents of a truth gap
PAIRED = 200  # latents whose true target is drawn for the paired distances


@dataclass(frozen=True, eq=False)
class World:
    """Everything an experiment needs, opened by `open_world`."""

    profile: Profile
    source: str
    generator: StyleGAN2
    space: ClipSpace
    judges: tuple[Judge, VitJudge]

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
        """The first n latents [n, z_dim] of a fixed stream, the same for every method and seed."""
        return self.generator.sample_z(n, rng(0, "latents", purpose))

    def sample(self, n: int, purpose: str = "evaluation") -> Tensor:
        """`z` mapped to w, with the profile's evaluation truncation."""
        return self.generator.map(self.z(n, purpose), self.profile.evaluation.truncation)

    def draw(self, generator: StyleGAN2, n: int, purpose: str = "evaluation") -> Tensor:
        """Images [n, 3, H, W] of `z` by this world's generator or an adapted copy of it.

        Unlike `generator(world.sample(n))`, right also where the mapping network was adapted.
        """
        w = generator.map(self.z(n, purpose), self.profile.evaluation.truncation)
        with torch.no_grad():
            return torch.cat([generator(part) for part in w.split(DRAWN_AT_ONCE)])

    def target_generator(self, pair: str) -> StyleGAN2:
        """The world generator restricted to the pair's target domain, which it has seen."""
        return _restricted(Domain.parse(self.pair(pair).target))

    def truth(self, pair: str, z: Tensor) -> Tensor:
        """The true target image of each latent [N, 3, H, W], drawn by the renderer."""
        return render(z, Domain.parse(self.pair(pair).target))

    @cache  # noqa: B019 - a world lives as long as its notebook
    def reference(self, pair: str) -> Reference:
        """The pair's target domain: fresh individuals, and the true targets of `z`."""
        numbers = self.profile.evaluation
        images = self.truth(pair, self.z(numbers.references, "references"))
        truth = self.truth(pair, self.z(min(PAIRED, numbers.samples)))
        encoder = self.space.encoders[0]
        return Reference.of(self.judges, encoder, images, truth)

    def truth_gap(self, pair: str, images: Tensor) -> TruthGap:
        """Directional loss of true targets, and of images [N, 3, H, W] of the first N of `z`."""
        n = len(images)
        numbers = self._numbers("nada", pair, {})
        directions = self.objective("nada", pair, numbers, seed=0).directions
        true = render(self.z(n), SOURCES[self.source]), self.truth(pair, self.z(n))
        source = self.draw(self.generator, n)
        return truth_gap(self.space, directions, (source, images), true, numbers["views"])

    # -- adaptation ----------------------------------------------------------------------------
    def adapt(
        self, method: str, pair: str, seed: int = 0, directory: str | Path | None = None, **options
    ) -> Adaptation:
        """Adapt the source generator to a pair's target with the profile's numbers.

        options: entries of the profile's table of that method to change for this run, and
        `on_step`. directory: where to checkpoint; calling again continues.
        """
        on_step = options.pop("on_step", None)
        numbers = self._numbers(method, pair, options)
        config = AdaptationConfig(
            **{k: numbers[k] for k in ("steps", "batch", "learning_rate", "views", "noise")},
            betas=tuple(numbers["betas"]),
            seed=seed,
        )
        labels = {"profile": self.profile.name, "method": method, "pair": pair, "numbers": numbers}
        inside = numbers["parameterization"] == "domain_embedding"
        source = self.generator.with_mapping() if inside else self.generator
        return adapt(
            source, self.space, self.objective(method, pair, numbers, seed),
            self.parameterization(numbers["parameterization"], pair), config,
            directory, labels, on_step,
        )  # fmt: skip

    def objective(self, method: str, pair: str, numbers: dict, seed: int) -> Objective:
        """The loss of `method` for the texts of `pair`."""
        texts = self.pair(pair)
        classes = texts.source_class, texts.target_class
        templates = TEMPLATES[self.profile.world.templates]
        if method == "nada":
            return NADA(self.space, *classes, templates)
        prompt = PromptConfig(
            numbers["prompt_steps"], numbers["prompt_learning_rate"], numbers["prompt_tokens"]
        )
        keys = ("t_thresh", "t_int", "prompt_pairs", "chain_start")
        config = AIRConfig(prompt=prompt, **{key: numbers[key] for key in keys})
        return AIR(self.space, *classes, config, templates, seed=seed)

    def parameterization(self, name: str, pair: str) -> Parameterization:
        """One of `PARAMETERIZATIONS`, or layersK (adaptive selection of K layers)."""
        if name in PARAMETERIZATIONS:
            return PARAMETERIZATIONS[name]()
        if name.startswith("layers") and name[6:].isdigit():
            return adaptive_layers(int(name[6:]), self.space, self.pair(pair).target_class)
        known = ", ".join(PARAMETERIZATIONS)
        raise AirlibError(f"unknown parameterization {name!r}; choose from {known}, layersK")

    def _numbers(self, method: str, pair: str, options: dict) -> dict:
        if method not in METHODS:
            raise AirlibError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        numbers = self.profile.methods[method].as_dict()
        for name in options:
            if name not in numbers:
                raise AirlibError(
                    f"{method} has no option {name!r}; choose from {', '.join(numbers)}"
                )
        extra = {k: v for k, v in self.pair(pair).as_dict().items() if k in numbers}
        return {**numbers, **extra, **options}


def open_world(profile: str | Profile = "tiny", source: str = "human") -> World:
    """The world of a profile, started from one source generator.

    Raises AirlibError for unknown names, and for missing or damaged weights.
    """
    numbers = load_profile(profile) if isinstance(profile, str) else profile
    if numbers.name != "tiny":
        raise AirlibError(
            f"profile {numbers.name} needs published weights, which this version cannot import "
            "yet; use tiny"
        )
    if source not in SOURCES:
        raise AirlibError(f"unknown source {source!r}; choose from {', '.join(SOURCES)}")
    encoders = [(ClipEncoder.tiny(), weight) for weight in numbers.world.clip_weights]
    judges = tuple(load_judge(name) for name in NETWORKS)
    return World(numbers, source, _restricted(SOURCES[source]), ClipSpace(encoders), judges)


def _restricted(domain: Domain) -> StyleGAN2:
    return world_generator().restrict(condition(torch.tensor([domain.index]))[0])


def world_generator(path: str | Path = WEIGHTS / "stylegan2.safetensors") -> StyleGAN2:
    """The conditional generator of all domains, in float32."""
    tensors, config = load_tensors(path)
    try:
        generator = StyleGAN2(StyleGAN2Config(**config))
        generator.load_state_dict({k: v.float() for k, v in tensors.items()})
    except (TypeError, RuntimeError) as error:
        raise AirlibError(
            f"{path} does not hold the world generator; run `airlib train-tiny stylegan2`"
        ) from error
    return generator.requires_grad_(False).eval()
