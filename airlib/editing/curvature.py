r"""Curvature: coordinates in which a search for latents needs a quarter of the steps.

    curvature = Curvature.of(generator, perceptual, prior, config.prior_weight, 320, rng(0, "c"))
    invert(generator, images, perceptual, prior, config, start, curvature)

A step along one direction of w+ repaints half of the image, along another it changes nothing, and
Adam, which scales every number for itself, does not see directions. The loss of `inversion` is a
sum of squares |r(w)|^2, so near its least its second derivative is 2 J^T J with J = dr/dw (Gauss
and Newton). It differs little between sitters, and its mean over drawn images serves for any:

    H = E[J^T J] + prior + floor,    H = L L^T,    x = L^T w

In x all directions count about the same. For random signs s, (J^T s)(J^T s)^T has the mean J^T J
(Hutchinson 1990), so every drawn image costs one backward pass. The prior's part is known exactly.
This is ours: II2S searches in w+ itself.
"""

from dataclasses import dataclass

import torch
from torch import Generator as Rng
from torch import Tensor

from airlib.editing.p_norm import PNorm
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.stylegan2 import StyleGAN2

DRAWN_AT_ONCE = 8
FLOOR = 0.25  # of the mean over directions: what no drawn image has told of counts this much


@dataclass(frozen=True, eq=False)
class Curvature:
    """Coordinates x = L^T w of a search for latents, in which all directions count about the same.

    factor: the lower triangle L [d, d] of the curvature H = L L^T of an inversion's loss, where d =
    num_ws * w_dim is the number of entries of w+.
    """

    factor: Tensor

    @classmethod
    def of(
        cls, generator: StyleGAN2, perceptual: PerceptualEmbedding, prior: PNorm,
        prior_weight: float, n: int, rng: Rng,
    ) -> "Curvature":  # fmt: skip
        """The curvature of the loss of `invert`, as the mean over n drawn images.

        prior_weight: the weight of the prior in that loss. Raises AirlibError if n is below 1.
        """
        if n < 1:
            raise AirlibError("a curvature is the mean over drawn images: take at least 1")
        latents = generator.sample_latents(n, rng)
        drawn = torch.zeros((), dtype=torch.float64, device=latents.device)
        for part in latents.split(DRAWN_AT_ONCE):
            gradients = _gradients(generator, perceptual, part, rng).double()
            drawn = drawn + gradients.T @ gradients / n
        known = prior.curvature(latents[:, 0]) * prior_weight / len(drawn)
        whole = drawn + torch.block_diag(*[known] * generator.num_ws)
        whole.diagonal().add_(FLOOR * drawn.diagonal().mean())
        return cls(torch.linalg.cholesky(whole).float())

    def coordinates(self, latents: Tensor) -> Tensor:
        """Latents w [n, num_ws, w_dim] -> coordinates x of the same shape."""
        return (latents.flatten(1) @ self.factor).view_as(latents)

    def latents(self, coordinates: Tensor) -> Tensor:
        """Coordinates x [n, num_ws, w_dim] -> latents w of the same shape; differentiable."""
        flat = coordinates.flatten(1).T
        return torch.linalg.solve_triangular(self.factor.T, flat, upper=True).T.view_as(coordinates)


def _gradients(
    generator: StyleGAN2, perceptual: PerceptualEmbedding, latents: Tensor, rng: Rng
) -> Tensor:
    """J^T s [n, d] of what the loss squares and sums: pixels, and the embedding of the images."""
    latents = latents.detach().requires_grad_(True)
    drawn = generator(latents)
    residuals = (drawn.flatten(1) / drawn[0].numel() ** 0.5, perceptual.embed(drawn))
    pixels, embedding = ((_signs(r, rng) * r).sum() for r in residuals)
    total = pixels + embedding
    return torch.autograd.grad(total, latents)[0].flatten(1)


def _signs(like: Tensor, rng: Rng) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=rng).to(like) * 2 - 1
