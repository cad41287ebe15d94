r"""Study: how smooth walks are, whether models between two domains draw pictures that belong there,
and what an inverted picture has kept.

    smoothness_of_walks(world, {"source": world.generator, "adapted": adapted}, z, frames=17)
    along = frechet_along(world, "photo-sketch", [blend([a]) for a in alphas(6)], 150, 300)
    found = inverted(world, world.pictures(4))["refined"]    # .latents .reconstruction .seconds
    editor = Editor(world, {"sketch": sketch})               # what an `Explorer` draws

The square root of a Frechet distance is a distance (Wasserstein's, of two Gaussians), so with the
source domain S, the target domain T and the images X of a model between them

    detour = (d(S, X) + d(X, T)) / d(S, T) >= 1

and it is 1 only if X lies on the straight way. Images that belong to neither domain nor between the
two show as a large detour, however near the model's weights are to those of both ends.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.editing.interpolation import Blend, Kind, smoothness, walk
from airlib.editing.inversion import Inversion
from airlib.editing.inverters import Inverter, drawn
from airlib.errors import AirlibError
from airlib.evaluation.features import see
from airlib.evaluation.frechet import frechet_distance
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.experiments.sweep import UNSCORED, finish, planned
from airlib.generators.base import DrawnBatches, Generator
from airlib.profiles import Profile
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.renderer import render
from airlib.worlds import World
from airlib.worlds.inverting import WAYS, Way, inverter_of, perceptual_of

READABLE = {"human": ("skin", "hair", "background", "cloth"), "dog": ("fur", "background")}
"""Attributes of a source whose numbers the tiny world's second judge reads well in a picture."""


def adaptations_of(
    profile: str | Profile, wanted: Sequence[tuple[str, str]], seed: int, directory: str | Path,
    workers: int = 2,
) -> list[Adaptation]:  # fmt: skip
    """The adaptation of each (method, pair), with the profile's numbers, made but not scored.
    What `directory` holds from the same numbers and weights is not made again.
    """
    runs = [
        run
        for method, pair in wanted
        for run in planned(profile, [method], [pair], [seed], directory, protocol=UNSCORED)
    ]
    return [run.adaptation() for run in finish(runs, profile, UNSCORED, workers)]


def smoothness_of_walks(
    world: World, models: Mapping[str, Generator], z: Tensor, frames: int
) -> list[dict]:
    """Rows "linear in w", ... of path length and largest step per model, means over the walks.

    z: ends of the walks [walks, 2, ...]; every model draws the same latents.
    """
    perceptual, rows = perceptual_of(world), []
    for space, kind in product("wz", get_args(Kind)):
        row: dict[str, str | float] = {"walk": f"{kind} in {space}"}
        paths = [_path(world, ends, frames, kind, space) for ends in z]
        for name, model in models.items():
            found = [smoothness(drawn(model, path), perceptual) for path in paths]
            row[f"{name}: path length"] = sum(s.path_length for s in found) / len(found)
            row[f"{name}: largest step"] = sum(s.largest_step for s in found) / len(found)
        rows.append(row)
    return rows


def _path(world: World, ends: Tensor, frames: int, kind: Kind, space: str) -> Tensor:
    """Latents of `frames` images between two z [2, ...]."""
    if space == "z":
        start, end = ends
        return world.generator.map(walk(start, end, frames, kind), world.truncation)
    start, end = world.generator.map(ends, world.truncation)
    return walk(start, end, frames, kind)


@dataclass(frozen=True)
class Along:
    """Distances of the models along a way, roots of Frechet distances in units of d(S, T)."""

    judge: str
    to_source: list[float]
    to_target: list[float]

    @property
    def detour(self) -> list[float]:
        """1 on the straight way between the domains, see above."""
        return [a + b for a, b in zip(self.to_source, self.to_target, strict=True)]


def frechet_along(
    world: World, pair: str, models: Iterable[Generator], samples: int, references: int
) -> list[Along]:
    """Distances of models along a way, by every judge of the world. samples: images of each model,
    of the same latents. references: pictures of each domain, no generator's.
    """
    if not world.judges:
        raise AirlibError(f"Frechet distances need a judge: {world.without_judges}")
    latents, encoder = world.sample(samples), world.space.encoders[0]

    def features(batches: Iterable[Tensor]) -> tuple[Tensor, ...]:
        return see(batches, world.judges, encoder).features

    target = world.reference(pair).features
    source = features(world.as_scored(world.pictures(references)).split(50))
    seen = [features(DrawnBatches(model, latents, world.as_scored)) for model in models]
    return [
        _along(judge.title, [x[i] for x in seen], source[i], target[i][:references])
        for i, judge in enumerate(world.judges)
    ]


def _along(judge: str, seen: Sequence[Tensor], source: Tensor, target: Tensor) -> Along:
    whole = frechet_distance(source, target)
    shares = [
        [(frechet_distance(x, domain) / whole) ** 0.5 for x in seen] for domain in (source, target)
    ]
    return Along(judge, *shares)


def truth_of_both(world: World, pair: str, second: str, n: int) -> Tensor:
    """The first n sitters of `world.z` in both target domains [n, 3, 64, 64] of the tiny world: the
    style of `pair`'s target, species and age of the other's.
    """
    style, sitter = (Domain.parse(world.pair(name).target) for name in (pair, second))
    return render(world.z(n), replace(sitter, style=style.style))


# --- inversion -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Timed(Inversion):
    """An inversion, and the seconds per picture that it took."""

    seconds: float


def inverted(world: World, pictures: Tensor, ways: Sequence[Way] = WAYS) -> dict[Way, Timed]:
    """Pictures [n, 3, H, H], inverted in several ways."""
    results = {}
    for way in ways:
        inverter, started = inverter_of(world, way), time.perf_counter()
        found = inverter(pictures)
        seconds = (time.perf_counter() - started) / len(pictures)
        results[way] = Timed(found.latents, found.reconstruction, found.errors, seconds)
    return results


@torch.no_grad()
def kept(world: World, images: Tensor) -> dict[str, float]:
    """What images [n, 3, H, H] kept of the first n of `world.pictures`: "l1", a share of the pixel
    range, and the distance by each judge's maps, "perceptual", "perceptual 2", of which the first
    is in the loss of a search.

    Where the world knows the sitters, also by the last judge "sitter", the share of images that are
    nearer to their own picture than to any other, and "attributes", the root mean square error of
    their `READABLE` numbers: 0 is perfect, 1 is to guess their mean.
    """
    pictures, images = world.pictures(len(images)).to(images.device), images.clamp(-1, 1)
    found = {"l1": (images - pictures).abs().mean().item() / 2}
    for number, judge in enumerate(world.judges, 1):
        distance = PerceptualEmbedding(judge.maps, judge.layer_weights)
        name = "perceptual" if number == 1 else f"perceptual {number}"
        found[name] = distance.paired_distance(images, pictures).mean().item()
    if world.knows_truth:
        reader: Any = world.judges[-1]  # the tiny world's say what they see
        known = world.z(len(images), "pictures")
        read, wanted = reader(images)["latent"], reader(pictures)["latent"]
        nearest = torch.cdist(read, wanted).argmin(dim=1)
        found["sitter"] = (nearest == torch.arange(len(images))).float().mean().item()
        errors = torch.cat(
            [(read - known)[:, LATENT[name]] for name in READABLE[world.source]], dim=1
        )
        found["attributes"] = errors.square().mean().sqrt().item()
    return found


# --- the explorer --------------------------------------------------------------------------------


class Editor:
    """Draws what a reader asks for, at the speed of a slider: what a picture's latents are is found
    once, and models between are mixed, not loaded.

    domains: adaptations by name, all of the world's source. way: see `inverter_of`.
    """

    def __init__(
        self, world: World, domains: Mapping[str, Adaptation], way: Way | None = None
    ) -> None:
        self.world, self.way = world, way
        self.blends = {name: Blend(world.generator, [made]) for name, made in domains.items()}
        self._sitter = lru_cache(maxsize=16)(self._draw_sitter)
        self._inverted = lru_cache(maxsize=16)(self._invert)

    def __call__(
        self, domain: str, strength: float, seed: int = 0, truncation: float | None = None,
        picture: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[3, 3, H, H]: the picture [1, 3, H, H], its reconstruction and its edit; without a
        picture [2, 3, H, H], the sitter of `seed` by the source and edited.

        truncation: of the sitter, default: the world's.
        """
        if picture is None:
            latents, before, draw = *self._sitter(seed, truncation), drawn
        else:
            latents, before, draw = *self._inverted(picture), self.inverter.draw
        edit = draw(self.blends[domain]([strength]), latents)
        return self.world.as_scored(torch.cat([before, edit]).cpu())

    @cached_property
    def inverter(self) -> Inverter:
        """Made when the first picture comes: it may take a while."""
        return inverter_of(self.world, self.way)

    def _draw_sitter(self, seed: int, truncation: float | None) -> tuple[Tensor, Tensor]:
        """Latents, and the image that stays as it is while the model changes."""
        truncation = self.world.truncation if truncation is None else truncation
        latents = self.world.generator.sample_latents(1, rng(seed, "explorer"), truncation)
        return latents, drawn(self.world.generator, latents)

    def _invert(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a picture: that and its reconstruction stay."""
        found = self.inverter(picture)
        return found.latents, torch.cat([picture.to(found.reconstruction), found.reconstruction])
