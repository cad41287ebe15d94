"""Losses that HyperDomainNet (Alanov et al. 2022) adds to a directional loss.

    adapt(source, space, NADA(...), domain_vector(), config, regularizers=[InDomainAngle(1.0)])

- In-domain angle consistency (section 3.2): adapted images keep the angles in CLIP space that their
  sources have with each other, so that they do not all become one image.
- Target-target direction (section 4): images adapted to two targets differ as their texts do, so
  that one network for many targets does not average them.
- Domain norm (section 4): a domain vector stays near one, which changes nothing.

Paper and code normalise the first and the last differently; both are here, the paper's by default.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.generators.stylegan2_layers import DOMAIN_PARAMETERS
from airlib.methods.step import Step

Source = Literal["paper", "code"]


class InDomainAngle:
    """`in_domain_angle` of a step's images, summed over CLIP models, beside any objective.

    With random views of each image all views of the batch are compared with each other. The weight
    of "code" does not depend on the batch; that of "paper" is smaller by n (n - 1).
    """

    name = "in_domain_angle"

    def __init__(self, weight: float, as_in: Source = "code"):
        self.weight, self.as_in = weight, _checked(as_in)
        self.settings = {"name": self.name, "weight": weight, "as_in": as_in}

    def __call__(self, step: Step) -> Tensor:
        if len(step.latents) < 2:
            raise AirlibError("the in-domain angle compares images; use a batch of at least 2")
        source, adapted = step.source_embeddings, step.adapted_embeddings
        return step.space.weighted(
            lambda before, after: in_domain_angle(before, after, self.as_in), source, adapted
        )


class DomainNorm:
    """`domain_norm` of the domain vectors that are adapted, beside any objective."""

    name = "domain_norm"

    def __init__(self, weight: float, as_in: Source = "paper"):
        self.weight, self.as_in = weight, _checked(as_in)
        self.settings = {"name": self.name, "weight": weight, "as_in": as_in}

    def __call__(self, step: Step) -> Tensor:
        ends = tuple(DOMAIN_PARAMETERS.values())
        named = step.adapted.named_parameters()
        vectors = [value for name, value in named if name.rpartition(".")[2] in ends]
        if not vectors:
            raise AirlibError("there is no domain vector to keep near one; adapt domain_vector()")
        return domain_norm(vectors, self.as_in)


def in_domain_angle(source: Tensor, adapted: Tensor, as_in: Source = "paper") -> Tensor:
    """How much the angles between images change: unit embeddings [B, D] of source and adapted.

    "paper": sum of (cos_ij - cos'_ij)^2 over all ordered pairs (Eq. 11). "code": the mean over
    pairs, which does not grow with the batch. No gradient reaches `source`.
    """
    difference = source.detach() @ source.detach().T - adapted @ adapted.T
    pairs = len(source) * (len(source) - 1)
    off_diagonal = ~torch.eye(len(source), dtype=torch.bool, device=source.device)
    total = difference[off_diagonal].square().sum()
    if _checked(as_in) == "paper":
        return total
    return total / pairs


def target_target_direction(images: Tensor, texts: Tensor) -> Tensor:
    """1 - cos between image offset and text offset, mean over the pairs of a batch.

    images: unit embeddings [B, D] of adapted images. texts: [B, K, D], each image's target text in
    K templates; offsets are averaged over them. Two images of the same target have no text offset
    and count as 1, without gradient.
    """
    first, second = torch.tril_indices(len(images), len(images), offset=-1, device=images.device)
    text_offsets = (texts[second] - texts[first]).mean(dim=1)
    return directional_loss(text_offsets, images[second] - images[first])


def domain_norm(vectors: Sequence[Tensor], as_in: Source = "paper") -> Tensor:
    """How far domain vectors, one [..., C] per layer, are from one.

    "paper": squared norm of d - 1 over all layers, mean over leading dimensions. "code": the sum
    over layers of the mean square, in which a wide layer weighs as much as a narrow one.
    """
    squares = [(vector - 1).square() for vector in vectors]
    if _checked(as_in) == "paper":
        return torch.stack([square.sum(dim=-1).mean() for square in squares]).sum()
    return torch.stack([square.mean() for square in squares]).sum()


def _checked(as_in: Source) -> Source:
    if as_in not in ("paper", "code"):
        raise AirlibError(f'as_in={as_in!r} is unknown; use "paper" or "code"')
    return as_in
