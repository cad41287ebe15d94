"""airlib: zero-shot generative model adaptation, reproduced in notebooks.

    from airlib import open_world

    world = open_world("tiny", "human")
    sketch = world.adapt("air", "photo-sketch")
    images = world.draw(sketch.apply(world.generator), 8)      # [8, 3, 64, 64] in [-1, 1]

Start with `notebooks/00_start_here.ipynb`, or on the command line with `airlib reproduce`. The
names below are imported when they are first used, so `import airlib` itself is cheap.
"""
# ruff: noqa: F401 - the imports below are for type checkers

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airlib.adaptation import Adaptation, AdaptationConfig, adapt
    from airlib.clip_space.encoder import ClipEncoder, ClipSpace
    from airlib.editing.interpolation import mix
    from airlib.errors import AirlibError
    from airlib.experiments.sweep import sweep
    from airlib.generators.base import Generator
    from airlib.generators.diffusion import DiffusionGenerator
    from airlib.generators.stylegan2 import StyleGAN2
    from airlib.methods.air import AIR
    from airlib.methods.ipl import IPL
    from airlib.methods.mind_the_gap import MindTheGap
    from airlib.methods.nada import NADA
    from airlib.methods.registry import register_method
    from airlib.methods.step import Objective, Step
    from airlib.methods.svl import SVL
    from airlib.parameterizations.base import Parameterization
    from airlib.parameterizations.registry import register_parameterization
    from airlib.profiles import load_profile
    from airlib.worlds import World, open_world

__version__ = "0.1.0"

_HOMES = {
    "AIR": "methods.air",
    "Adaptation": "adaptation",
    "AdaptationConfig": "adaptation",
    "AirlibError": "errors",
    "ClipEncoder": "clip_space.encoder",
    "ClipSpace": "clip_space.encoder",
    "DiffusionGenerator": "generators.diffusion",
    "Generator": "generators.base",
    "IPL": "methods.ipl",
    "MindTheGap": "methods.mind_the_gap",
    "NADA": "methods.nada",
    "Objective": "methods.step",
    "Parameterization": "parameterizations.base",
    "SVL": "methods.svl",
    "Step": "methods.step",
    "StyleGAN2": "generators.stylegan2",
    "World": "worlds",
    "adapt": "adaptation",
    "load_profile": "profiles",
    "mix": "editing.interpolation",
    "open_world": "worlds",
    "register_method": "methods.registry",
    "register_parameterization": "parameterizations.registry",
    "sweep": "experiments.sweep",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'airlib' has no attribute {name!r}")
    value = getattr(import_module(f"airlib.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
