"""The tiny world's camera: latent vectors and domains in, portraits out.

    z = torch.randn(8, 64)
    source = render(z, Domain("human"))
    target = render(z, Domain("dog", style="sketch"))    # the same sitters, elsewhere

``attributes`` turns latents into attributes, ``portrait`` draws them layer by layer and
``styles`` finishes the picture. An image depends on its latent and domain alone.
"""

import torch
from torch import Tensor

from airlib.tinyworld.attributes import Attributes, attributes_from_latent
from airlib.tinyworld.domains import SPECIES, STYLES, Domain
from airlib.tinyworld.portrait import draw_portrait
from airlib.tinyworld.styles import LOOKS, Look

CHUNK = 16  # images drawn together: small enough for the layers to stay in the CPU cache


@torch.no_grad()
def render(z: Tensor, domains: Tensor | Domain, size: int = 64) -> Tensor:
    """Latents [n, 64] in the given domains (LongTensor [n, 3] or one Domain for all).

    Returns [n, 3, size, size] in [-1, 1] on the CPU. Raises AirlibError for wrong shapes or
    domains that do not exist.
    """
    return render_attributes(attributes_from_latent(z, domains), size)


@torch.no_grad()
def render_attributes(attributes: Attributes, size: int = 64) -> Tensor:
    """Attributes of n portraits -> images [n, 3, size, size] in [-1, 1]."""
    images = torch.empty(len(attributes), 3, size, size)
    # Grouped by style, then by species: parts that nobody in a chunk has cost nothing.
    order = torch.argsort(attributes.style * len(SPECIES) + attributes.species, stable=True)
    for style in attributes.style.unique():
        rows_of_style = order[attributes.style[order] == style]
        for rows in rows_of_style.split(CHUNK):
            images[rows] = _render_chunk(attributes[rows], LOOKS[STYLES[style]], size)
    return images


def _render_chunk(attributes: Attributes, look: Look, size: int) -> Tensor:
    canvas, sitter = draw_portrait(attributes, look, size)
    return look.finish(canvas, sitter).clamp(0, 1) * 2 - 1
