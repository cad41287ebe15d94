"""The domains of the tiny world: who is portrayed (species), how old, and in which style.

A domain is one (species, age, style) triple. Only humans grow old here, so there are
(9 species x 2 ages + 1) x 6 styles = 114 of them. The same latent vector shows the same
pose, light and background in every domain (see ``attributes``), which is what makes the
true target of any source image available.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError

SPECIES = ("human", "dog", "cat", "werewolf", "zombie", "fox", "bear", "rabbit", "monkey")
AGES = ("adult", "baby", "elderly")
STYLES = ("photo", "sketch", "cartoon", "pixar", "watercolor", "wall painting")


@dataclass(frozen=True)
class Domain:
    """One kind of portrait, e.g. ``Domain("dog", "baby", "sketch")``.

    Raises AirlibError, listing the allowed words, for a name that does not exist and for
    an elderly species other than human.
    """

    species: str
    age: str = "adult"
    style: str = "photo"

    def __post_init__(self) -> None:
        _check_word("species", self.species, SPECIES)
        _check_word("style", self.style, STYLES)
        _check_word("age", self.age, AGES if self.species == "human" else AGES[:2])

    @property
    def index(self) -> tuple[int, int, int]:
        """Positions in SPECIES, AGES and STYLES: one row of a ``domains`` tensor [n, 3]."""
        return (
            SPECIES.index(self.species),
            AGES.index(self.age),
            STYLES.index(self.style),
        )

    @classmethod
    def from_index(cls, species: int, age: int, style: int) -> "Domain":
        """The domain at these positions in SPECIES, AGES and STYLES: the inverse of ``index``."""
        return cls(SPECIES[species], AGES[age], STYLES[style])

    @classmethod
    def parse(cls, text: str) -> "Domain":
        """The domain called "dog/baby/sketch" (see ``str``); age and style may be left out.

        Raises AirlibError for unknown words and more than three of them.
        """
        words = text.split("/")
        if len(words) > 3:
            raise AirlibError(f"cannot read {text!r} as species/age/style, e.g. dog/baby/sketch")
        return cls(*words)

    def __str__(self) -> str:
        return f"{self.species}/{self.age}/{self.style}"


def all_domains() -> list[Domain]:
    """The 114 domains, ordered by species, age, style."""
    return [
        Domain(species, age, style)
        for species in SPECIES
        for age in (AGES if species == "human" else AGES[:2])
        for style in STYLES
    ]


def domain_rows(domains: "Domain | Tensor", n: int) -> Tensor:
    """Indices of the domains of n portraits, checked: LongTensor [n, 3].

    domains: one Domain for all n, or an integer tensor [n, 3] of ``Domain.index`` rows.

    Raises AirlibError for a wrong shape, an index out of range or an elderly animal.
    """
    if isinstance(domains, Domain):
        return torch.tensor(domains.index).expand(n, 3)
    if not isinstance(domains, Tensor) or domains.is_floating_point():
        raise AirlibError("domains must be a Domain or an integer tensor of shape [n, 3]")
    if domains.shape != (n, 3):
        raise AirlibError(f"expected domains of shape [{n}, 3], got {list(domains.shape)}")
    sizes = torch.tensor([len(SPECIES), len(AGES), len(STYLES)])
    outside = ((domains < 0) | (domains >= sizes)).any(1)
    elderly_animal = (domains[:, 1] == AGES.index("elderly")) & (domains[:, 0] != 0)
    for row in domains[outside | elderly_animal].tolist():
        raise AirlibError(
            f"no such domain (species, age, style): {row}; indices must be below "
            f"{sizes.tolist()}, and age {AGES.index('elderly')} (elderly) exists for humans only"
        )
    return domains.long()


def _check_word(kind: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        raise AirlibError(f"unknown {kind} {word!r}; choose one of: {', '.join(allowed)}")
