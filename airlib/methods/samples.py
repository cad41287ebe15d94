"""Images that a method needs beside those of its steps, as what CLIP sees of them.

    latents, embeddings = embed_samples(space, generator, 1000, seed, "prompt pairs")

Two generators are compared at the same seed and purpose: they draw the same latents and noise.
"""

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.generators.base import Generator, images_at_once
from airlib.seeding import rng


@torch.no_grad()
def embed_samples(
    space: ClipSpace, generator: Generator, n: int, seed: int, *purpose: str | int,
    truncation: float = 1.0,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Latents [n, ...] of the stream (seed, purpose), and embeddings [n, D] per CLIP model.

    truncation: psi of the latents.
    """
    latents, embeddings = [], []
    batch = images_at_once(generator)
    for start in range(0, n, batch):
        stream, size = rng(seed, *purpose, start), min(batch, n - start)
        latents.append(generator.sample_latents(size, stream, truncation))
        images = generator(latents[-1], generator.sample_noise(size, stream))
        embeddings.append(space.embed_images(images))
    return torch.cat(latents), [torch.cat(parts) for parts in zip(*embeddings, strict=True)]
