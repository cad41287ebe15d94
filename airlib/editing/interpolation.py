r"""Interpolation: between latents, between models, and how smooth the way is.

    walk(w_a, w_b, 12, "cosine")                    latents [12, ...] from one to the other
    between(source, baby, 0.5).apply(source)        a model half way from source to target
    mix(source, [baby, sketch], [0.7, 0.3])         weights w_S + sum_i alpha_i (w_i - w_S)
    Blend(source, [baby, sketch])([0.7, 0.3])       that model, where the shares change all the time
    smoothness(frames, perceptual)                  path length and largest step of drawn images

A mixture is an adaptation like any other. What is added are differences to the source, linear in
alpha: those of weights, of domain vectors (d - 1), of singular values, and of the products B A of
LoRA, whose ranks add up; each parameterization says how its tensors mix (`mixed`). So alpha = 0 is
the source, alpha = 1 the target, both bit for bit, and from target to target the shares are
(1 - alpha, alpha). Shares beyond 0 and 1 are allowed: they exaggerate or invert what an adaptation
did, and nothing promises a good image there.

AIR's code eases its steps by a cosine (12 between latents, 6 between models) and interpolates
latents in z: `generator.map(walk(z_a, z_b, 12, "cosine"))`; its text says w. Coarse from a walk and
fine from one picture: `mix_styles(walk(...), style)`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.generators.identity import identity, is_source
from airlib.parameterizations.base import Parameterization, check, joined, load

Kind = Literal["linear", "spherical", "cosine"]


def alphas(n: int, kind: Kind = "linear") -> list[float]:
    """n shares of the end, from 0 to 1; "cosine" starts and arrives slowly, the others are even."""
    if n < 2:
        raise AirlibError(f"a walk of {n} steps has no two ends; choose at least 2")
    if kind not in ("linear", "spherical", "cosine"):
        raise AirlibError(f"unknown walk {kind!r}; choose linear, spherical or cosine")
    even = [i / (n - 1) for i in range(n)]
    return [(1 - math.cos(math.pi * a)) / 2 for a in even] if kind == "cosine" else even


def walk(start: Tensor, end: Tensor, n: int, kind: Kind = "linear") -> Tensor:
    """Latents [n, ...] from `start` [...] to `end` [...], z, w, w+ or x_T; the ends are exact.

    "linear" and "cosine" go straight. "spherical" turns by equal angles, each latent being one
    vector, and changes the length evenly: made for normal latents (z, x_T), whose length says how
    likely they are and which on a straight line become too short. Raises AirlibError for latents of
    different shapes, and for opposite ones, between which there is no one arc.
    """
    if start.shape != end.shape:
        raise AirlibError(f"no walk from {list(start.shape)} to {list(end.shape)}: shapes differ")
    step = slerp if kind == "spherical" else torch.lerp
    inner = [step(start, end, alpha) for alpha in alphas(n, kind)[1:-1]]
    return torch.stack([start, *inner, end])


def slerp(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """The latent at share `alpha` of the arc from `start` to `end`, of any shape."""
    lengths = start.norm(), end.norm()
    if not all(lengths):
        raise AirlibError("a latent of zeros has no direction; walk in a straight line")
    a, b = start / lengths[0], end / lengths[1]
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())  # exact also for small angles
    if angle > math.pi - 1e-3:
        raise AirlibError("opposite latents are joined by no one arc; walk in a straight line")
    length = torch.lerp(*lengths, alpha)
    if angle < 1e-6:
        return length * a
    turned = torch.sin((1 - alpha) * angle) * a + torch.sin(alpha * angle) * b
    return length * turned / torch.sin(angle)


# --- models --------------------------------------------------------------------------------------


def between(source: Generator, adaptation: Adaptation, alpha: float) -> Adaptation:
    """`mix` of one: 0 is the source, 1 the adaptation."""
    return mix(source, [adaptation], [alpha])


def mix(
    source: Generator, adaptations: Sequence[Adaptation], shares: Sequence[float]
) -> Adaptation:
    """An adaptation that changes the weights by sum_i shares_i times what adaptation i changes.

    Adaptations of different parameterizations are mixed if these can act together (weights and
    domain vectors can; LoRA and whole weights, singular values and whole weights cannot).

    Raises AirlibError for those that cannot, for adaptations of another source, and for shares that
    are not one finite number each.
    """
    return Blend(source, adaptations).mixture(shares)


class Blend:
    """Models of one source at any shares: `Blend(source, adaptations)(shares)`.

    The source is compared with that of the adaptations here and never again, because hashing it
    takes longer than mixing; so it must not change. Raises AirlibError as `mix`.
    """

    def __init__(self, source: Generator, adaptations: Sequence[Adaptation]) -> None:
        self.source, self.adaptations = source, list(adaptations)
        self.made_from = identity(source)
        self._attached: dict[str, tuple[Generator, dict[str, Tensor]]] = {}
        for adaptation in adaptations:
            saved = adaptation.config["source"]
            if saved != self.made_from and not is_source(saved, source):
                raise AirlibError(
                    "only adaptations of one source can be mixed, and this source is another than "
                    f"that of the adaptation {adaptation.config.get('labels', {})}"
                )

    def mixture(self, shares: Sequence[float]) -> Adaptation:
        """The mixture in these shares, one for each adaptation, as an adaptation; see `mix`."""
        made, n = self.adaptations, len(self.adaptations)
        if not n or n != len(shares) or not all(map(math.isfinite, shares)):
            raise AirlibError(
                f"cannot mix {n} adaptations in shares {list(shares)}; "
                "give one finite number for each"
            )
        parts = [part for part in zip(made, shares, strict=True) if part[1] != 0]
        parts = parts or [(made[0], 0.0)]
        if [share for _, share in parts] == [1.0]:
            return parts[0][0]
        moving, tensors = self._mixed(parts)
        config = {
            "source": self.made_from,
            "parameterization": moving.name,
            "parameterization_module": moving.module,
            "mixture": [{"share": share, **made.config} for made, share in parts],
        }
        return Adaptation(tensors, config, made_by=moving)

    def __call__(self, shares: Sequence[float]) -> Generator:
        """The generator at these shares: the same bits as `mix(...).apply(source)`."""
        mixture = self.mixture(shares)
        attached, neutral = self._attach(mixture.parameterization)
        blended = attached.copy_frozen()
        parameters = dict(blended.named_parameters(remove_duplicate=False))
        load({name: parameters[name] for name in neutral}, mixture.tensors)
        return blended

    def _mixed(
        self, parts: Sequence[tuple[Adaptation, float]]
    ) -> tuple[Parameterization, dict[str, Tensor]]:
        """What moved in the mixture, and its tensors: each family is mixed by its own rule, and
        where two families share a tensor, their changes add up.
        """
        tensors: dict[str, Tensor] = {}
        kinds = []
        for group in self._families(parts).values():
            first, (_, neutral) = group[0][0], self._attach(group[0][0])
            kind, mixed = first.mixed(neutral, [one[1] for one in group], [one[2] for one in group])
            kinds.append(kind)
            for name, value in mixed.items():
                before = tensors.get(name)
                tensors[name] = value if before is None else before + (value - neutral[name])
        moving = joined(kinds)
        self._attach(moving)  # refuses what cannot act together
        return moving, tensors

    def _families(
        self, parts: Sequence[tuple[Adaptation, float]]
    ) -> dict[str, list[tuple[Parameterization, dict[str, Tensor], float]]]:
        """family -> (parameterization, its tensors, share) of all parts of the adaptations."""
        families: dict[str, list[tuple[Parameterization, dict[str, Tensor], float]]] = {}
        for made, share in parts:
            left = dict(made.tensors)
            check(self._attach(made.parameterization)[1], left)
            for part in made.parameterization.parts:
                _, neutral = self._attach(part)
                state = {n: left.pop(n).to(v.device) for n, v in neutral.items() if n in left}
                families.setdefault(part.family, []).append((part, state, share))
        return families

    def _attach(self, moving: Parameterization) -> tuple[Generator, dict[str, Tensor]]:
        """A copy of the source with `moving` attached, and its tensors, which change nothing yet;
        made once for each name.
        """
        if moving.name not in self._attached:
            copy = self.source.copy_frozen()
            neutral = {name: p.detach() for name, p in moving.attach(copy).items()}
            self._attached[moving.name] = copy.requires_grad_(False).eval(), neutral
        return self._attached[moving.name]


# --- smoothness ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Smoothness:
    """How even a walk of n frames is.

    steps: perceptual distances between neighbours [n - 1].
    path_length: perceptual path length (Karras et al. 2019), the mean of distance / eps^2; eps is
        the share of the walk that one step is, 1 / (n - 1), so frames should be many.
    largest_step: the largest step over the mean one, both as square roots of distances: 1 for an
        even walk (and for one that stands still), n - 1 for one that jumps once.
    """

    steps: Tensor
    path_length: float
    largest_step: float


@torch.no_grad()
def smoothness(
    frames: Tensor | Iterable[Tensor], features: Callable[[Tensor], Tensor]
) -> Smoothness:
    """How even a walk is: images [n, 3, H, W] in [-1, 1] in their order, or batches of them.

    features: images -> [B, D] whose squared distances count, such as a `PerceptualEmbedding`; it
    sees every image once. Raises AirlibError for fewer than two images.
    """
    steps, last = [], None
    for batch in [frames] if isinstance(frames, Tensor) else frames:
        phi = features(batch)
        phi = phi if last is None else torch.cat([last, phi])
        steps.append(phi.diff(dim=0).double().square().sum(dim=1))
        last = phi[-1:]
    distances = torch.cat(steps) if steps else torch.zeros(0)
    if not len(distances):
        raise AirlibError("smoothness is about steps between images; give at least two")
    lengths = distances.sqrt()
    even = lengths.mean() == 0
    return Smoothness(
        steps=distances,
        path_length=float(distances.mean() * len(distances) ** 2),
        largest_step=1.0 if even else float(lengths.max() / lengths.mean()),
    )
