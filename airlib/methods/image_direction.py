r"""StyleGAN-NADA from images instead of words: one to a few pictures show the target.

    dI* = mean_j E_I(picture_j) - mean_b E_I(G_S(w_b))          once; b: 16 samples of the source
    L_direction = 1 - cos(dI, dI*)                              as in nada.py

    adapt(source, space, ImageDirection(space, source, pictures), synthesis(), config)

Source: the official code's `--target_img_list`. It draws the 16 samples before it sets a seed, so
that its direction differs from run to run; here they are the seed's.
"""

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.images.checks import checked_pictures, digest
from airlib.methods.nada import Directional
from airlib.seeding import rng


class ImageDirection(Directional):
    """pictures: [n, 3, H, H] in [-1, 1] of the target domain, of any size."""

    def __init__(
        self, space: ClipSpace, source: Generator, pictures: Tensor, samples: int = 16,
        seed: int = 0,
    ):  # fmt: skip
        if samples < 1:
            raise AirlibError("a direction starts at samples of the source; take at least 1")
        pictures = checked_pictures(pictures)
        settings = {"method": "image_direction", "pictures": digest(pictures)}
        with torch.no_grad():
            latents = source.sample_latents(samples, rng(seed, "image direction"))
            start = space.embed_images(source(latents))
            end = space.embed_images(pictures)
        directions = [b.mean(dim=0) - a.mean(dim=0) for a, b in zip(start, end, strict=True)]
        super().__init__(space, directions, {**settings, "samples": samples, "seed": seed})
