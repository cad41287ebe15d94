"""The exam that a judge must pass before its distances are printed anywhere.

    examine(load_judge(), "judge", seed=0)      # {"judge_exam_passed": 1.0, ...}

Frechet distances to a set of true images must grow as images get worse. In every domain and for
every kind of damage (`artefacts`) the order must be

    other true images  <  lightly damaged  <  heavily damaged  <  another species,

and a collapsed set, a few individuals over and over, must be farther than other true images. A
second measurement asks how far damage alone brings the source of an adaptation towards its target:
dots on a human must not pass for a zombie.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from airlib.evaluation.features import Judge
from airlib.evaluation.frechet import frechet_distance
from airlib.progress import track
from airlib.seeding import rng as stream
from airlib.tinyworld.artefacts import KINDS, damage
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import SPECIES, STYLES, Domain, all_domains
from airlib.tinyworld.renderer import render

IMAGES = 48  # in each set; equal for all, so that the bias of the Frechet distance is, too
LIGHT, HEAVY = 0.3, 0.9  # severities
COLLAPSE = 10  # times that every individual of a collapsed set appears
CHAIN = ("light", "heavy", "other")
LINKS = (*CHAIN, "collapse")  # each named after the set that must be the farther one
EXAM_PAIRS = tuple(
    [(Domain("human"), Domain("human", "baby"))]
    + [(Domain("human"), Domain(species)) for species in ("werewolf", "zombie", "cat")]
    + [(Domain("human"), Domain("human", style=style)) for style in STYLES[1:]]
    + [(Domain("dog"), Domain("cat")), (Domain("dog"), Domain("dog", style="watercolor"))]
)


def examine(
    judge: Judge,
    name: str,
    seed: int,
    domains: list[Domain] | None = None,
    n: int = IMAGES,
) -> dict[str, float]:
    """Grades of a judge over `domains` (default: all 114), on sets of n images each.

    `NAME_exam_passed` is the share of right orderings, `NAME_exam_LINK` the share for one link of
    the chain true < "light" < "heavy" damage < "other" species, or for "collapse", and
    `NAME_exam_worst_domain` the share in the domain with the fewest. `NAME_disguise` is the share
    of the distance from source to target that heavy damage of the source removes, averaged over
    `EXAM_PAIRS` and kinds: 0 is ideal. Some is due, since damage destroys what told the two domains
    apart. `NAME_disguise_worst` is its largest value.
    """
    exhibits = Exhibits(judge, seed, n)
    rows = [_table_row(exhibits, domain) for domain in _tracked(domains)]
    disguises = [share for pair in EXAM_PAIRS for share in _disguises(exhibits, *pair)]
    return {
        f"{name}_exam_passed": _mean([row["passed"] for row in rows]),
        **{f"{name}_exam_{link}": _mean([row[link] for row in rows]) for link in LINKS},
        f"{name}_exam_worst_domain": min(row["passed"] for row in rows),
        f"{name}_disguise": _mean(disguises),
        f"{name}_disguise_worst": max(disguises),
    }


def exam_table(
    judge: Judge, seed: int, domains: list[Domain] | None = None, n: int = IMAGES
) -> list[dict]:
    """One row per domain: the share of right orderings of each link, and what went wrong.

    Keys: "domain"; each of `LINKS`; "passed", the share over all links; "wrong", the orderings that
    were not kept, as (link, kind of damage).
    """
    exhibits = Exhibits(judge, seed, n)
    return [_table_row(exhibits, domain) for domain in _tracked(domains)]


class Exhibits:
    """Features [n, F] of the sets that a judge is shown, each rendered and read once."""

    def __init__(self, judge: Judge, seed: int, n: int) -> None:
        self.judge, self.seed, self.n = judge, seed, n
        self._truth: dict[Domain, Tensor] = {}
        self._again: dict[Domain, dict] = {}

    def truth(self, domain: Domain) -> Tensor:
        """Features [n, F] of the true images of a domain, to which distances are measured."""
        if domain not in self._truth:
            self._truth[domain] = self._read(self._renders(domain, "truth"))
        return self._truth[domain]

    def again(self, domain: Domain) -> dict[tuple[str, float], Tensor]:
        """Features [n, F] of other true images of a domain, as they are and damaged.

        Keys say what was done: (kind of damage, severity), and ("none", 0.0).
        """
        if domain not in self._again:
            images = self._renders(domain, "again")
            draw = stream(self.seed, "exam", str(domain), "damage")
            sets = {("none", 0.0): self._read(images)}
            for kind in KINDS:
                for severity in (LIGHT, HEAVY):
                    sets[kind, severity] = self._read(damage(images, kind, severity, draw))
            self._again[domain] = sets
        return self._again[domain]

    def _renders(self, domain: Domain, purpose: str) -> Tensor:
        draw = stream(self.seed, "exam", str(domain), purpose)
        return render(torch.randn(self.n, LATENT_DIM, generator=draw), domain)

    @torch.inference_mode()
    def _read(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.judge.features(batch) for batch in images.split(100)])


def other_species(domain: Domain) -> Domain:
    """The domain of the next species of `SPECIES`, equal in age and style; adult if elderly."""
    species = SPECIES[(SPECIES.index(domain.species) + 1) % len(SPECIES)]
    return Domain(species, "adult" if domain.age == "elderly" else domain.age, domain.style)


def _table_row(exhibits: Exhibits, domain: Domain) -> dict:
    right = _orderings(exhibits, domain)
    return {
        "domain": str(domain),
        **{link: _mean([kept for (of, _), kept in right.items() if of == link]) for link in LINKS},
        "passed": _mean(list(right.values())),
        "wrong": [ordering for ordering, kept in right.items() if not kept],
    }


def _orderings(exhibits: Exhibits, domain: Domain) -> dict[tuple[str, str], bool]:
    """Whether each ordering, named (link, kind of damage), is kept."""
    truth, again = exhibits.truth(domain), exhibits.again(domain)
    distance = {done: frechet_distance(features, truth) for done, features in again.items()}
    floor = distance["none", 0.0]
    other = frechet_distance(exhibits.truth(other_species(domain)), truth)
    right = {}
    for kind in KINDS:
        chain = (floor, distance[kind, LIGHT], distance[kind, HEAVY], other)
        for link, (near, far) in zip(CHAIN, pairwise(chain), strict=True):
            right[link, kind] = near < far
    few = torch.arange(exhibits.n) % max(1, exhibits.n // COLLAPSE)
    collapsed = again["none", 0.0][few]
    right["collapse", "none"] = floor < frechet_distance(collapsed, truth)
    return right


def _disguises(exhibits: Exhibits, source: Domain, target: Domain) -> list[float]:
    """For each kind of damage: how much nearer to the target it brings the source, as a share."""
    truth, unadapted = exhibits.truth(target), exhibits.again(source)
    start = frechet_distance(unadapted["none", 0.0], truth)
    if start == 0:  # a judge to whom source and target are the same
        return [1.0] * len(KINDS)
    disguised = [frechet_distance(unadapted[kind, HEAVY], truth) for kind in KINDS]
    return [max(0.0, 1 - distance / start) for distance in disguised]


def _tracked(domains: list[Domain] | None) -> Iterable[Domain]:
    return track(domains or all_domains(), "exam: domains")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
