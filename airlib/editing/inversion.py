r"""Inversion: from an image to the latents a generator draws it with.

    prior = PNorm.of(generator, 1_000_000, rng(0, "prior"))
    inversion = invert(generator, images, PerceptualEmbedding(maps), prior, InversionConfig())
    generator(inversion.latents)                   # inversion.reconstruction, near `images`

`inverters` puts this and faster ways behind one interface. W+ optimisation as in II2S (Zhu et al.
2020), starting at the mean latent or at an inversion encoder's, all entries of w+ free:

    L(w) = |G(w) - I|^2 / pixels + perceptual(G(w), I) + lambda_p mean(v^2)

with v the latent in P-norm space (`p_norm`). A `curvature` gives the search coordinates in which it
needs a quarter of the steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.editing.curvature import Curvature
from airlib.editing.p_norm import PNorm
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding, paired_l1
from airlib.generators.stylegan2 import StyleGAN2
from airlib.images.checks import checked_pictures
from airlib.progress import track

OPTIMISED_AT_ONCE = 8


@dataclass(frozen=True)
class InversionConfig:
    """Numbers of the search for latents (II2S, Zhu et al. 2020), by default those of MindTheGap.

    learning_rate: Adam's. prior_weight: lambda_p; 0.01 is that of MindTheGap's code for the picture
    of a style, 0.001 that of HyperDomainNet's code for photos of faces.
    Raises AirlibError for fewer than one step, a learning rate of 0 or less, and a negative weight.
    """

    steps: int = 1000
    learning_rate: float = 0.01
    prior_weight: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0 or not self.prior_weight >= 0:
            raise AirlibError(
                "steps must be at least 1, the learning rate above 0, the prior weight at least 0"
            )


@dataclass(frozen=True, eq=False)
class Inversion:
    """What an inversion of n images found.

    latents: [n, ...]. reconstruction: the images [n, 3, H, W] that the latents draw.
    errors: how far these are from the images, [n] each and unweighted: "mse" and "l1" in pixels,
    "perceptual" where an embedding was given, "prior" where a search had one.
    """

    latents: Tensor
    reconstruction: Tensor
    errors: dict[str, Tensor]


@torch.no_grad()
def errors_of(
    drawn: Tensor, images: Tensor, perceptual: PerceptualEmbedding | None = None
) -> dict[str, Tensor]:
    """Errors [n] of images `drawn` [n, 3, H, W] against `images`.

    Keys: "mse" and "l1" in pixels and, where an embedding is given, "perceptual".
    """
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
    curvature: Curvature | None = None,
) -> Inversion:  # fmt: skip
    """The w+ that draw images [n, 3, H, H] in [-1, 1], found by a search (II2S, Zhu et al. 2020).

    Each image is searched for without regard to the others.

    start: latents [n, num_ws, w_dim] where the search begins; default: the mean latent.
    curvature: the coordinates of the search; default: w+ itself, as in II2S.
    Images are drawn without noise maps: what these would add is no matter of the latents.
    Raises AirlibError for other shapes, sizes and ranges, for NaN, and if the search diverges.
    """
    config = config or InversionConfig()
    images = checked_pictures(images, generator.resolution).to(generator.mapping.w_avg.device)
    shape = (len(images), generator.num_ws, generator.w_dim)
    start = generator.mapping.w_avg.expand(shape) if start is None else start
    if start.shape != shape:
        raise AirlibError(f"a search of {list(shape)} latents cannot start at {list(start.shape)}")
    parts = zip(images.split(OPTIMISED_AT_ONCE), start.split(OPTIMISED_AT_ONCE), strict=True)
    found = torch.cat(
        [_optimised(generator, *part, perceptual, prior, config, curvature) for part in parts]
    )
    with torch.no_grad():
        drawn = torch.cat([generator(part) for part in found.split(OPTIMISED_AT_ONCE)])
        cost = prior(found).square().mean(dim=(1, 2))
    return Inversion(found, drawn, errors_of(drawn, images, perceptual) | {"prior": cost})


def _optimised(
    generator: StyleGAN2, images: Tensor, start: Tensor, perceptual: PerceptualEmbedding,
    prior: PNorm, config: InversionConfig, curvature: Curvature | None,
) -> Tensor:  # fmt: skip
    x = (curvature.coordinates(start) if curvature else start).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=config.learning_rate)
    wanted = perceptual(images)
    for _ in track(range(config.steps), "inverting"):
        latents = curvature.latents(x) if curvature else x
        drawn = generator(latents)
        pixels = (drawn - images).square().mean(dim=(1, 2, 3))
        maps = (perceptual.embed(drawn) - wanted).square().sum(dim=1)
        loss = pixels + maps + config.prior_weight * prior(latents).square().mean(dim=(1, 2))
        if not loss.isfinite().all():
            raise AirlibError("the inversion diverged; lower its learning rate or prior weight")
        optimizer.zero_grad()
        loss.sum().backward()  # Adam treats every number for itself, so images do not mix
        optimizer.step()
    return (curvature.latents(x) if curvature else x).detach()
