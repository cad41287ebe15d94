"""The layers of StyleGAN2, with NVIDIA's numerics and without custom kernels.

Two rewritings make them fast, and are exact:
- modulation scales the *input* of a shared convolution and demodulation scales its *output*, so no
  [B, O, I, k, k] weight tensor is ever formed;
- the low-pass filter after the transposed convolution, [1, 3, 3, 1] per axis, is a depthwise
  convolution: plain PyTorch, fast on every device.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airlib.errors import AirlibError

ModulationOrder = Literal["pre", "post"]
DOMAIN_PARAMETERS: dict[ModulationOrder, str] = {"pre": "domain", "post": "domain_post"}
"""Name of the domain vector of a layer, by where it acts: a file of vectors says it by itself."""

_TAPS = torch.tensor([0.25, 0.75, 0.75, 0.25])
LOW_PASS = _TAPS[:, None] * _TAPS
"""The filter [4, 4] after an upsampling convolution: [1, 3, 3, 1] with gain 2 per axis."""


def normalize_second_moment(x: Tensor) -> Tensor:
    """Each row of x [B, D] scaled to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def leaky_relu(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU (slope 0.2) of x with gain sqrt(2), then clamped to [-clamp, clamp], if given."""
    x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x if clamp is None else x.clamp(-clamp, clamp)


class FullyConnected(nn.Module):
    """Linear layer [B, inputs] -> [B, outputs] with equalised learning rate (Karras et al. 2018);
    stored weights are 1 / lr_multiplier larger than those used.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).div_(lr_multiplier))
        self.bias = nn.Parameter(torch.full([outputs], bias / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:  # [B, inputs] -> [B, outputs]
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by an affine function of w (and, if asked,
    demodulated).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, w_dim: int):
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def convolve(self, x: Tensor, styles: Tensor, up: bool = False) -> Tensor:
        """x [B, I, H, W], its channels scaled by styles [B, I], convolved: [B, O, H, W] or, with
        `up`, [B, O, 2H, 2W].
        """
        weight: Tensor = self.weight
        x = x * styles[:, :, None, None].to(x.dtype)
        if not up:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # [B, O, 2H + 1, 2W + 1]
        low_pass = LOW_PASS.to(x).expand(len(weight), 1, 4, 4)
        return F.conv2d(x, low_pass, padding=1, groups=len(weight))

    def demodulation(self, styles: Tensor) -> Tensor:
        """Factors [B, O] that give every output channel unit expected energy, for styles [B, I]."""
        energy = styles.square() @ self.weight.square().sum(dim=(2, 3)).T
        return (energy + 1e-8).rsqrt()


class SynthesisLayer(ModulatedConv):
    """Modulated 3x3 convolution (optionally 2x up), noise, bias, leaky ReLU.

    Domain vectors [inputs], absent until an adaptation adds one, are HyperDomainNet's domain
    modulation (section 3.1). `domain` scales the styles before demodulation, as the paper says;
    `domain_post` scales the weights after it, as the official code does, which is the same as
    scaling the input of the convolution alone: demodulation does not see it. A batch may have a
    vector per sample, [B, inputs] (`torch.func.functional_call`).
    """

    noise_const: Tensor
    domain: nn.Parameter | None
    domain_post: nn.Parameter | None

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool, clamp: float | None
    ):
        super().__init__(inputs, outputs, 3, w_dim)
        self.resolution, self.up, self.clamp = resolution, up, clamp
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        for name in DOMAIN_PARAMETERS.values():
            self.register_parameter(name, None)

    def add_domain(self, order: ModulationOrder = "pre") -> nn.Parameter:
        """Give the layer a domain vector [inputs] of ones, which changes nothing, and return it.

        order: "pre" or "post" demodulation. Raises AirlibError for another one.
        """
        if order not in DOMAIN_PARAMETERS:
            raise AirlibError(f'unknown order {order!r} of domain modulation; use "pre" or "post"')
        vector = nn.Parameter(torch.ones_like(self.weight[0, :, 0, 0]))
        self.register_parameter(DOMAIN_PARAMETERS[order], vector)
        return vector

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        styles = self.affine(w)
        if self.domain is not None:
            styles = styles * self.domain
        scales = styles if self.domain_post is None else styles * self.domain_post
        x = self.convolve(x, scales, self.up)
        x = x * self.demodulation(styles)[:, :, None, None].to(x.dtype)
        if noise is not None:
            x = x + (noise * self.noise_strength).to(x.dtype)
        return leaky_relu(x + self.bias[:, None, None].to(x.dtype), self.clamp)


class ToRGB(ModulatedConv):
    """Modulated 1x1 convolution to three channels, without demodulation."""

    def __init__(self, inputs: int, w_dim: int, clamp: float | None):
        super().__init__(inputs, 3, 1, w_dim)
        self.gain, self.clamp = 1 / math.sqrt(inputs), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, self.affine(w) * self.gain) + self.bias[:, None, None].to(x.dtype)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def upsample_image(image: Tensor) -> Tensor:
    """Images [B, 3, H, W] doubled to [B, 3, 2H, 2W] with the [1, 3, 3, 1] filter: bilinear, but
    black beyond the border.
    """
    padded = F.pad(image, (1, 1, 1, 1))
    doubled = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[:, :, 2:-2, 2:-2]
