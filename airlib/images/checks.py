"""The picture that a one-shot method is shown: checked, and named in an objective's settings."""

import hashlib

from torch import Tensor

from airlib.errors import AirlibError

TOLERANCE = 1e-3  # of the value range, for resized and decoded pictures


def checked_pictures(images: Tensor, resolution: int | None = None) -> Tensor:
    """Return `images` without gradient, once they are known to be pictures.

    images: [n, 3, H, H] with n > 0, finite, in [-1, 1] (up to 0.001 beyond). resolution: what H
    must be, None for any. Raises AirlibError that says what is wrong.
    """
    wanted = "H" if resolution is None else resolution
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise AirlibError(f"expected pictures [n, 3, {wanted}, {wanted}], got {list(images.shape)}")
    if not len(images) or resolution not in (None, images.shape[3]):
        raise AirlibError(
            f"expected pictures [n, 3, {wanted}, {wanted}], got {list(images.shape)}; "
            "resize them to what the generator draws"
        )
    images = images.detach()
    if not images.isfinite().all():
        raise AirlibError("a picture holds NaN or infinite pixels")
    low, high = images.min().item(), images.max().item()
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        raise AirlibError(
            f"pictures have values from {low:.3g} to {high:.3g} and not from -1 to 1; "
            "scale them, and clamp what a generator drew"
        )
    return images


def digest(*tensors: Tensor) -> str:
    """Hash of the values of tensors, as float32: 16 hexadecimal digits.

    A run that is continued compares it, to be sure that it is shown the same pictures as before.
    """
    values = hashlib.sha256()
    for tensor in tensors:
        values.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return values.hexdigest()[:16]
