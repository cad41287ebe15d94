"""A world: a source generator, a CLIP space, and the pairs that can be tried in it.

    world = open_world("tiny", "human")
    baby = world.adapt("air", "human-baby", seed=0)
    images = baby.apply(world.generator)(world.sample(8))

`profile` decides weights and numbers, never what a method does. Where the true target of a latent
can be drawn (`world.knows_truth`, the tiny world) a method is compared with what it should have
made; elsewhere with reference images of the target.
"""

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.profiles import Profile, load_profile
from airlib.worlds.base import World
from airlib.worlds.paper import PaperWorld
from airlib.worlds.tiny import TinyWorld
from airlib.worlds.tiny_diffusion import TinyDiffusionWorld

__all__ = ["PaperWorld", "TinyDiffusionWorld", "TinyWorld", "World", "open_space", "open_world"]

WORLDS: dict[str, type[World]] = {"tiny": TinyWorld, "paper": PaperWorld}


def open_world(profile: str | Profile = "tiny", source: str | None = None) -> World:
    """The world of a profile: a source generator, a CLIP space, and the pairs that can be tried.

        world = open_world("tiny", "human")

    profile: "tiny", "paper", or one with changed numbers (`load_profile`). source: a name of its
    table [sources]; default: the first.
    Raises AirlibError for unknown names, and for missing or damaged weights.
    """
    numbers = load_profile(profile) if isinstance(profile, str) else profile
    source = source or next(iter(numbers.sources))
    if source not in numbers.sources:
        raise AirlibError(f"unknown source {source!r}; choose from {', '.join(numbers.sources)}")
    by_diffusion = numbers.name == "tiny" and numbers.sources[source].generator == "diffusion"
    return (TinyDiffusionWorld if by_diffusion else WORLDS[numbers.name]).open(numbers, source)


def open_space(profile: str | Profile = "tiny") -> ClipSpace:
    """The CLIP models of a profile, for questions that need no generator."""
    numbers = load_profile(profile) if isinstance(profile, str) else profile
    return WORLDS[numbers.name].clip(numbers)
