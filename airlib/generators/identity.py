"""Whether a generator is the one that an adaptation was made from, on whatever processor.

    saved = identity(source)          # JSON, for the header of a file
    is_source(saved, source)          # True, also where the last bits are others

The tiny world's sources are computed when they are opened (`StyleGAN2.restrict`), and processors
round that differently, by a ten-millionth. So the numbers are compared, not their bits: a sketch of
all of them tells how far two generators are apart.
"""

import hashlib
from typing import Any

import torch
from torch import nn

from airlib.seeding import rng

BUCKETS = 16
TOLERANCE = 1e-5  # root mean square of all differences; processors differ by 1e-8

EARLIER: tuple[tuple[tuple[str, ...], list[float]], ...] = (
    (  # human
        ("86cf3fc9d6316876", "8604c17fc2180f22", "11e1c9a343e5f3a7", "0aabf74dfdf4437b",),
        [
            558.357, -287.177, 196.755, 61.603, -45.769, -150.235, -354.875, 53.083,
            497.59, -352.253, 236.79, 30.862, -83.374, -220.406, 914.359, 344.286,
        ],
    ),
    (  # human, of the narrow generator
        ("7150cc6f24e7591e", "39a6b7da1f1edf58", "9682a239d48bb4a6", "a909e6e8f71aa801",),
        [
            -94.362, -630.988, -246.823, 245.943, 144.179, -186.498, 279.744, 422.739,
            41.377, -71.784, 120.231, -300.707, -379.684, -169.621, 84.825, 257.731,
        ],
    ),
    (  # dog
        ("f64e872ab73a191d", "295d70a91b134e29", "5d9d6739aff2dfc5", "1f130965b97a1293",),
        [
            557.753, -288.233, 196.699, 60.017, -43.826, -149.439, -355.297, 54.261,
            498.034, -355.456, 238.747, 34.612, -89.589, -222.018, 913.093, 344.928,
        ],
    ),
    (  # diffusion-human
        ("89bd6e8196f0aa0e",),
        [
            -124.154, -62.4, -209.681, -71.184, -132.014, 122.683, 99.949, 300.218,
            77.535, 59.499, -87.177, -272.441, 66.729, 38.396, -6.792, 249.393,
        ],
    ),
    (  # diffusion-dog
        ("8fe791850c26d618",),
        [
            -124.246, -62.661, -210.046, -71.001, -132.099, 122.212, 99.547, 299.602,
            77.962, 59.802, -87.124, -272.336, 66.844, 38.037, -6.686, 249.222,
        ],
    ),
)  # fmt: skip
"""Fingerprints and sketch of each shipped source, for files from before sketches were saved.

A source has a fingerprint for each way in which processors compute it: with AVX2 or AVX-512 and
without, each with MKL's own kernels and with its compatible ones.
"""


def fingerprint(module: nn.Module) -> str:
    """Hash of all parameters and buffers: equal only where every bit is."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def identity(source: nn.Module) -> dict[str, Any]:
    """What `is_source` compares, as JSON: the fingerprint and the sketch of a generator."""
    return {"fingerprint": fingerprint(source), "sketch": sketch(source)}


def is_source(saved: Any, source: nn.Module) -> bool:
    """Whether `source` is the generator that `saved` identifies, up to rounding.

    saved: what `identity` returned; or a fingerprint alone, as files of earlier versions have it.
    Then the bits must be the same, unless it is known to be that of a shipped source.
    """
    if isinstance(saved, dict):
        known, numbers = saved.get("fingerprint"), saved.get("sketch")
    else:
        known = saved
        numbers = next((numbers for names, numbers in EARLIER if known in names), None)
    return known == fingerprint(source) or _is_near(numbers, source)


def sketch(module: nn.Module) -> list[float]:
    """Sums of all parameters and buffers with random signs, in `BUCKETS` buckets.

    The squared distance of two sketches estimates the summed squared differences of all numbers
    (a count sketch), with a standard error of a third. Signs depend on name and size of a tensor.
    """
    total = torch.zeros(BUCKETS, dtype=torch.float64)
    for name, value in module.state_dict().items():
        numbers = value.detach().cpu().double().flatten()
        signs = torch.randint(2, numbers.shape, generator=rng(0, "sketch", name, len(numbers)))
        numbers = numbers * (2 * signs - 1)
        padding = numbers.new_zeros(-len(numbers) % BUCKETS)
        total += torch.cat([numbers, padding]).view(-1, BUCKETS).sum(0)
    return [round(number, 6) for number in total.tolist()]


def _is_near(numbers: Any, source: nn.Module) -> bool:
    """Whether a sketch is that of `source` but for rounding."""
    try:
        found = torch.tensor(numbers, dtype=torch.float64)
        difference = found - torch.tensor(sketch(source), dtype=torch.float64)
    except (RuntimeError, TypeError, ValueError):  # of another length, or no numbers
        return False
    count = sum(value.numel() for value in source.state_dict().values())
    return bool(difference.norm() <= TOLERANCE * count**0.5)
