r"""Inversion: from an image to the latents a generator draws it with.

    prior = PNorm.of(generator, 1_000_000, rng(0, "prior"))
    inversion = invert(generator, images, PerceptualEmbedding(maps), prior, InversionConfig())
    generator(inversion.latents)                   # inversion.reconstruction, near `images`

`inverters` puts this and faster ways behind one interface. W+ optimisation as in II2S (Zhu et al.
2020), starting at the mean latent or where an encoder says, all entries of w+ free:

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
from airlib.evaluation.perceptual import PerceptualEmbedding, paired_l1
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
    """Latents [n, ...] of n images, what is drawn with them [n, 3, H, W], and how far that is from
    the images, [n] each, without weights: {"mse", "l1", "perceptual"}, see `errors_of`, and "prior"
    where a search had one.
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


@torch.no_grad()
def errors_of(
    drawn: Tensor, images: Tensor, perceptual: PerceptualEmbedding | None = None
) -> dict[str, Tensor]:
    """{"mse", "l1"} in pixels and, where there is an embedding, "perceptual", [n] each."""
    errors = {
        "mse": (drawn - images).square().mean(dim=(1, 2, 3)),
        "l1": paired_l1(drawn, images),
    }
    if perceptual is not None:
        errors["perceptual"] = perceptual.paired_distance(drawn, images)
    return errors


def invert(
    generator: StyleGAN2, images: Tensor, perceptual: PerceptualEmbedding, prior: PNorm,
    config: InversionConfig | None = None, start: Tensor | None = None,
) -> Inversion:  # fmt: skip
    """Latents of images [n, 3, H, H] in [-1, 1]; each is found without regard to the others.

    start: latents [n, num_ws, w_dim] where the search begins; default: the mean latent.
    Images are drawn without noise maps: what they would add is no matter of the latents.
    Raises AirlibError for other shapes, sizes and ranges, for NaN, and if the search diverges.
    """
    config = config or InversionConfig()
    images = checked_pictures(images, generator.resolution).to(generator.mapping.w_avg.device)
    shape = (len(images), generator.num_ws, generator.w_dim)
    start = generator.mapping.w_avg.expand(shape) if start is None else start
    if start.shape != shape:
        raise AirlibError(f"a search of {list(shape)} latents cannot start at {list(start.shape)}")
    parts = zip(images.split(OPTIMISED_AT_ONCE), start.split(OPTIMISED_AT_ONCE), strict=True)
    found = torch.cat([_optimised(generator, *part, perceptual, prior, config) for part in parts])
    with torch.no_grad():
        drawn = torch.cat([generator(part) for part in found.split(OPTIMISED_AT_ONCE)])
        cost = prior(found).square().mean(dim=(1, 2))
    return Inversion(found, drawn, errors_of(drawn, images, perceptual) | {"prior": cost})


def _optimised(
    generator: StyleGAN2, images: Tensor, start: Tensor, perceptual: PerceptualEmbedding,
    prior: PNorm, config: InversionConfig,
) -> Tensor:  # fmt: skip
    latents = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=config.learning_rate)
    wanted = perceptual(images)
    for _ in track(range(config.steps), "inverting"):
        drawn = generator(latents)
        pixels = (drawn - images).square().mean(dim=(1, 2, 3))
        maps = (perceptual.embed(drawn) - wanted).square().sum(dim=1)
        loss = pixels + maps + config.prior_weight * prior(latents).square().mean(dim=(1, 2))
        if not loss.isfinite().all():
            raise AirlibError("the inversion diverged; lower its learning rate or prior weight")
        optimizer.zero_grad()
        loss.sum().backward()  # Adam treats every number for itself, so images do not mix
        optimizer.step()
    return latents.detach()
