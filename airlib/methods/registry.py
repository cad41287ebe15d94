"""Which methods there are: a name -> a class.

    objective = METHODS["air"].of(task, AIRConfig(t_int=0.2), seed=0)

    register_method("global_clip", GlobalClip)      # one of your own: see CONTRIBUTING.md
    world.adapt("global_clip", "human-baby", strength=2.0)

A class needs two things beside what an `Objective` is: `Config`, a frozen dataclass with a default
for every number, and `of(task, config, seed)`. Those numbers are then options of `World.adapt`, of
sweeps, and entries of a profile's table [methods.NAME].
"""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from airlib.errors import AirlibError
from airlib.methods.air import AIR
from airlib.methods.air_one_shot import AirMindTheGap
from airlib.methods.diffusion_clip import DiffusionCLIP
from airlib.methods.image_direction import ImageDirection
from airlib.methods.ipl import IPL
from airlib.methods.mind_the_gap import MindTheGap
from airlib.methods.nada import NADA
from airlib.methods.regularizers import DomainNorm, InDomainAngle
from airlib.methods.step import Regularizer
from airlib.methods.svl import SVL
from airlib.methods.target_clip import TargetCLIP
from airlib.methods.task import Method

METHODS: dict[str, type[Method]] = {
    "nada": NADA,
    "ipl": IPL,
    "svl": SVL,
    "air": AIR,
    "mind_the_gap": MindTheGap,
    "air_mind_the_gap": AirMindTheGap,
    "image_direction": ImageDirection,
    "target_clip": TargetCLIP,
    "diffusion_clip": DiffusionCLIP,
}
REGULARIZERS: dict[str, Callable[[float], Regularizer]] = {
    "in_domain_angle": InDomainAngle,
    "domain_norm": DomainNorm,
}
"""Terms that go with every method: name -> class, made with a weight. 0 leaves one out."""


def register_method(name: str, method: type[Method]) -> None:
    """Make a class of your own known by name to `World.adapt`, profiles and sweeps.

    Registering the same class again replaces it, so a notebook cell can be run twice. Raises
    AirlibError if the name belongs to another class, and for a class without `of` or without a
    dataclass `Config` in which every field has a default.
    """
    known = METHODS.get(name, method)
    if (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
        raise AirlibError(f"the method {name!r} is {known.__qualname__}; choose another name")
    METHODS[name] = method
    try:
        defaults_of(name)
        if not callable(getattr(method, "of", None)):
            raise AirlibError(f"{method.__qualname__} has no `of(task, config, seed)`; add one")
    except AirlibError:
        del METHODS[name]
        raise


def method_class(name: str) -> type[Method]:
    """The class called `name`; AirlibError that lists all names if there is none."""
    if name not in METHODS:
        raise AirlibError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]


def defaults_of(name: str) -> dict[str, Any]:
    """The numbers of a method's `Config` and their defaults."""
    method = method_class(name)
    try:
        entries = fields(method.Config)
    except (AttributeError, TypeError) as error:
        raise AirlibError(
            f"{method.__qualname__} has no `Config`; give it a frozen dataclass of its numbers"
        ) from error
    values: dict[str, Any] = {}
    for entry in entries:
        if entry.default is not MISSING:
            values[entry.name] = entry.default
        elif entry.default_factory is not MISSING:
            values[entry.name] = entry.default_factory()
        else:
            raise AirlibError(f"{method.__qualname__}.Config.{entry.name} has no default; add one")
    return values
