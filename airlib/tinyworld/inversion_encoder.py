"""The inversion encoder of the tiny world: portraits [B, 3, 64, 64] -> w+ [B, num_ws, w_dim].

    latents = load_encoder()(pictures)
    world.generator(latents)                       # near `pictures`, people and dogs alike

One pass inverts a picture: a residual network reads it down to 4 x 4 positions. As in e4e (Tov et
al. 2021), the code is one vector for the whole picture and a small difference per layer, relative
to the mean latent:

    w_i = latent_avg + shared + delta_i

The network is told nothing but the picture. `tinyworld.train_inversion_encoder` trains it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.files import load_tensors
from airlib.tinyworld.judge import WEIGHTS, convolution

NAME = "encoder"
CODE = 192  # numbers that a picture is read into


class Residual(nn.Module):
    """Two 3x3 convolutions that halve the size, beside a 1x1 convolution that does."""

    latent_avg: Tensor

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.first = convolution(channels_in, channels_out, 2)
        self.second = nn.Sequential(
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C_in, H, W] -> [B, C_out, H / 2, W / 2]."""
        return (self.second(self.first(x)) + self.shortcut(x)).relu()


class TinyEncoder(nn.Module):
    """Reads portraits [B, 3, resolution, resolution] into w+ [B, num_ws, w_dim].

    Untrained, it answers every picture with `latent_avg` [w_dim]: its heads start at zero.

    Args:
        num_ws: latents per picture, one for each layer of the generator.
        w_dim: numbers per latent.
        resolution: height and width of the pictures, a multiple of 16.
        width: channels of the first stage.
    """

    latent_avg: Tensor

    def __init__(self, num_ws: int = 10, w_dim: int = 128, resolution: int = 64, width: int = 32):
        super().__init__()
        c = width
        self.config = {"num_ws": num_ws, "w_dim": w_dim, "resolution": resolution, "width": width}
        self.body = nn.Sequential(
            convolution(3, c, 2), Residual(c, 2 * c), Residual(2 * c, 4 * c), Residual(4 * c, 2 * c)
        )
        positions = (resolution // 16) ** 2
        self.code = nn.Sequential(nn.Linear(2 * c * positions, CODE), nn.ReLU())
        self.shared, self.deltas = nn.Linear(CODE, w_dim), nn.Linear(CODE, num_ws * w_dim)
        for head in (self.shared, self.deltas):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.register_buffer("latent_avg", torch.zeros(w_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> w+ [B, num_ws, w_dim].

        Values outside [-1, 1] are clipped, as in a saved picture.
        """
        code = self.code(self.body(images.clamp(-1, 1)).flatten(1))
        deltas = self.deltas(code).float().unflatten(1, (self.config["num_ws"], -1))
        return self.latent_avg + self.shared(code).float()[:, None] + deltas


def load_encoder(path: str | Path = WEIGHTS / f"{NAME}.safetensors") -> TinyEncoder:
    """The trained inversion encoder, frozen, in float32 and in evaluation mode.

    path: a weights file; default the shipped one. Raises AirlibError if the file is missing,
    damaged, or of another network.
    """
    tensors, config = load_tensors(path)
    try:
        encoder = TinyEncoder(**config)
        encoder.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except (TypeError, RuntimeError) as error:
        raise AirlibError(
            f"{path} does not hold the inversion encoder; run `airlib train-tiny {NAME}`"
        ) from error
    return encoder.requires_grad_(False).eval()
