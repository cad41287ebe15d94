"""Every number of a method in a profile: what `World.adapt` and sweeps take as options.

    numbers_of(load_profile("tiny"), "air")["t_int"]         # 0.1

They are those of the loop (`AdaptationConfig`), what may move (`parameterization`), the weights of
the regularizers, and the fields of the method's own `Config`. A profile's table [methods.NAME] or
[arms.NAME] changes their defaults; [for_diffusion] does where the table was made for a StyleGAN2.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from airlib.adaptation import AdaptationConfig
from airlib.clip_space.templates import templates_of
from airlib.errors import AirlibError
from airlib.methods.registry import METHODS, REGULARIZERS, defaults_of, method_class
from airlib.profiles import Profile, checked, method_names, method_numbers

NOT_OPTIONS = ("seed", "checkpoint_every")  # of the loop, but no numbers of a method


def loop_defaults() -> dict[str, Any]:
    """Numbers of the loop, what may move, and weights of regularizers, before any profile."""
    loop = {
        entry.name: entry.default if entry.default is not MISSING else {}
        for entry in fields(AdaptationConfig)
        if entry.name not in NOT_OPTIONS
    }
    return loop | {"parameterization": "synthesis"} | dict.fromkeys(REGULARIZERS, 0.0)


def method_of(profile: Profile, name: str) -> str:
    """The method of `METHODS` behind a name: an arm's, or the name itself.

    Raises AirlibError that lists methods and arms for an unknown name.
    """
    if name in profile.arms:
        name = profile.arms[name].method
    if name not in METHODS:
        known = dict.fromkeys([*method_names(profile), *METHODS])
        raise AirlibError(f"unknown method {name!r}; choose from {', '.join(known)}")
    return name


def is_method(profile: Profile, name: str) -> bool:
    """Whether a name is that of a method or arm, and not of a reference row such as "source"."""
    return name in METHODS or name in profile.arms


def is_by_picture(profile: Profile, name: str) -> bool:
    """Whether a method or arm is shown a picture of the target instead of being told in words."""
    return getattr(method_class(method_of(profile, name)), "by_picture", False)


def mixes_styles(profile: Profile, name: str) -> bool:
    """Whether the images of a method or arm are drawn with the fine styles of its picture."""
    return getattr(method_class(method_of(profile, name)), "mixes_styles", False)


def numbers_of(profile: Profile, name: str, generator: str = "stylegan2") -> dict[str, Any]:
    """All numbers of a method or arm. generator: kind of the source, "stylegan2" or "diffusion".

    A method of your own without a table runs with its `Config` and the loop of [methods.nada].
    """
    method = method_of(profile, name)
    numbers = loop_defaults() | defaults_of(method)
    if "templates" in numbers:
        numbers["templates"] = profile.world.templates
    if name in method_names(profile):
        table = method_numbers(profile, name)
    else:
        table = {k: v for k, v in method_numbers(profile, "nada").items() if k in numbers}
    if unknown := table.keys() - numbers.keys():
        raise AirlibError(
            f"profile {profile.name} sets {min(unknown)!r}, which {method} does not have; "
            f"choose from {', '.join(numbers)}"
        )
    numbers |= table
    if generator == "diffusion" and not _moves_in_diffusion(numbers["parameterization"]):
        numbers |= profile.for_diffusion.as_dict()
    return numbers


def changed(numbers: dict[str, Any], options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`numbers` of the method `name` with `options` in place of some.

    Raises AirlibError for an option that it does not have, and for a value of another type.
    """
    given = dict(options)
    for key, value in options.items():
        if key not in numbers:
            raise AirlibError(f"{name} has no option {key!r}; choose from {', '.join(numbers)}")
        if key == "templates":  # a name, a sentence, or several
            templates_of(value)
        elif key != "weights":  # a table
            given[key] = checked(f"{name}.{key}", _as_in_a_profile(numbers[key]), value)
    return {**numbers, **given}


def _as_in_a_profile(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _moves_in_diffusion(parameterization: str) -> bool:
    return parameterization == "full" or parameterization.startswith("lora")
