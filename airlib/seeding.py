"""Explicit randomness: one independent stream per purpose, derived from one seed.

A stream is named by what it is for, so adding a draw in one place never shifts another, and step
700 of a training can be replayed without replaying the 699 before it (which is what makes resuming
exact).
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def rng(seed: int, *purpose: str | int) -> "torch.Generator":
    """A random generator on the CPU for a seed and a purpose.

    The same arguments give the same bits on every machine; another seed or purpose gives an
    independent stream: `rng(0, "noise", step)`.
    """
    import torch

    key = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
