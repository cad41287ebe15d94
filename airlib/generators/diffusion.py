"""A diffusion model as a generator: ten deterministic solver steps from noise to image.

    x_T --DPM-Solver, 10 calls of the UNet--> image

    generator = DiffusionGenerator(unet)                   # any unconditional diffusers UNet2DModel
    images = generator(generator.sample_latents(4, rng))   # [4, 3, H, W]

The latent is x_T itself: nothing random happens on the way, so the image is a function of latent
and weights, with a gradient in both. That gradient runs through all calls of the UNet and keeps the
activations of all of them. Two options save memory: `checkpointing` computes each call again when
its gradient is needed (same gradient, a third more time), and `gradient_steps = k` follows only the
last k steps (another, shorter-sighted gradient; time saved as well).
"""

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Generator as Rng
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from airlib.errors import AirlibError
from airlib.generators.base import Generator, Noise
from airlib.generators.solver import dpm_solver

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

IMAGE_CHANNELS = 3


class DiffusionGenerator(Generator):
    """`unet` sampled with DPM-Solver.

    Args:
        unet: predicts noise (3 output channels), or noise and variance (6; the variance is not
            used), trained on 1000 linear steps.
        steps: of the solver, each one call of the UNet.
        checkpointing: keep one image per step instead of all activations.
        gradient_steps: how many of the last steps have a gradient (default: all).
    """

    def __init__(
        self,
        unet: "UNet2DModel",
        steps: int = 10,
        checkpointing: bool = False,
        gradient_steps: int | None = None,
    ):
        super().__init__()
        config: Any = unet.config
        channels = config.in_channels, config.out_channels
        if channels not in ((IMAGE_CHANNELS, IMAGE_CHANNELS), (IMAGE_CHANNELS, 2 * IMAGE_CHANNELS)):
            raise AirlibError(
                f"a UNet with {channels[0]} input and {channels[1]} output channels draws no RGB "
                "images; give one with 3 inputs and 3 outputs (noise) or 6 (noise and variance)"
            )
        if unet.class_embedding is not None:
            raise AirlibError("the UNet wants a class; restrict it to one first")
        gradient_steps = steps if gradient_steps is None else gradient_steps
        if not 1 <= gradient_steps <= steps:
            raise AirlibError(
                f"gradient through {gradient_steps} of {steps} steps is impossible; "
                "choose steps >= gradient_steps >= 1"
            )
        self.unet: UNet2DModel = unet
        self.steps: int = steps
        self.checkpointing: bool = checkpointing
        self.gradient_steps: int = gradient_steps
        self.resolution: int = config.sample_size

    # -- latents and noise ---------------------------------------------------------------------
    def sample_z(self, n: int, rng: Rng) -> Tensor:
        """x_T, standard normal [n, 3, H, W] on the generator's device."""
        shape = n, IMAGE_CHANNELS, self.resolution, self.resolution
        return torch.randn(shape, generator=rng).to(self.unet.device)

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [n, 3, H, W] as it is: there is no mapping network. AirlibError for a truncation."""
        if truncation != 1.0:
            # Noise of a smaller scale is no sample at time T: the model was never shown any.
            raise AirlibError("a diffusion model has no truncation; sample it with truncation 1")
        return z

    def sample_noise(self, n: int, rng: Rng) -> list[Tensor]:
        """An empty list: a diffusion model has no noise maps, x_T is all the noise there is."""
        return []

    def forward(self, latents: Tensor, noise: Noise = None) -> Tensor:
        if noise:
            raise AirlibError("a diffusion generator has no noise maps; pass noise=None")
        scheduler = dpm_solver(self.steps)  # a new one: it remembers the steps it has made
        x, differentiable = latents, torch.is_grad_enabled()
        for i, t in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(differentiable and i >= self.steps - self.gradient_steps):
                step: Any = scheduler.step(self._predict(x, t), t, x)
                x = step.prev_sample
        return x

    def _predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x [B, 3, H, W] at time t."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._call, x, t, use_reentrant=False)
        return self._call(x, t)

    def _call(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t).sample[:, :IMAGE_CHANNELS]

    # -- layers --------------------------------------------------------------------------------
    @property
    def num_layers(self) -> int:
        """How many residual blocks and attentions the UNet has."""
        return len(self._layers())

    def layer(self, index: int) -> nn.Module:
        """The index-th of all residual blocks and attentions, from the input to the output."""
        return self._layers()[index]

    def _layers(self) -> list[nn.Module]:
        from diffusers.models.attention_processor import Attention
        from diffusers.models.resnet import ResnetBlock2D

        parts = [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]
        kinds = ResnetBlock2D, Attention
        return [module for part in parts for module in part.modules() if isinstance(module, kinds)]

    def with_mapping(self) -> Self:
        return self


class ConditionalUNet(nn.Module):
    """A UNet2DModel that is told a condition through its time embedding.

        epsilon = unet(x, t, c)            # x [B, 3, H, W], t [B] or one number, c [B, c_dim]
        unconditional = unet.restrict(c)   # c [c_dim]: the ordinary UNet2DModel it is there

    The condition adds a vector to the time embedding, so one condition is a change of a bias.
    """

    def __init__(self, config: dict, c_dim: int):
        from diffusers.models import UNet2DModel

        super().__init__()
        self.config_dict, self.c_dim = dict(config), c_dim
        self.unet = UNet2DModel(**config, class_embed_type="identity")
        width = self.unet.time_embedding.linear_2.out_features
        self.embed = nn.Linear(c_dim, width, bias=False)

    def forward(self, x: Tensor, t: Tensor | int, c: Tensor) -> Tensor:
        """The noise [B, 3, H, W] in x at time t (one number or [B]), given c [B, c_dim]."""
        return self.unet(x, t, class_labels=self.embed(c)).sample

    @torch.no_grad()
    def restrict(self, c: Tensor) -> "UNet2DModel":
        from diffusers.models import UNet2DModel

        restricted = UNet2DModel(**self.config_dict)
        restricted.load_state_dict(self.unet.state_dict())
        restricted.time_embedding.linear_2.bias += self.embed(c[None])[0]
        return restricted.requires_grad_(False).eval()
