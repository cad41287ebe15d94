r"""Interpolation: between latents, between models, and how smooth the way is.

    walk(w_a, w_b, 12, "cosine")                    latents [12, ...] from one to the other
    between(source, baby, 0.5).apply(source)        a model half way from source to target
    mix(source, [baby, sketch], [0.7, 0.3])         weights w_S + sum_i alpha_i (w_i - w_S)
    Blend(source, [baby, sketch])([0.7, 0.3])       that model, where the shares change all the time
    smoothness(frames, perceptual)                  path length and largest step of drawn images

A mixture is an adaptation like any other. What is added are differences to the source, linear in
alpha: those of weights, of domain vectors (d - 1) and of the products B A of LoRA, whose ranks add
up. So alpha = 0 is the source, alpha = 1 the target, both bit for bit, and from target to target
the shares are (1 - alpha, alpha). Shares beyond 0 and 1 are allowed: they exaggerate or invert what
an adaptation did, and nothing promises a good image there.

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

from airlib.adaptation import Adaptation, fingerprint
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.generators.stylegan2_layers import DOMAIN_PARAMETERS
from airlib.parameterizations.lora_layers import combine_lora

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

    Raises AirlibError for adaptations of another source, for LoRA beside other tensors (which would
    have to be merged first), and for shares that are not one finite number each.
    """
    return Blend(source, adaptations).mixture(shares)


class Blend:
    """Models of one source at any shares. The source is compared with that of the adaptations here
    and never again, because hashing it takes longer than mixing; so it must not change.

    Raises AirlibError as `mix`.
    """

    def __init__(self, source: Generator, adaptations: Sequence[Adaptation]) -> None:
        self.source, self.adaptations = source, list(adaptations)
        self.made_from = fingerprint(source)
        for adaptation in adaptations:
            if adaptation.config["source"] != self.made_from:
                raise AirlibError(
                    "only adaptations of one source can be mixed, and this source is another than "
                    f"that of the adaptation {adaptation.config.get('labels', {})}"
                )

    def mixture(self, shares: Sequence[float]) -> Adaptation:
        """See `mix`."""
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
        mixture = [{"share": share, **made.config} for made, share in parts]
        config = {"source": self.made_from, "mixture": mixture}
        return Adaptation(_mixed(self.source, parts), config)

    def __call__(self, shares: Sequence[float]) -> Generator:
        """The same bits as `mix(source, adaptations, shares).apply(source)`."""
        blended = self.source.copy_frozen()
        blended.load_state_dict(self.mixture(shares).tensors, strict=False)
        return blended


def _mixed(source: Generator, parts: list[tuple[Adaptation, float]]) -> dict[str, Tensor]:
    are_lora = [".lora_" in name for made, _ in parts for name in made.tensors]
    if any(are_lora):
        if not all(are_lora):
            raise AirlibError("LoRA can be mixed with LoRA only; train the others as LoRA too")
        return combine_lora([made.tensors for made, _ in parts], [share for _, share in parts])
    weights, mixed = source.state_dict(), {}
    for made, share in parts:
        for name, value in made.tensors.items():
            unchanged = weights[name].to(value) if name in weights else _neutral(name, value)
            mixed[name] = mixed.get(name, unchanged) + share * (value - unchanged)
    return mixed


def _neutral(name: str, value: Tensor) -> Tensor:
    """What changes nothing, for tensors that the source does not have: a domain vector of ones,
    TargetCLIP's direction of zeros.
    """
    is_domain = name.rpartition(".")[2] in DOMAIN_PARAMETERS.values()
    return torch.ones_like(value) if is_domain else torch.zeros_like(value)


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
    """How even a walk is, from its images [n, 3, H, W] in [-1, 1] in order, or batches of them.

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
