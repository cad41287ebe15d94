"""What a latent says about a sitter, as numbers a mapping network can be taught.

The renderer turns one latent number into a colour that zigzags along a path, differently for every
species. An image loss alone hardly finds that: the first world generator gave every dog the average
fur. So the mapping network first learns, from attributes only and without drawing anything, a w
from which all attributes can be read linearly: those of the sitter in its own domain, and the
colours and marks that the same sitter would have as any other species.
"""

from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from airlib.seeding import rng
from airlib.tinyworld.anatomy import Rows
from airlib.tinyworld.attributes import LATENT_DIM, Attributes, attributes_from_latent
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.pool import sample_domains

LABELS = ("species", "age", "style")  # the condition says these already
FUR = ("fur_color",)
AS_ANOTHER_SPECIES = {
    "human": ("hair_color", "glasses", "beard", "female"),
    "dog": ("fur_color", "eye_patch"),
    "cat": ("fur_color", "stripes"),
    "werewolf": FUR,
    "fox": FUR,
    "bear": FUR,
    "rabbit": FUR,
    "monkey": FUR,
}
STATISTICS = 20_000  # sitters that the means and deviations are taken from


class Lessons:
    """Turns latents and domains into the facts that a mapping network is taught.

    Facts are numbers [B, `size`], standardised to zero mean and unit deviation: a sitter's
    attributes, and the colours and marks that it would have as any other species.
    """

    def __init__(self) -> None:
        stream = rng(0, "lesson statistics")
        z = torch.randn(STATISTICS, LATENT_DIM, generator=stream)
        facts = _facts(z, sample_domains(STATISTICS, stream))
        deviation = facts.std(dim=0)
        self.kept = deviation > 1e-3  # the others are the same for everybody
        self.mean, self.deviation = facts[:, self.kept].mean(dim=0), deviation[self.kept]
        self.size = len(self.mean)

    def __call__(self, z: Tensor, domains: Tensor) -> Tensor:
        """Facts [B, size] about the sitters of latents z [B, 64] in domains [B, 3]."""
        return (_facts(z, domains)[:, self.kept] - self.mean) / self.deviation


def _facts(z: Tensor, domains: Tensor) -> Tensor:
    """Own attributes, then those as another species, of B sitters, unscaled."""
    species = list(AS_ANOTHER_SPECIES)
    elsewhere = torch.tensor([Domain(name).index for name in species])
    everywhere = torch.cat([domains, elsewhere.repeat_interleave(len(z), dim=0)])
    own, *others = _split(attributes_from_latent(z.repeat(1 + len(species), 1), everywhere), len(z))
    columns = _columns(own)
    for name, attributes in zip(species, others, strict=True):
        columns += [_column(getattr(attributes, key)) for key in AS_ANOTHER_SPECIES[name]]
    return torch.cat(columns, dim=1)


def _split(attributes: Attributes, n: int) -> list[Attributes]:
    return [attributes[start : start + n] for start in range(0, len(attributes), n)]


def _columns(rows: Rows) -> list[Tensor]:
    """Every tensor of (nested) rows as [B, k]."""
    columns = []
    for field in fields(cast(Any, rows)):
        value = getattr(rows, field.name)
        if isinstance(value, Rows):
            columns += _columns(value)
        elif field.name not in LABELS:
            columns.append(_column(value))
    return columns


def _column(tensor: Tensor) -> Tensor:
    return tensor.float().reshape(len(tensor), -1)
