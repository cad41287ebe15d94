"""Inception v3 as the Frechet Inception Distance uses it (Heusel et al. 2017).

    network = Inception()                  # weights come by `airlib fetch --only inception-fid`
    features = network(images)             # [B, 2048]: the last maps, averaged over the image
    frechet_distance(features, of_others)  # FID

The network is TensorFlow's of 2015, in torch-fidelity's port. Its input is 299 x 299, and how an
image gets there differs between the programs that everybody uses, so that their distances must not
be compared with each other. With p the pixels from 0 to 255:

    "pytorch-fid"      bilinear, centres of pixels on centres of pixels;  p / 127.5 - 1
    "torch-fidelity"   bilinear as in TensorFlow 1, first pixel on first pixel;  (p - 128) / 128

Neither smooths before it shrinks. AIR and HyperDomainNet use the first one's code, the default.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity import feature_extractor_inceptionv3 as blocks
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from airlib.assets.store import asset_file
from airlib.checkpoints.unpickling import read_torch
from airlib.errors import AirlibError
from airlib.evaluation.networks.loading import filled, random_state

ASSET = "inception-fid"
SIZE = 299  # pixels a side of what the network sees

Resize = Literal["pytorch-fid", "torch-fidelity"]


class Inception(nn.Module):
    """The network up to its features; frozen.

    Args:
        state: state dict, as pytorch-fid and torch-fidelity publish it; by default that of the
            verified asset file.
        resize: whose way of bringing an image to 299 x 299 pixels, "pytorch-fid" or
            "torch-fidelity"; distances of the two must not be compared.

    Raises AirlibError for an unknown `resize`, a missing asset, or weights of another network.
    """

    def __init__(
        self, state: Mapping[str, Tensor] | None = None, resize: Resize = "pytorch-fid"
    ) -> None:
        super().__init__()
        if resize not in RESIZES:
            raise AirlibError(f"no resizing {resize!r}; choose from {', '.join(RESIZES)}")
        self.resize = resize
        state = state or read_torch(asset_file(ASSET))
        self.layers = filled(_layers(), state, "Inception")
        self.requires_grad_(False).eval()

    @classmethod
    def untrained(cls) -> "Inception":
        """The network with random weights, for runs that only check sizes."""
        return cls(random_state(_layers()))

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of images [B, 3, H, W] in [-1, 1].

        Images are rounded to 8 bits before, as in a saved picture.
        """
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round()
        return self.layers(RESIZES[self.resize](pixels)).mean((2, 3))


def _as_pytorch_fid(pixels: Tensor) -> Tensor:
    x = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return x / 127.5 - 1


def _as_torch_fidelity(pixels: Tensor) -> Tensor:
    size = (SIZE, SIZE)
    x = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=size, align_corners=False)
    return (x - 128) / 128


RESIZES = {"pytorch-fid": _as_pytorch_fid, "torch-fidelity": _as_torch_fidelity}


def _layers() -> nn.Sequential:
    """[B, 3, 299, 299] in [-1, 1] -> maps [B, 2048, 8, 8]; without numbers, which `filled` brings.

    The names are those of the published state dicts.
    """
    conv, pool = blocks.BasicConv2d, nn.MaxPool2d
    with torch.device("meta"):
        return nn.Sequential(
            OrderedDict(
                Conv2d_1a_3x3=conv(3, 32, kernel_size=3, stride=2),
                Conv2d_2a_3x3=conv(32, 32, kernel_size=3),
                Conv2d_2b_3x3=conv(32, 64, kernel_size=3, padding=1),
                MaxPool_1=pool(kernel_size=3, stride=2),
                Conv2d_3b_1x1=conv(64, 80, kernel_size=1),
                Conv2d_4a_3x3=conv(80, 192, kernel_size=3),
                MaxPool_2=pool(kernel_size=3, stride=2),
                Mixed_5b=blocks.InceptionA(192, pool_features=32),
                Mixed_5c=blocks.InceptionA(256, pool_features=64),
                Mixed_5d=blocks.InceptionA(288, pool_features=64),
                Mixed_6a=blocks.InceptionB(288),
                Mixed_6b=blocks.InceptionC(768, channels_7x7=128),
                Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
                Mixed_6d=blocks.InceptionC(768, channels_7x7=160),
                Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
                Mixed_7a=blocks.InceptionD(768),
                Mixed_7b=blocks.InceptionE_1(1280),
                Mixed_7c=blocks.InceptionE_2(2048),
            )
        )
