"""LPIPS (Zhang et al. 2018) for all pairs of a set, each image going through the network once.

    embedding = Lpips("vgg").embedding()         # weights come by `airlib fetch --only vgg16`
    distances = lpips_matrix(images, embedding)  # [N, N]

LPIPS is |phi(x) - phi(y)|^2 in an explicit embedding (perceptual.py), so all pairs follow from N
passes and one Gram matrix, where the usual loop makes N^2 passes. phi is long (8 million numbers
for VGG at 256 px), which has two consequences:

- Sums over it in float32 are wrong in the third digit. Products are summed in float32 over CHUNK
  features only, and over the chunks in float64; one image is the origin, so that no large numbers
  cancel.
- All N of them rarely fit into memory. As many as do are held, and all later images are compared
  with them; then the next block. Each further block costs another pass of the images after it.

Any network with maps can take the place of Lpips: `PerceptualEmbedding(judge.maps)`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor, nn
from torchvision.models import VGG, AlexNet, alexnet, vgg16

from airlib.assets.store import asset_file
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError
from airlib.evaluation.networks.loading import filled, random_state
from airlib.evaluation.perceptual import PerceptualEmbedding

CHUNK = 4_096  # features
TEMPORARY = 8  # phi, its parts and the maps they come from, in multiples of a batch's phi


@dataclass(frozen=True)
class Trunk:
    """A network of torchvision, the asset of its weights, and the layers LPIPS looks at.

    layers: positions in the network's `features`, all of them ReLUs.
    """

    network: Callable[[], AlexNet | VGG]
    asset: str
    layers: tuple[int, ...]


TRUNKS = {
    "alex": Trunk(alexnet, "alexnet", (1, 4, 7, 9, 11)),
    "vgg": Trunk(vgg16, "vgg16", (3, 8, 15, 22, 29)),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in [-1, 1]


class Lpips(nn.Module):
    """The networks and weights of LPIPS v0.1; frozen.

    Args:
        net: "alex" or "vgg"; papers on adaptation use "vgg".
        trunk: state dict of torchvision's network; by default that of the verified asset file.

    `layer_weights` are the learnt weights [C_l] of the channels, from the package `lpips`.
    Raises AirlibError for an unknown net, a missing asset, or weights of another network.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str = "vgg", trunk: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if net not in TRUNKS:
            raise AirlibError(f"no LPIPS network {net!r}; choose from {', '.join(TRUNKS)}")
        self.net, self.last = net, TRUNKS[net].layers
        trunk = trunk or read_torch(asset_file(TRUNKS[net].asset))
        self.features = filled(_features(net), trunk, net, "features.")
        self.layer_weights = linear_weights(net)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def untrained(cls, net: str = "vgg") -> "Lpips":
        """LPIPS with a random trunk, for runs that only check sizes."""
        return cls(net, random_state(_features(net), "features."))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1] -> the five maps [B, C_l, H_l, W_l] of LPIPS."""
        x, maps = (images - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.last:
                maps.append(x)
        return maps

    def embedding(self) -> PerceptualEmbedding:
        """The embedding in which LPIPS is |embedding(x) - embedding(y)|^2."""
        return PerceptualEmbedding(self, self.layer_weights)


def linear_weights(net: str) -> list[Tensor]:
    """The weights [C_l] >= 0 of LPIPS v0.1 that come with the package `lpips`."""
    path = metadata.distribution("lpips").locate_file(f"lpips/weights/v0.1/{net}.pth")
    state = read_torch(str(path))
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(len(TRUNKS[net].layers))]


@torch.no_grad()
def lpips_matrix(
    images: Tensor | Iterable[Tensor],
    embedding: PerceptualEmbedding,
    memory: int = 2 * 2**30,
    batch: int = 32,
) -> Tensor:
    """Distances of all pairs of images [N, 3, H, W] (or batches of such) -> [N, N] in float64.

    `memory` bounds the bytes of all embeddings and feature maps held at a time; with less of it
    images go through the network more often, and in smaller batches than `batch`. The images come
    on top. Raises AirlibError if the memory is too little for one image, for other shapes, and if
    an image holds NaN or infinities.
    """
    images = images if isinstance(images, Tensor) else torch.cat(list(images))
    if images.ndim != 4 or not len(images):
        raise AirlibError(f"expected images [N, 3, H, W], got {list(images.shape)}")
    _check_finite(images)
    n, origin = len(images), embedding(images[:1])  # [1, D]
    fit = memory // origin.nbytes
    if fit <= 2 * TEMPORARY:
        least = (2 * TEMPORARY + 1) * origin.nbytes
        raise AirlibError(f"a memory of {memory:,} bytes is too little; give at least {least:,}")
    batch = min(batch, fit // (2 * TEMPORARY))
    block = min(n, fit - 1 - TEMPORARY * batch)
    held = origin.new_empty(block, origin.shape[1])  # phi of a block of images
    distances = torch.zeros(n, n, dtype=torch.float64)
    for start in range(0, n, block):
        for first in range(start, n, batch):
            rows = slice(first, min(first + batch, n))
            phi = embedding(images[rows], batch).sub_(origin)
            inside = min(rows.stop - start, block)  # columns known so far
            if first - start < block:
                held[first - start : inside] = phi[: inside - first + start]
            columns = slice(start, start + inside)
            distances[rows, columns] = squared_distances(phi, held[:inside]).cpu()
    distances = distances.tril(-1)  # above the diagonal a batch knows only part of its columns
    return distances + distances.T


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 of float32 rows [N, D] and [M, D] -> [N, M] in float64."""
    result = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    for a, b in zip(x.split(CHUNK, 1), y.split(CHUNK, 1), strict=True):
        result -= 2 * (a @ b.T)
        result += _lengths(a)[:, None] + _lengths(b)
    return result.clamp_(min=0)


def _lengths(x: Tensor) -> Tensor:
    """Squared lengths of rows [N, D] -> [N] in float64."""
    return x.square().sum(1, dtype=torch.float64)


def _features(net: str) -> nn.Sequential:
    """Layers of the trunk, without numbers; most of them are in the classifier, not needed here."""
    with torch.device("meta"):
        return TRUNKS[net].network().features[: TRUNKS[net].layers[-1] + 1]


def _check_finite(images: Tensor) -> None:
    bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise AirlibError(f"{len(bad)} images hold NaN or infinities, image {bad[0]} is the first")
