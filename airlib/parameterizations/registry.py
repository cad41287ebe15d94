"""Temporary until the branch that remakes parameterizations is merged."""

import re

from airlib.errors import AirlibError
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.lora import diffusion_parameterization
from airlib.parameterizations.stylegan2 import PARAMETERIZATIONS, WITH_MAPPING, adaptive_layers


class _Layers:
    def __init__(self, k, layer_map):
        self.k, self.layer_map, self.whole = k, layer_map, False

    def bind(self, space, target_class):
        return adaptive_layers(self.k, space, target_class, self.layer_map)


def parameterization_named(name: str) -> Parameterization:
    if name in PARAMETERIZATIONS:
        found = PARAMETERIZATIONS[name]()
        object.__setattr__(found, "whole", name in WITH_MAPPING)
    elif m := re.fullmatch(r"layers(\d+)(_corrected)?", name):
        return _Layers(int(m[1]), "corrected" if m[2] else "official")
    elif name.startswith("lora"):
        found = diffusion_parameterization(name)
    else:
        known = ", ".join(PARAMETERIZATIONS)
        raise AirlibError(f"unknown parameterization {name!r}; choose from {known}, layersK")
    return found
