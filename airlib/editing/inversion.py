r"""Inversion: from an image to the latents a generator draws it with.

    prior = PNorm.of(generator, 1_000_000, rng(0, "prior"))
    inversion = invert(generator, images, PerceptualEmbedding(maps), prior, InversionConfig())
    generator(inversion.latents)                   # inversion.reconstruction, near `images`

W+ optimisation as in II2S (Zhu et al. 2020), starting at the mean latent, all entries of w+ free:

    L(w) = |G(w) - I|^2 / pixels + perceptual(G(w), I) + lambda_p mean(v^2)
    v    = C (LeakyReLU_5(w) - m) / s              P-norm space

The mapping network ends in a leaky ReLU of slope 0.2; slope 5 undoes it. In what was before, mapped
latents are nearly normal, and whitening (mean m, principal axes C, deviations s) makes v a standard
normal: its length says how far w is from where the generator was trained.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.reference import checked_pictures
from airlib.progress import track

BEFORE_ACTIVATION = 5.0  # slope that undoes the mapping network's 0.2
MAPPED_AT_ONCE = 10_000
OPTIMISED_AT_ONCE = 8


@dataclass(frozen=True)
class InversionConfig:
    """Numbers of II2S as in MindTheGap's code; HyperDomainNet's has a `prior_weight` of 0.001."""

    steps: int = 1000
    learning_rate: float = 0.01
    prior_weight: float = 0.01  # lambda_p, of the picture of a style; photos of faces: 0.001

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or not self.prior_weight >= 0:
            raise AirlibError(
                "steps must be at least 1, the learning rate above 0, the prior weight at least 0"
            )


@dataclass(frozen=True, eq=False)
class Inversion:
    """Latents [n, num_ws, w_dim] of n images, what is drawn with them [n, 3, H, W], and how far
    that is from the images: {"mse", "perceptual", "prior"}, [n] each, without weights.
    """

    latents: Tensor
    reconstruction: Tensor
    errors: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class PNorm:
    """P-norm space: mean [w_dim], principal axes [w_dim, w_dim] in rows, deviations [w_dim]."""

    mean: Tensor
    axes: Tensor
    deviations: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, generator: StyleGAN2, n: int, rng: Rng, floor: float = 0.0) -> "PNorm":
        """From n mapped latents; moments are summed in float64.

        floor: least deviation, as a share of the largest. A mapping network may leave some axes all
        but unused, and without a floor a step along them costs more than any image is worth.
        """
        if n <= generator.w_dim:
            raise AirlibError(
                f"{n} latents do not show {generator.w_dim} axes; take many more than that"
            )
        total, squares = 0.0, 0.0
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


def invert(
    generator: StyleGAN2, images: Tensor, perceptual: PerceptualEmbedding, prior: PNorm,
    config: InversionConfig | None = None,
) -> Inversion:  # fmt: skip
    """Latents of images [n, 3, H, H] in [-1, 1]; each is found without regard to the others.

    Images are drawn without noise maps: what they would add is no matter of the latents.
    Raises AirlibError for other shapes, sizes and ranges, for NaN, and if the search diverges.
    """
    config = config or InversionConfig()
    images = checked_pictures(images, generator.resolution).to(generator.mapping.w_avg.device)
    parts = images.split(OPTIMISED_AT_ONCE)
    found = torch.cat([_optimised(generator, part, perceptual, prior, config) for part in parts])
    with torch.no_grad():
        drawn = torch.cat([generator(part) for part in found.split(OPTIMISED_AT_ONCE)])
        errors = _errors(drawn, images, perceptual(images), found, perceptual, prior)
    return Inversion(found, drawn, errors)


def _optimised(
    generator: StyleGAN2, images: Tensor, perceptual: PerceptualEmbedding, prior: PNorm,
    config: InversionConfig,
) -> Tensor:  # fmt: skip
    start = generator.mapping.w_avg.expand(len(images), generator.num_ws, -1)
    latents = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=config.learning_rate)
    wanted = perceptual(images)
    for _ in track(range(config.steps), "inverting"):
        errors = _errors(generator(latents), images, wanted, latents, perceptual, prior)
        loss = errors["mse"] + errors["perceptual"] + config.prior_weight * errors["prior"]
        if not loss.isfinite().all():
            raise AirlibError("the inversion diverged; lower its learning rate or prior weight")
        optimizer.zero_grad()
        loss.sum().backward()  # Adam treats every number for itself, so images do not mix
        optimizer.step()
    return latents.detach()


def _errors(
    drawn: Tensor, images: Tensor, wanted: Tensor, latents: Tensor,
    perceptual: PerceptualEmbedding, prior: PNorm,
) -> dict[str, Tensor]:  # fmt: skip
    """Per image [n]; `wanted` is the perceptual embedding of `images`."""
    return {
        "mse": (drawn - images).square().mean(dim=(1, 2, 3)),
        "perceptual": (perceptual.embed(drawn) - wanted).square().sum(dim=1),
        "prior": prior(latents).square().mean(dim=(1, 2)),
    }
