"""CLIP's view of an image: the only place that knows its size, range and normalisation.

An image tensor in [-1, 1] goes to [0, 1], is resized so that its shorter side has CLIP's size,
centre-cropped, and normalised by CLIP's channel statistics. All steps are differentiable, since
generators are trained through them. Nothing is clamped: bicubic overshoot passes through, as in the
code of StyleGAN-NADA, IPL and HyperDomainNet.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.errors import AirlibError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipPreprocess:
    """CLIP's view of images: [B, 3, H, W] in [-1, 1] -> [B, 3, resolution, resolution].

    Images are resized, centre-cropped and normalised, differentiably and without clamping.
    `antialias` widens the bicubic filter when shrinking, as PIL does and as current torchvision
    does for tensors. The torchvision of 2021, with which the published methods ran, did not:
    `antialias=False` reproduces them. The two differ visibly when a 1024 px image shrinks to 224,
    and slightly even when enlarging (their bicubic kernels have different coefficients).
    Equal configurations compare equal, so a resize can be shared between CLIP models. Calling one
    raises AirlibError for other shapes than [B, 3, H, W].
    """

    resolution: int
    antialias: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise AirlibError(
                f"CLIP needs images of shape [B, 3, H, W], got {list(images.shape)}; add a batch "
                "dimension or convert to RGB"
            )
        pixels = self._centre_crop(self._resize((images + 1) / 2))
        mean = torch.tensor(MEAN, dtype=images.dtype, device=images.device).view(3, 1, 1)
        std = torch.tensor(STD, dtype=images.dtype, device=images.device).view(3, 1, 1)
        return (pixels - mean) / std

    def _resize(self, pixels: Tensor) -> Tensor:
        """Bicubic resize of the shorter side to `resolution`; the identity if it has that size."""
        height, width = pixels.shape[-2:]
        shorter = min(height, width)
        if shorter == self.resolution:
            return pixels
        size = (height * self.resolution // shorter, width * self.resolution // shorter)
        return F.interpolate(
            pixels, size=size, mode="bicubic", align_corners=False, antialias=self.antialias
        )

    def _centre_crop(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        top = round((height - self.resolution) / 2)
        left = round((width - self.resolution) / 2)
        return pixels[..., top : top + self.resolution, left : left + self.resolution]
