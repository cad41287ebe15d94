r"""P-norm space: how far a latent is from where a generator was trained (II2S, Zhu et al. 2020).

    prior = PNorm.of(generator, 1_000_000, rng(0, "prior"))
    prior(latents).square().mean(dim=(1, 2))       # 1 in the mean over mapped latents

    v = C (LeakyReLU_5(w) - m) / s

The mapping network ends in a leaky ReLU of slope 0.2; slope 5 undoes it. In what was before, mapped
latents are nearly normal, and whitening (mean m, principal axes C, deviations s) makes v a standard
normal: its length is the prior of `inversion`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2

BEFORE_ACTIVATION = 5.0  # slope that undoes the mapping network's 0.2
MAPPED_AT_ONCE = 10_000


@dataclass(frozen=True, eq=False)
class PNorm:
    """P-norm space: mean [w_dim], principal axes [w_dim, w_dim] in rows, deviations [w_dim]."""

    mean: Tensor
    axes: Tensor
    deviations: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, generator: StyleGAN2, n: int, rng: Rng, floor: float = 0.0) -> "PNorm":
        """The P-norm space of a generator, from n mapped latents; moments are summed in float64.

        floor: least deviation, as a share of the largest. A mapping network may leave some axes all
        but unused, and without a floor a step along them costs more than any image is worth.
        Raises AirlibError if n is not above w_dim.
        """
        if n <= generator.w_dim:
            raise AirlibError(
                f"{n} latents do not show {generator.w_dim} axes; take many more than that"
            )
        total = squares = torch.zeros(
            (), dtype=torch.float64, device=generator.mapping.w_avg.device
        )
        for size in [MAPPED_AT_ONCE] * (n // MAPPED_AT_ONCE) + [n % MAPPED_AT_ONCE]:
            z = generator.sample_z(size, rng)
            x = F.leaky_relu(generator.mapping(z), BEFORE_ACTIVATION).double()
            total, squares = total + x.sum(dim=0), squares + x.T @ x
        mean = total / n
        variances, axes = torch.linalg.eigh(squares / n - mean.outer(mean))
        deviations = variances.clamp(min=0).sqrt()
        deviations = deviations.clamp(min=max(floor, 1e-7) * deviations.max())
        return cls(mean.float(), axes.T.float(), deviations.float())

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [..., w_dim] -> v of the same shape, standard normal for mapped latents."""
        x = F.leaky_relu(latents, BEFORE_ACTIVATION) - self.mean
        return x @ self.axes.T / self.deviations

    def curvature(self, latents: Tensor) -> Tensor:
        """Mean of J^T J [w_dim, w_dim] over latents [n, w_dim], where J is dv/dw.

        The result is float64: squared deviations may span many decades.
        """
        slopes = torch.where(latents < 0, BEFORE_ACTIVATION, 1.0).double()
        whitening = self.axes.double() / self.deviations[:, None].double()
        return (whitening.T @ whitening) * (slopes.T @ slopes) / len(latents)
