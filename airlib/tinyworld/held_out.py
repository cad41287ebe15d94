"""Domains whose captions no text-image model of the tiny world was ever shown.

Every species, age and style occurs in training, these combinations do not. What a model makes of
them is measured apart from what it was taught: only pairs of role "unseen" aim at one, none starts
from one. The world generator, like any large generator, has seen them all.
"""

import torch
from torch import Tensor

from airlib.tinyworld.domains import Domain

HELD_OUT = tuple(
    Domain.parse(name)
    for name in (
        "human/baby/sketch",
        "human/elderly/cartoon",
        "dog/baby/watercolor",
        "cat/adult/cartoon",
        "cat/baby/wall painting",
        "werewolf/adult/watercolor",
        "zombie/adult/cartoon",
        "fox/adult/sketch",
        "bear/baby/wall painting",
        "rabbit/adult/watercolor",
        "rabbit/baby/pixar",
        "monkey/adult/pixar",
    )
)


def is_held_out(domains: Tensor) -> Tensor:
    """Which of the domains [n, 3] are among `HELD_OUT`: bool [n]."""
    rows = torch.tensor([domain.index for domain in HELD_OUT])
    return (domains[:, None] == rows).all(dim=2).any(dim=1)
