"""The weights of the tiny world that are part of the package, and what identifies them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

FOUNDATION = ("clip", "judge", "judge_vit", "stylegan2", "stylegan2_narrow")
"""Names of the weights that adaptations of the tiny StyleGAN2 and their scores depend on."""
DIFFUSION_FOUNDATION = ("clip", "judge", "judge_vit", "diffusion")
"""Names of the weights that adaptations of the tiny diffusion model and their scores depend on."""


def weights_fingerprint(directory: Path = WEIGHTS, names: Sequence[str] = FOUNDATION) -> str:
    """Hash of the weight files `names` in `directory`: 16 hexadecimal digits.

    Results carry it, so that those of one set of weights are not mistaken for those of another.
    """
    digest = hashlib.sha256()
    for name in sorted(f"{name}.safetensors" for name in names):
        digest.update(name.encode() + (directory / name).read_bytes())
    return digest.hexdigest()[:16]
