"""`airlib evaluate`: adaptations and other people's images under the protocols of the tables.

    report = evaluate_path(Path("runs/sweep"), protocol="full")        # or one .safetensors file
    report = evaluate_path(Path("samples"), pair="human-baby")         # PNG or JPEG from any tool
    print(report.table())
    report.save(Path("scores.json"))

An adaptation is drawn at the fixed evaluation latents of its world. A folder of images is compared
as a set: nobody knows which latents they belong to. Features are kept in the cache, a file per
batch, so a killed evaluation that is started again ends with the same numbers.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

from torch import nn

from airlib.adaptation import SUFFIX, Adaptation
from airlib.clip_space.embedding_cache import cache_directory, encoder_hash, list_hash
from airlib.clip_space.encoder import ClipEncoder
from airlib.documents import wrong_entry
from airlib.errors import AirlibError
from airlib.evaluation.features import Judge, Reference
from airlib.evaluation.frechet import Gaussian
from airlib.evaluation.protocols import PROTOCOLS, Scores, scores_of
from airlib.evaluation.statistics import read_statistics
from airlib.experiments.hints import hint_for
from airlib.experiments.runs import label_of
from airlib.experiments.score_table import Report, Scored
from airlib.experiments.sweep import check_pairs, world_of
from airlib.generators.identity import fingerprint
from airlib.images.folders import ImageSet, open_image_set, save_images
from airlib.profiles import load_profile
from airlib.progress import track
from airlib.worlds import WORLDS, World, open_space

Given = ImageSet | Gaussian  # references by the user
LABELS = {  # what is read of an adaptation, and its types
    "labels": {"profile": str, "pair": str, "method": str, "options": dict},
    "adaptation": {"seed": int},
}
FORMAT = 1  # of the cache: raise it when drawing or embedding an image gives other numbers


def evaluate_path(
    what: Path, *, pair: str | None = None, references: Path | None = None,
    profile: str | None = None, protocol: str = "full", samples: int | None = None,
    resize: int | None = None, images_to: Path | None = None, overrides: dict | None = None,
) -> Report:  # fmt: skip
    """Score an adaptation file, a folder of them, or a folder of images.

    pair, profile: by default those an adaptation was made with; images are scored in `tiny` unless
    told otherwise. references: a folder of images of the target domain instead of the profile's, or
    an .npz file of their statistics (`read_statistics`). samples: how many images, by default the
    profile's number or the whole folder. resize: see `open_image_set`. images_to: a folder to write
    drawn images into. overrides: of the profile.
    Raises AirlibError for bad input, all of it before the first image is scored.
    """
    if protocol not in PROTOCOLS:
        raise AirlibError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    numbers = {**(overrides or {}), **({"evaluation.samples": samples} if samples else {})}
    given = _open_references(references, resize) if references else None
    adaptations = _adaptations(what)
    if not adaptations:
        if images_to:
            raise AirlibError(f"{what} holds images already; --save-images is for adaptations")
        profile = profile or "tiny"
        images = open_image_set(what, resize, samples)
        scored = [_score_images(images, given, profile, pair, protocol, numbers)]
        return Report(profile, protocol, scored)
    tasks = [_Task.of(*entry, pair, profile, numbers) for entry in adaptations.items()]
    _check_apart(tasks)
    scored = [
        task.score(given, protocol, images_to) for task in track(tasks, f"scoring {what.name}")
    ]
    return Report(tasks[0].world.profile.name, protocol, scored)


def results_file(what: Path, protocol: str, out: Path | None) -> Path:
    """Where the results go; AirlibError if nothing can be written there, before it is measured."""
    out = out or Path("runs/evaluate") / f"{_name(what.resolve())}-{protocol}.json"
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise AirlibError(f"cannot write {out}; choose a file in a writable directory")
    return out


def _adaptations(what: Path) -> dict[str, Adaptation]:
    """{name: adaptation} of a file or folder; none in a folder of anything else."""
    if what.is_file() and (hint := hint_for(what)):
        raise AirlibError(f"{what} {hint}")
    there = sorted(what.iterdir()) if what.is_dir() else []
    files = [what] if what.is_file() else [path for path in there if _holds_tensors(path)]
    found = {_name(path): Adaptation.load(path) for path in files}
    if len(found) < len(files):
        raise AirlibError(f"two files in {what} have one name, with and without {SUFFIX}; move one")
    # A checkpoint says how far it got.
    found = {name: one for name, one in found.items() if "done" not in one.config}
    if what.is_file() and not found:
        raise AirlibError(f"{what} is a checkpoint; finish the adaptation and save it")
    return found


def _name(path: Path) -> str:
    """The name without .safetensors; other dots are part of it."""
    return path.name.removesuffix(SUFFIX)


def _holds_tensors(path: Path) -> bool:
    """Whether it is a safetensors file by name or, as of earlier versions, by its first bytes."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


# --- adaptations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """An adaptation to score, and the world that it moves."""

    name: str
    adaptation: Adaptation
    world: World
    pair: str
    method: str
    seed: int | None
    own_text: bool  # another one than the pair's

    @classmethod
    def of(
        cls, name: str, adaptation: Adaptation, pair: str | None, profile: str | None, numbers: dict
    ) -> "_Task":
        """Raises AirlibError if it is not known which pair it is for."""
        if wrong := wrong_entry(adaptation.config, LABELS):
            raise AirlibError(f"{name} cannot be evaluated: {wrong} in its header; make it again")
        labels = adaptation.config.get("labels", {})
        profile, pair = profile or labels.get("profile", "tiny"), pair or labels.get("pair")
        if pair is None:
            raise AirlibError(f"{name} does not say which pair it is for; add --pair NAME")
        world = _world(profile, pair, numbers)
        adaptation.apply(world.generator)  # or an AirlibError says why it does not fit
        text, theirs = _target_text(adaptation), world.pair(pair).target_class
        if own_text := text is not None and text != theirs:
            warnings.warn(
                f"{name} was made for the text {text!r}, and pair {pair} says {theirs!r}: true "
                "targets are left out, and images are compared with references of that pair, "
                "unless --references gives others",
                stacklevel=2,
            )
            world = _world(profile, pair, {**numbers, f"pairs.{pair}.target_class": text})
        seed = adaptation.config.get("adaptation", {}).get("seed")
        method = label_of(labels.get("method", name), labels.get("options", {}))
        return cls(name, adaptation, world, pair, method, seed, own_text)

    def score(self, given: Given | None, protocol: str, images_to: Path | None) -> Scored:
        """Draw and score the world's evaluation latents."""
        world, numbers = self.world, self.world.profile.evaluation
        adapted = self.adaptation.apply(world.generator)
        batches = world.batches(adapted, numbers.samples)
        if images_to:
            save_images(batches, images_to / self.name)
        folder = _cache(world.judges, world.space.encoders[0])
        reference = _reference(world, self.pair, given)
        if self.own_text:
            reference = replace(reference, truth=None)
        drawn = folder(fingerprint(adapted), numbers.samples, numbers.truncation)
        scores = world.evaluate(
            batches, reference, self.pair, self.method, self.seed, protocol, drawn
        )
        return Scored(self.name, _not_empty(self.name, scores))


def _target_text(adaptation: Adaptation) -> str | None:
    """The words that it was made for; None if it was not made by words."""
    objective = adaptation.config.get("objective")
    text = objective.get("target") if isinstance(objective, dict) else None
    return text if isinstance(text, str) else None


@cache
def _reference(world: World, pair: str, given: Given | None) -> Reference:
    """The target domain, by the world's own images or by those given."""
    if given is None:
        return world.reference(pair)
    if isinstance(given, Gaussian):
        return Reference.of_statistics(
            world.judges, world.space.encoders[0], given, world.true_targets(pair),
            world.sentences(pair), world.without_judges,
        )  # fmt: skip
    _check_size(given, world.judges)
    folder = _cache(world.judges, world.space.encoders[0])
    return world.reference_of(pair, given, folder(*_identity(given)))


def _world(profile: str, pair: str, numbers: dict) -> World:
    """The world that has the pair, with some numbers of the profile changed."""
    loaded = load_profile(profile, numbers)
    check_pairs(loaded, [pair])
    return world_of(loaded, loaded.pairs[pair].source)


def _check_apart(tasks: Sequence[_Task]) -> None:
    """No two adaptations may claim the same rows of the results, or come from two profiles."""
    seen: dict[tuple, str] = {}
    for task in tasks:
        key = task.pair, task.method, task.seed
        if key in seen:
            raise AirlibError(
                f"{seen[key]} and {task.name} are both {task.method} on {task.pair} with seed "
                f"{task.seed}; evaluate them one at a time"
            )
        seen[key] = task.name
    if len(profiles := {task.world.profile.name for task in tasks}) > 1:
        raise AirlibError(
            f"adaptations of several profiles ({', '.join(sorted(profiles))}); "
            "evaluate them one at a time"
        )


# --- images of other tools -----------------------------------------------------------------------


def _score_images(
    images: ImageSet, given: Given | None, profile: str, pair: str | None, protocol: str,
    numbers: dict,
) -> Scored:  # fmt: skip
    if pair:
        world = _world(profile, pair, numbers)
        _check_size(images, world.judges)
        reference = replace(_reference(world, pair, given), truth=None)
    elif given:
        loaded = load_profile(profile, numbers)
        judges, reason = WORLDS[loaded.name].load_judges(loaded)
        encoder = open_space(loaded).encoders[0]
        _check_size(images, judges)
        if isinstance(given, Gaussian):
            reference = Reference.of_statistics(judges, encoder, given, without_judges=reason)
        else:
            _check_size(given, judges)
            folder = _cache(judges, encoder)(*_identity(given))
            reference = Reference.of(judges, encoder, given, cache=folder, without_judges=reason)
    else:
        raise AirlibError(
            "a folder of images needs something to be compared with; add --pair NAME or "
            "--references DIR"
        )
    folder = _cache(reference.judges, reference.encoder)(*_identity(images))
    scores = scores_of(images, reference, protocol, folder, pair, images.name)
    return Scored(images.name, _not_empty(images.name, scores), images.skipped)


def _open_references(path: Path, resize: int | None) -> Given:
    """The images of a folder, or the statistics in a file."""
    return read_statistics(path) if path.is_file() else open_image_set(path, resize)


def _check_size(images: ImageSet, judges: Sequence[Judge]) -> None:
    """Some judges see images of one size only."""
    for size in {judge.config["size"] for judge in judges if "size" in judge.config}:
        if images.size != (size, size):
            width, height = images.size
            raise AirlibError(
                f"the images in {images.name} have {width} x {height} pixels and the judges of "
                f"this profile see {size} x {size}; add --resize {size}"
            )


# --- cache ---------------------------------------------------------------------------------------


@cache
def _cache(judges: tuple[Judge, ...], encoder: ClipEncoder) -> Callable[..., Path]:
    """identity -> the folder of the features that these networks see in a set of images."""
    networks = _hash(
        FORMAT, *(fingerprint(cast(nn.Module, judge)) for judge in judges), encoder_hash(encoder)
    )
    return lambda *identity: cache_directory() / "scores" / networks / _hash(*identity)


def _identity(images: ImageSet) -> tuple[str, int | None, int]:
    """Changes with whatever changes the images of a folder."""
    return list_hash(images.items), images.resize, images.batch


def _hash(*identity: str | float | None) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _not_empty(name: str, scores: Scores) -> Scores:
    if not scores.metrics:
        measure, reason = next(iter(scores.omitted.items()))
        raise AirlibError(f"nothing could be measured of {name}: {measure}: {reason}")
    return scores
