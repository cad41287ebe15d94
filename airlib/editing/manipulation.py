r"""Manipulation: the source model inverts a picture, an adapted one draws the same latents.

    picture --invert, source--> latents --draw, source--> reconstruction   (should be the picture)
                                        --draw, adapted--> edit            (should be of the target)

    found = edit(inverter, air.apply(source), pictures)   # .latents .reconstruction .errors .edited
    by_nada = inverter.draw(nada.apply(source), found.latents)    # nothing is inverted again
    clip_distance(encoder.embed_images(found.edited), encoder.embed_images(references)).per_image

It is the same for every generator; `inverters` has the ways to invert. With a StyleGAN2 latents are
w+ (AIR, supplement, Fig. 9). With a diffusion model they are x at the return time t0 of DDIM, as in
DiffusionCLIP (Kim et al. 2022) and AIR (supplement E.2, Fig. 10); t0 decides how much can change:
400 of 1000 is DiffusionCLIP's default, its examples have up to 601. The error of the reconstruction
is what the way there and back costs without any adaptation; no edit can be expected to keep more.
"""

from dataclasses import dataclass

from torch import Tensor

from airlib.editing.inversion import Inversion
from airlib.editing.inverters import Inverter
from airlib.errors import AirlibError
from airlib.generators.base import Generator


@dataclass(frozen=True, eq=False)
class Manipulation(Inversion):
    """An inversion by the source, and `edited` [n, 3, H, W]: the same latents, adapted model."""

    edited: Tensor


def edit(inverter: Inverter, adapted: Generator, images: Tensor) -> Manipulation:
    """Invert pictures [n, 3, H, H] in [-1, 1], and draw their latents with `adapted`.

    Raises AirlibError for other shapes, sizes and ranges, for NaN, and if the models do not fit.
    """
    if adapted.resolution != inverter.generator.resolution:
        raise AirlibError(
            f"the source draws {inverter.generator.resolution} pixels and the adapted model "
            f"{adapted.resolution}; edit with an adaptation of this source"
        )
    found = inverter(images)
    edited = inverter.draw(adapted, found.latents)
    return Manipulation(found.latents, found.reconstruction, found.errors, edited)
