"""Parameterizations by name: in profiles, in calls, and in the files of adaptations.

    moving = parameterization_named("domain_vector")
    register_parameterization("gains", gains)          # gains() -> Parameterization, your own
    world.adapt("nada", "human-baby", parameterization="gains")

    full synthesis convolutions affine mapping singular_values domain_vector domain_vector_post
    latent_direction domain_embedding                  see `airlib.parameterizations.stylegan2`
    layersK layersK_corrected                          NADA's adaptive selection of K layers
    loraR loraR_attention loraR_convolutions           LoRA of rank R, for diffusion models
    A + B                                              both at once

An adaptation is applied by what is registered under the name in its file, so a parameterization of
your own must be registered by the program that applies it too.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from airlib.errors import AirlibError
from airlib.parameterizations.base import AND, Parameterization, joined
from airlib.parameterizations.lora import TARGETS, lora, lora_of
from airlib.parameterizations.stylegan2 import PARAMETERIZATIONS, adaptive_layers

Make = Callable[[], Parameterization]

_makers: dict[str, Make] = dict(PARAMETERIZATIONS)
_LAYERS = re.compile(r"layers(\d{1,4})(_corrected)?")
_LORA = re.compile(rf"lora(\d{{1,4}})(?:_({'|'.join(TARGETS)}))?")
_FORMS = ("layersK", "layersK_corrected", "loraR", *(f"loraR_{target}" for target in TARGETS))
_OLD_LAYERS = re.compile(r"adaptive_layers_(\d+)_(official|corrected)")
_OLD_LORA = re.compile(rf"lora_(\d+)_({'|'.join(TARGETS)})(?:_(?:{'|'.join(TARGETS)}))?")


def parameterization_named(name: str) -> Parameterization:
    """The parameterization of a name such as "synthesis", "layers5", "lora4" or "domain_vector".

    "A + B" is both at once. Raises AirlibError for an unknown name.
    """
    made = [_made(part) for part in name.split(AND)]
    if None in made:
        raise AirlibError(
            f"unknown parameterization {name.split(AND)[made.index(None)]!r}; "
            f"choose from {', '.join(parameterization_names())}"
        )
    return joined([part for part in made if part is not None])


def parameterization_names() -> list[str]:
    """All names that `parameterization_named` knows; K (layers) and R (rank) stand for numbers."""
    return [*_makers, *_FORMS]


def register_parameterization(name: str, make: Make) -> None:
    """Let `make()` be the parameterization called `name`, here and where an adaptation is applied.

    Registering the same function again replaces it, so a notebook cell can be run twice. Raises
    AirlibError for a name that another function has, and for one that has a meaning already.
    """
    known = _makers.get(name)
    if AND in name or (known is None and _made(name)) or (known and not _same(known, make)):
        raise AirlibError(f"the parameterization name {name!r} is taken; choose another")
    _makers[name] = make


def _made(name: str) -> Parameterization | None:
    """One parameterization, without `AND`; None for an unknown name."""
    if name in _makers:
        return _makers[name]()
    if found := _LAYERS.fullmatch(name):
        return adaptive_layers(int(found[1]), layer_map="corrected" if found[2] else "official")
    if found := _LORA.fullmatch(name):
        return lora(int(found[1]), (found[2],) if found[2] else TARGETS)
    return None


def _same(first: Make, second: Make) -> bool:
    places = [(getattr(f, "__module__", f), getattr(f, "__qualname__", f)) for f in (first, second)]
    return places[0] == places[1]


# --- files ---------------------------------------------------------------------------------------


def parameterization_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Parameterization:
    """The parameterization that an adaptation with this configuration and these tensors names.

    Raises AirlibError if it is not registered here, and if the configuration names none.
    """
    if "parameterization" not in config:
        return _of_old_mixture(config, tensors)
    name = current_name(config["parameterization"])
    for part in name.split(AND):
        if _made(part) is None:
            module = config.get("parameterization_module", "an unknown module")
            raise AirlibError(
                f"this adaptation moves {part!r}, of {module}, which is not registered here; "
                f"import that module, or call register_parameterization({part!r}, ...)"
            )
    return parameterization_named(name)


def current_name(saved: str) -> str:
    """Today's name of a parameterization that a file names: some had other names before."""
    if found := _OLD_LAYERS.fullmatch(saved):
        return f"layers{found[1]}" + ("_corrected" if found[2] == "corrected" else "")
    if found := _OLD_LORA.fullmatch(saved):
        both = all(target in saved for target in TARGETS)
        return f"lora{found[1]}" + ("" if both else f"_{found[2]}")
    return saved


def _of_old_mixture(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Parameterization:
    """Mixtures once named no parameterization, only those of what was mixed."""
    if not config.get("mixture"):
        raise AirlibError("this adaptation does not say what moved; make it again")
    if any(".lora_" in name for name in tensors):
        return lora_of(tensors)
    return joined([parameterization_of(part, tensors) for part in config["mixture"]])
