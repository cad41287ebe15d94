r"""StyleGAN-NADA from images instead of words: one to a few pictures show the target.

    dI* = mean_j E_I(picture_j) - mean_b E_I(G_S(w_b))          once; b: 16 samples of the source
    L_direction = 1 - cos(dI, dI*)                              as in nada.py

    adapt(source, space, ImageDirection(space, source, pictures), synthesis(), config)

Source: the official code's `--target_img_list`. It draws the 16 samples before it sets a seed, so
that its direction differs from run to run; here they are the seed's.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.images.checks import checked_pictures, digest
from airlib.methods.nada import Directional
from airlib.methods.task import Task
from airlib.seeding import rng


@dataclass(frozen=True)
class ImageDirectionConfig:
    """samples: images of the source that the direction starts at; 16 in the official code."""

    samples: int = 16

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise AirlibError("a direction starts at samples of the source; take at least 1")


class ImageDirection(Directional):
    """StyleGAN-NADA by pictures: `Directional` from samples of the source to the pictures.

    pictures: [n, 3, H, H] in [-1, 1] of the target domain, of any size. seed: of the samples.
    Raises AirlibError for pictures of other shapes and ranges.
    """

    Config = ImageDirectionConfig
    by_picture = True

    def __init__(
        self, space: ClipSpace, source: Generator, pictures: Tensor,
        config: ImageDirectionConfig | None = None, seed: int = 0,
    ):  # fmt: skip
        samples = (config or ImageDirectionConfig()).samples
        pictures = checked_pictures(pictures)
        settings = {"method": "image_direction", "pictures": digest(pictures)}
        with torch.no_grad():
            latents = source.sample_latents(samples, rng(seed, "image direction"))
            start = space.embed_images(source(latents))
            end = space.embed_images(pictures)
        directions = [b.mean(dim=0) - a.mean(dim=0) for a, b in zip(start, end, strict=True)]
        super().__init__(space, directions, {**settings, "samples": samples, "seed": seed})

    @classmethod
    def of(cls, task: Task, config: ImageDirectionConfig, seed: int) -> Self:
        return cls(task.space, task.generator, task.picture(), config, seed)
