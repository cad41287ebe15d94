"""What a method is told when it is made by name: where to start, where to go, what measures it.

    NADA.of(task, NADAConfig(), seed=0)             # the same as METHODS["nada"].of(...)

Every class of `methods.registry` is made from a `Task`; a world makes the task of each of its pairs
(`World.task`). What costs time, such as the inversion of a picture, is computed when a method asks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.generators.base import Generator
from airlib.methods.step import Objective


class Embedding(Protocol):
    """Images [B, 3, H, W] -> vectors [B, D] whose squared distance is a perceptual one."""

    def __call__(self, images: Tensor) -> Tensor:
        """The vectors, without gradient."""

    def embed(self, images: Tensor) -> Tensor:
        """The vectors, with gradient."""


@dataclass(frozen=True, eq=False)
class Task:
    """One adaptation to make: from the images of `generator` to a target in words or pictures.

    source_class, target_class: in words. picture(): one image [1, 3, H, H] in [-1, 1] of the
    target. latent(): w+ [1, num_ws, w_dim] of the source's image that resembles it. perceptual():
    what compares pictures. source_pictures(n): pictures [n, 3, H, H] of the source domain.
    """

    space: ClipSpace
    generator: Generator
    source_class: str
    target_class: str
    picture: Callable[[], Tensor]
    latent: Callable[[], Tensor]
    perceptual: Callable[[], Embedding]
    source_pictures: Callable[[int], Tensor]


class Method(Protocol):
    """A class of objectives that can be made by name.

    Config: a frozen dataclass; its fields are the numbers that a profile's table of this method, or
    the options of `World.adapt`, can set.
    """

    Config: type[Any]

    @classmethod
    def of(cls, task: Task, config: Any, seed: int) -> Objective:
        """The objective of one task. seed: of everything random in it."""
