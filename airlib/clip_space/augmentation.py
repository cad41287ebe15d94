"""Random views of an image before CLIP sees it.

The papers embed each image once. A small CLIP is easily fooled that way: the cosine can be met by
offsets too small to see. So the tiny profile embeds several random views, drawn independently for
the source and the adapted image, which only a change of the picture's content survives.
"""

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

SCALE, ROTATION, SHIFT, SHEAR, NOISE = (0.85, 1.2), 0.12, 0.08, 0.03, 0.06


def random_views(images: Tensor, views: int, rng: Rng) -> Tensor:
    """Random views of images [B, 3, H, W]: [views * B, 3, H, W], differentiable.

    Each view is scaled, rotated, shifted, sheared and noised on its own. Image b becomes rows b,
    B + b, 2B + b, ...
    """
    images = images.repeat(views, 1, 1, 1)
    n, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng).to(device) * (high - low) + low

    scale, angle = uniform(*SCALE), uniform(-ROTATION, ROTATION)
    rows = torch.stack([angle.cos() / scale, -angle.sin() / scale, uniform(-SHIFT, SHIFT)], dim=1)
    columns = torch.stack([angle.sin() / scale, angle.cos() / scale, uniform(-SHIFT, SHIFT)], dim=1)
    matrix = torch.stack([rows, columns], dim=1)
    matrix[:, :, :2] += SHEAR * torch.randn(n, 2, 2, generator=rng).to(device)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    amount = uniform(0, NOISE)[:, None, None, None]
    return warped + amount * torch.randn(images.shape, generator=rng).to(device)
