"""The weights of the tiny world that are part of the package, and what identifies them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

FOUNDATION = ("clip", "judge", "judge_vit", "stylegan2", "stylegan2_narrow")
"""What adaptations of the tiny StyleGAN2 and their scores depend on."""
DIFFUSION_FOUNDATION = ("clip", "judge", "judge_vit", "diffusion")
"""The same of the tiny diffusion model."""


def weights_fingerprint(directory: Path = WEIGHTS, names: Sequence[str] = FOUNDATION) -> str:
    """Hash of shipped weights: results of one set of weights are not mistaken for another's."""
    digest = hashlib.sha256()
    for name in sorted(f"{name}.safetensors" for name in names):
        digest.update(name.encode() + (directory / name).read_bytes())
    return digest.hexdigest()[:16]
