"""StyleGAN2 (Karras et al. 2020) in plain PyTorch: any size, CPU and GPU, NVIDIA's key names.

    z --mapping--> w, one per layer --synthesis--> image
    synthesis: b4 (const, conv1, torgb), b8 (conv0 up, conv1, torgb), b16, ...

A conditional network (c_dim > 0) can be `restrict`ed to one condition: the result is an ordinary
unconditional StyleGAN2 whose first mapping bias has absorbed the condition. The tiny world's source
generators are made that way.
"""

import copy
import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.generators.base import Generator, Noise
from airlib.generators.stylegan2_layers import (
    FullyConnected,
    SynthesisLayer,
    ToRGB,
    leaky_relu,
    normalize_second_moment,
    upsample_image,
)


@dataclass(frozen=True)
class StyleGAN2Config:
    """Architecture of a StyleGAN2; the defaults are NVIDIA's for FFHQ at 1024 pixels.

    resolution: of the images, a power of two. z_dim, w_dim, c_dim: widths of z, of w, and of the
    condition (0: none). channel_base, channel_max: a block of resolution r has
    min(channel_base / r, channel_max) channels. conv_clamp: bound of all activations, if any.
    Raises AirlibError for another resolution.
    """

    resolution: int = 1024
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise AirlibError(f"resolution {self.resolution} is not a power of two of at least 8")

    @property
    def block_resolutions(self) -> list[int]:
        """4, 8, ... up to `resolution`."""
        return [2**i for i in range(2, int(math.log2(self.resolution)) + 1)]

    @property
    def num_ws(self) -> int:
        """How many w an image takes, one per layer: 18 at 1024 pixels."""
        return 2 * int(math.log2(self.resolution)) - 2

    def channels(self, resolution: int) -> int:
        """How many channels the block of `resolution` has."""
        return min(self.channel_base // resolution, self.channel_max)


class Mapping(nn.Module):
    """The mapping network: z [B, z_dim] (and condition c [B, c_dim]) -> w [B, w_dim].

    w_avg [w_dim]: the mean w, towards which truncation moves.
    """

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        width, lr = config.w_dim, config.mapping_lr_multiplier
        if config.c_dim:
            self.embed = FullyConnected(config.c_dim, width)
        inputs = config.z_dim + (width if config.c_dim else 0)
        self.depth = config.mapping_layers
        for i in range(self.depth):
            layer = FullyConnected(inputs if i == 0 else width, width, lr_multiplier=lr)
            setattr(self, f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(width))

    def layer(self, index: int) -> FullyConnected:
        """The index-th fully connected layer, counted from z."""
        return getattr(self, f"fc{index}")

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalize_second_moment(z)
        if c is not None:
            x = torch.cat([x, normalize_second_moment(self.embed(c))], dim=1)
        for i in range(self.depth):
            x = leaky_relu(self.layer(i)(x))
        return x


class Block(nn.Module):
    """One resolution: conv0 (up) and conv1, and the skip image from torgb; b4 starts from a
    constant.
    """

    def __init__(self, config: StyleGAN2Config, resolution: int):
        super().__init__()
        channels, w_dim, clamp = config.channels(resolution), config.w_dim, config.conv_clamp
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(channels, 4, 4))
        else:
            below = config.channels(resolution // 2)
            self.conv0 = SynthesisLayer(below, channels, w_dim, resolution, True, clamp)
        self.conv1 = SynthesisLayer(channels, channels, w_dim, resolution, False, clamp)
        self.torgb = ToRGB(channels, w_dim, clamp)

    @property
    def layers(self) -> list[SynthesisLayer]:
        """The 3x3 convolutions of the block: conv0 and conv1, of b4 conv1 alone."""
        return [self.conv0, self.conv1] if hasattr(self, "conv0") else [self.conv1]

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        if x is None:
            x = self.const.expand(len(ws), -1, -1, -1)
        for i, layer in enumerate(self.layers):
            x = layer(x, ws[:, i], noise[i])
        rgb = self.torgb(x, ws[:, len(self.layers)])
        return x, rgb if image is None else upsample_image(image) + rgb


class Synthesis(nn.Module):
    """The synthesis network: w [B, num_ws, w_dim] -> images [B, 3, H, H].

    The torgb layer of a block shares its w with the first convolution of the next block.
    """

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.resolutions = config.block_resolutions
        for resolution in self.resolutions:
            setattr(self, f"b{resolution}", Block(config, resolution))

    def block(self, resolution: int) -> Block:
        """The block that works at `resolution` pixels: 4, 8, 16, ..."""
        return getattr(self, f"b{resolution}")

    @property
    def layers(self) -> list[SynthesisLayer]:
        """All 3x3 convolutions, coarse to fine."""
        return [layer for r in self.resolutions for layer in self.block(r).layers]

    def forward(self, ws: Tensor, noise: Noise = None, resolution: int | None = None) -> Tensor:
        """Images [B, 3, r, r] after the block of `resolution` r (default: the last).

        ws: [B, num_ws, w_dim]. noise: a list of maps [B, 1, r, r], one per convolution, "const" for
        the fixed ones, or None. Raises AirlibError for another noise.
        """
        maps = _noise_maps(noise, self.layers)
        x, image, first = None, None, 0
        for r in self.resolutions:
            block = self.block(r)
            x, image = block(x, image, ws[:, first:], maps[first:])
            first += len(block.layers)
            if r == resolution:
                break
        assert image is not None  # there is a block of 4 pixels
        return image


def _noise_maps(noise: Noise, layers: list[SynthesisLayer]) -> list[Tensor | None]:
    if noise is None:
        return [None] * len(layers)
    if noise == "const":
        return [layer.noise_const for layer in layers]
    if isinstance(noise, str) or len(noise) != len(layers):
        raise AirlibError(f'noise must be None, "const" or a list of {len(layers)} maps')
    return list(noise)


class StyleGAN2(Generator):
    """Mapping and synthesis.

    `direction` [num_ws, w_dim], absent until an adaptation adds it, is added to every latent: the
    only thing that TargetCLIP moves.
    """

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        self.resolution, self.num_ws = config.resolution, config.num_ws
        self.z_dim, self.w_dim = config.z_dim, config.w_dim
        self.direction: nn.Parameter | None
        self.register_parameter("direction", None)

    # -- latents and noise ---------------------------------------------------------------------
    def sample_z(self, n: int, rng: Rng) -> Tensor:
        """z: standard normal [n, z_dim] on the generator's device."""
        return torch.randn(n, self.z_dim, generator=rng).to(self.mapping.w_avg.device)

    @torch.no_grad()
    def map(self, z: Tensor, truncation: float = 1.0, c: Tensor | None = None) -> Tensor:
        """z [B, z_dim] -> latents [B, num_ws, w_dim]: one w for all layers.

        truncation: how far w may be from the mean w; 1 leaves it, 0 gives the mean. c: conditions
        [B, c_dim] of a conditional network.
        """
        w = self.mapping(z, c)
        if truncation != 1.0:
            w = self.mapping.w_avg.lerp(w, truncation)
        return w[:, None].repeat(1, self.num_ws, 1)

    def sample_noise(self, n: int, rng: Rng) -> list[Tensor]:
        device = self.mapping.w_avg.device
        sizes = [layer.resolution for layer in self.synthesis.layers]
        return [torch.randn(n, 1, r, r, generator=rng).to(device) for r in sizes]

    def forward(self, latents: Tensor, noise: Noise = None) -> Tensor:
        moved = latents if self.direction is None else latents + self.direction
        return self.synthesis(moved, noise)

    # -- layers --------------------------------------------------------------------------------
    @property
    def num_layers(self) -> int:
        return self.num_ws

    def layer(self, index: int) -> nn.Module:
        """The index-th layer of StyleGAN-NADA's list: the 4x4 convolution, the 4x4 torgb, then the
        remaining convolutions coarse to fine.
        """
        first, *rest = self.synthesis.layers
        layers: list[nn.Module] = [first, self.synthesis.block(4).torgb, *rest]
        return layers[index]

    def add_direction(self) -> nn.Parameter:
        """Give the generator a direction [num_ws, w_dim] of zeros, which changes nothing, and
        return it.
        """
        self.direction = nn.Parameter(self.mapping.w_avg.new_zeros(self.num_ws, self.w_dim))
        return self.direction

    def restrict(self, c: Tensor) -> "StyleGAN2":
        """The frozen unconditional generator that this conditional one is at condition c [c_dim].

        Its mean w is the mean of 4096 random w.
        """
        restricted = StyleGAN2(replace(self.config, c_dim=0))
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("mapping.embed.")}
        with torch.no_grad():
            embedded = normalize_second_moment(self.mapping.embed(c[None]))[0]
            first = self.mapping.layer(0)
            weight_z, weight_c = first.weight.split([self.z_dim, self.w_dim], dim=1)
            state["mapping.fc0.weight"] = weight_z * (
                first.weight_gain * math.sqrt(self.z_dim) / first.bias_gain
            )
            state["mapping.fc0.bias"] = (
                first.bias + weight_c @ embedded * first.weight_gain / first.bias_gain
            )
            restricted.load_state_dict(state)
            z = torch.randn(4096, self.z_dim, generator=torch.Generator().manual_seed(0))
            restricted.mapping.w_avg.copy_(restricted.mapping(z).mean(dim=0))
        return restricted.requires_grad_(False).eval()

    def config_dict(self) -> dict:
        """The architecture as JSON: the arguments of `StyleGAN2Config`."""
        return asdict(self.config)

    def with_mapping(self) -> "MappedStyleGAN2":
        """A frozen copy whose latents are z [B, z_dim], so that its mapping can be adapted too."""
        with torch.device("meta"):  # all tensors are those of the copies below
            whole = MappedStyleGAN2(self.config)
        whole.mapping, whole.synthesis, whole.direction = copy.deepcopy(
            (self.mapping, self.synthesis, self.direction)
        )
        return whole.requires_grad_(False).eval()


class MappedStyleGAN2(StyleGAN2):
    """StyleGAN2 with its mapping network inside: latents are z [B, z_dim] (truncation 1)."""

    def sample_latents(self, n: int, rng: Rng, truncation: float = 1.0) -> Tensor:
        """z: standard normal [n, z_dim]. Raises AirlibError for a truncation other than 1."""
        if truncation != 1.0:
            raise AirlibError("a generator with its mapping inside is sampled without truncation")
        return self.sample_z(n, rng)

    def forward(self, latents: Tensor, noise: Noise = None) -> Tensor:
        w = self.mapping(latents)
        return super().forward(w[:, None].expand(-1, self.num_ws, -1), noise)
