"""The networks of e4e and ReStyle-e4e: image -> latents of StyleGAN2, one per layer.

    images --input_layer, body (IR-SE-50)--> features --styles[i]--> one vector per layer
    codes[0] = styles[0](features)
    codes[i] = codes[0] + styles[i](features)      a shared code and a small delta per layer

Two variants were published. e4e (Tov et al. 2021) sees the photograph once and gives its heads a
pyramid of features, as pSp (Richardson et al. 2021) does: 16 px for the coarse layers of the
generator, 32 px, then 64 px for the fine ones. ReStyle (Alaluf et al. 2021) needs no pyramid, all
heads see 16 px; it sees the photograph and its previous reconstruction (6 channels) and is applied
several times. Tensors are named as in the published files, there after the prefix "encoder.".

Codes are relative: to `latent_avg`, or in the later steps of ReStyle to the codes before.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.generators.stylegan2_layers import FullyConnected

STAGES = ((1, 3), (2, 4), (4, 14), (8, 3))  # (channels / width, blocks); each halves the size once
AFTER_64, AFTER_32 = 7, 21  # blocks whose outputs, at 64 px and 32 px, feed the pyramid
MIDDLE, FINE = 3, 7  # first heads that see 32 px and 64 px
SQUEEZE = 16


@dataclass(frozen=True)
class E4eConfig:
    """Architecture; the defaults are those of the ReStyle-e4e encoder for FFHQ at 1024 px.

    n_styles: codes per image, 2 log2(resolution) - 2 of the generator (18 at 1024 px, 16 at 512).
    input_channels: 6 for ReStyle (photograph, previous reconstruction), 3 for e4e.
    pyramid: e4e's features at three sizes; without it all heads see the last ones.
    width: channels of the first layer; a code has 8 times as many numbers.
    """

    n_styles: int = 18
    input_channels: int = 6
    pyramid: bool = False
    width: int = 64

    def __post_init__(self) -> None:
        if self.width < SQUEEZE or self.width % SQUEEZE:
            raise AirlibError(
                f"width {self.width} of an e4e encoder is not a multiple of {SQUEEZE}"
            )

    @property
    def w_dim(self) -> int:
        """How many numbers a code has."""
        return 8 * self.width

    def level(self, style: int) -> int:
        """The features that the head of code `style` sees: 0, 1, 2 for 16, 32, 64 pixels."""
        return (style >= MIDDLE) + (style >= FINE) if self.pyramid else 0


class E4e(nn.Module):
    """The e4e network (Tov et al. 2021): pictures of faces -> latents of a StyleGAN2.

    latent_avg: [n_styles, w_dim], the mean latent of its generator.
    """

    latent_avg: Tensor

    def __init__(self, config: E4eConfig):
        super().__init__()
        self.config = config
        width, w_dim = config.width, config.w_dim
        self.input_layer = nn.Sequential(
            nn.Conv2d(config.input_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
        )
        self.body = _body(width)
        heads = [StyleHead(w_dim, 16 * 2 ** config.level(i)) for i in range(config.n_styles)]
        self.styles = nn.ModuleList(heads)
        if config.pyramid:
            self.latlayer1 = nn.Conv2d(4 * width, w_dim, 1)
            self.latlayer2 = nn.Conv2d(2 * width, w_dim, 1)
        self.register_buffer("latent_avg", torch.zeros(config.n_styles, w_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, input_channels, 256, 256] in [-1, 1] -> codes [B, n_styles, w_dim].

        Images may be lower or narrower (192 x 256 for cars). `latent_avg` is not added. Raises
        AirlibError for another size or number of channels.
        """
        channels = self.config.input_channels
        if images.shape[1] != channels or max(images.shape[2:]) != 256:
            raise AirlibError(
                f"an image of shape {list(images.shape[1:])} does not fit this encoder, which "
                f"takes {channels} channels and 256 pixels; resize it first"
            )
        features = self._features(images)
        shared = self.styles[0](features[0])
        codes = [shared]
        for i in range(1, self.config.n_styles):
            codes.append(shared + self.styles[i](features[self.config.level(i)]))
        return torch.stack(codes, dim=1)

    def _features(self, images: Tensor) -> list[Tensor]:
        """[B, w_dim, size, size] for size 16 and, with a pyramid, 32 and 64."""
        fine = self.body[:AFTER_64](self.input_layer(images))
        middle = self.body[AFTER_64:AFTER_32](fine)
        coarse = self.body[AFTER_32:](middle)
        if not self.config.pyramid:
            return [coarse]
        middle = _enlarge_and_add(coarse, self.latlayer1(middle))
        return [coarse, middle, _enlarge_and_add(middle, self.latlayer2(fine))]


class StyleHead(nn.Module):
    """Features [B, w_dim, size, size] -> [B, w_dim]: convolutions of stride 2 down to one pixel.

    The map2style block of pSp, with slope 0.01.
    """

    def __init__(self, w_dim: int, size: int):
        super().__init__()
        layers = []
        for _ in range(int(math.log2(size))):
            layers += [nn.Conv2d(w_dim, w_dim, 3, stride=2, padding=1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = FullyConnected(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class Bottleneck(nn.Module):
    """Residual block of IR-SE-50 (ArcFace, Deng et al. 2019), normalised before it convolves.

    [B, inputs, H, W] -> [B, outputs, H / stride, W / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcitation(outputs),
        )
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)  # keeps every stride-th pixel
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class SqueezeExcitation(nn.Module):
    """Scale each channel of [B, C, H, W] by a weight in (0, 1) from all channels' means (Hu et al.
    2018).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.fc1(means).relu()).sigmoid()


def _body(width: int) -> nn.Sequential:
    blocks, inputs = [], width
    for multiple, count in STAGES:
        for i in range(count):
            blocks.append(Bottleneck(inputs, multiple * width, stride=2 if i == 0 else 1))
            inputs = multiple * width
    return nn.Sequential(*blocks)


def _enlarge_and_add(small: Tensor, large: Tensor) -> Tensor:
    size = large.shape[2:]
    return F.interpolate(small, size=size, mode="bilinear", align_corners=True) + large
