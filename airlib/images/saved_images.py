"""What saving does to images before a metric sees them.

    score(jpeg(contrast_stretch(images)))      # as AIR's evaluation does
    score(images)                              # as we do

AIR's script writes samples by torchvision's `save_image(normalize=True)` to .jpg files. Without a
value range that stretches the contrast of *each image* to its own minimum and maximum, and JPEG at
Pillow's default quality smooths what a metric reads.
"""

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def contrast_stretch(images: Tensor) -> Tensor:
    """Images [N, 3, H, W], each moved and scaled so that it reaches from -1 to 1.

    AIR's sampling script does so when it saves: torchvision's `save_image(normalize=True)`.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return 2 * (images - low) / (high - low).clamp(min=1e-5) - 1


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Images [N, 3, H, W] in [-1, 1] after a round trip through JPEG files in memory.

    quality: Pillow's, 1 to 95; its default, 75, is what AIR's sampling script saves with.
    """
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    return torch.stack([_through_jpeg(image, quality) for image in pixels]) / 127.5 - 1


def _through_jpeg(pixels: Tensor, quality: int) -> Tensor:
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality)
    return pil_to_tensor(Image.open(file))
