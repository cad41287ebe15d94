"""Only the singular values of the 3x3 convolutions move (FSGAN, Robb et al. 2020).

    W = U diag(s) V^T  ->  U diag(s + change) V^T          W reshaped to [O, I * 3 * 3]

The directions U and V of the source stay. FSGAN does this in generator and discriminator; here
there is no discriminator, and ToRGB, biases, affine maps and noise strengths are frozen.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from airlib.generators.stylegan2 import StyleGAN2
from airlib.parameterizations.base import Parameterization


class SingularValues(nn.Module):
    """A parametrization of one weight [O, ...]: W -> W + U diag(change) V^T.

    `change` [min(O, I * k * k)] is zero at the start, so the weight is the frozen one, bit for bit.
    U and V are computed from the weight in double precision and are in no state dict.
    """

    u: Tensor
    vh: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        flat = weight.detach().flatten(1).double()
        u, values, vh = torch.linalg.svd(flat, full_matrices=False)
        self.register_buffer("u", u.to(weight), persistent=False)
        self.register_buffer("vh", vh.to(weight), persistent=False)
        self.change = nn.Parameter(torch.zeros_like(values, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ((self.u * self.change) @ self.vh).view_as(weight)


def singular_values() -> Parameterization:
    """The singular values of every 3x3 convolution (5,568 numbers at 1024 pixels).

    Attaching it to a generator of 1024 pixels takes about a minute on one CPU core.
    """

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        for layer in adapted.synthesis.layers:
            parametrize.register_parametrization(layer, "weight", SingularValues(layer.weight))
        named = adapted.named_parameters()
        return {name: p for name, p in named if name.endswith(".parametrizations.weight.0.change")}

    return Parameterization("singular_values", select, kind=StyleGAN2)
