r"""Manipulation: a real picture, noised by the source model, comes back through the adapted one.

    picture --DDIM, source--> x at t0 --DDIM, source--> reconstruction   (should be the picture)
                                      --DDIM, adapted--> edit            (should be of the target)

    found = edit(source, air.apply(source), pictures)     # .latents .reconstruction .errors .edited
    by_nada = redraw(nada.apply(source), found.latents)   # another model: nothing is inverted again
    clip_distance(encoder.embed_images(found.edited), encoder.embed_images(references)).per_image

DiffusionCLIP (Kim et al. 2022) edits like this, and so does AIR (supplement E.2, Fig. 10) with
models that it adapted from noise. The return time t0 decides how much can change: 400 of 1000 is
DiffusionCLIP's default, its examples have up to 601. The error of the reconstruction is what the
way up and down costs without any adaptation; no edit can be expected to keep more.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.editing.inversion import Inversion
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding, paired_l1
from airlib.generators.base import images_at_once
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.methods.reference import checked_pictures


@dataclass(frozen=True, eq=False)
class Manipulation(Inversion):
    """An inversion by the source, and `edited` [n, 3, H, W]: the same latents, adapted model."""

    edited: Tensor


def invert(
    generator: DiffusionGenerator, images: Tensor, schedule: DdimSchedule | None = None,
    perceptual: PerceptualEmbedding | None = None,
) -> Inversion:  # fmt: skip
    """Latents of pictures [n, 3, H, H] in [-1, 1]: x at t0, [n, 3, H, H].

    errors: {"mse", "l1"} in pixels, [n] each, and with `perceptual` "perceptual" as well.
    Raises AirlibError for other shapes, sizes and ranges, and for NaN.
    """
    ddim = DdimGenerator(generator.unet, schedule or DdimSchedule())
    images = checked_pictures(images, generator.resolution).to(generator.unet.device)
    latents = ddim.invert(images)
    drawn = redraw(generator, latents, schedule)
    errors = {
        "mse": (drawn - images).square().mean(dim=(1, 2, 3)),
        "l1": paired_l1(drawn, images),
    }
    if perceptual is not None:
        errors["perceptual"] = perceptual.paired_distance(drawn, images)
    return Inversion(latents, drawn, errors)


def edit(
    source: DiffusionGenerator, adapted: DiffusionGenerator, images: Tensor,
    schedule: DdimSchedule | None = None, perceptual: PerceptualEmbedding | None = None,
) -> Manipulation:  # fmt: skip
    """`invert` by the source, and what `adapted` draws of the same latents."""
    if adapted.resolution != source.resolution:
        raise AirlibError(
            f"the source draws {source.resolution} pixels and the adapted model "
            f"{adapted.resolution}; edit with an adaptation of this source"
        )
    found = invert(source, images, schedule, perceptual)
    edited = redraw(adapted, found.latents, schedule)
    return Manipulation(found.latents, found.reconstruction, found.errors, edited)


@torch.no_grad()
def redraw(
    generator: DiffusionGenerator, latents: Tensor, schedule: DdimSchedule | None = None
) -> Tensor:
    """Images [n, 3, H, H] of x at the t0 of `schedule`, the one they were inverted with."""
    ddim = DdimGenerator(generator.unet, schedule or DdimSchedule())
    return torch.cat([ddim(part) for part in latents.split(images_at_once(ddim))])
