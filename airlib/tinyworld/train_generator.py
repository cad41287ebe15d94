"""The world generator: one conditional StyleGAN2 that has seen every domain of the tiny world.

It is distilled from the renderer instead of trained against a discriminator: latent z and domain d
in, the portrait render(z, d) as the target, so the same z is the same individual in every domain.
The condition is the one-hot species, age and style; `StyleGAN2.restrict` turns it into the ordinary
generator of one domain.

Loss: centre-weighted L1 and gradient L1 at full, half and quarter resolution. The first 30 % of the
steps run at 32 pixels only.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain
from airlib.tinyworld.pool import load_pool
from airlib.tinyworld.renderer import render

CONFIG = StyleGAN2Config(
    resolution=64, z_dim=LATENT_DIM, w_dim=96, c_dim=len(SPECIES) + len(AGES) + len(STYLES),
    channel_base=2048, channel_max=128, mapping_layers=3, mapping_lr_multiplier=0.7,
)  # fmt: skip
COARSE_SHARE = 0.3  # of the steps, at half resolution


def condition(domains: Tensor) -> Tensor:
    """Domain indices [B, 3] -> one-hot species, age and style side by side [B, 18]."""
    sizes = (len(SPECIES), len(AGES), len(STYLES))
    return torch.cat([F.one_hot(domains[:, i], sizes[i]) for i in range(3)], dim=1).float()


def gradient_loss(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 between the horizontal and vertical differences of two image batches."""
    d = x - y
    rows = (d.diff(dim=2).abs() * weight[:, :, 1:]).mean()
    return rows + (d.diff(dim=3).abs() * weight[..., 1:]).mean()


def pyramid_loss(images: Tensor, targets: Tensor) -> Tensor:
    """L1 and gradient L1 over three octaves; the centre, where the face is, counts up to three
    times.
    """
    axis = torch.linspace(-1, 1, images.shape[-1])
    weight = (1 + 2 * torch.exp(-(axis[:, None] ** 2 + axis**2) / 0.35))[None, None]
    total = torch.zeros([])
    for l1, gradient in ((1.0, 0.6), (0.4, 0.3), (0.2, 0.0)):
        total = total + l1 * ((images - targets).abs() * weight).mean()
        total = total + gradient * gradient_loss(images, targets, weight)
        images, targets, weight = (F.avg_pool2d(x, 2) for x in (images, targets, weight))
    return total


class GeneratorTask:
    """Distil the renderer into `StyleGAN2(CONFIG)`; ships the running average of the weights."""

    name = "stylegan2"

    def __init__(
        self, seed: int = 0, steps: int = 16000, batch: int = 16, pool_size: int = 120_000
    ):
        self.steps, self.batch = steps, batch
        self.pool = load_pool(pool_size, seed, "train")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = StyleGAN2(CONFIG).to(memory_format=torch.channels_last)
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        self.modules = {"network": self.network, "average": self.average}
        self.optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99), fused=True)

    def learning_rate(self, progress: float) -> float:
        warm = min(1.0, progress * self.steps / 100 + 0.01)
        decay = max(0.0, (progress - 0.3) / 0.7)
        return 3e-3 * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * decay)))

    def loss(self, step: int, rng: Rng) -> Tensor:
        pick = torch.randint(0, len(self.pool.images), (self.batch,), generator=rng)
        targets = self.pool.images[pick].float() / 127.5 - 1
        w = self.network.mapping(self.pool.latents[pick], condition(self.pool.domains[pick]))
        ws = w[:, None].expand(-1, self.network.num_ws, -1)
        resolution = 32 if step < COARSE_SHARE * self.steps else 64
        with torch.autocast("cpu", torch.bfloat16):
            images = self.network.synthesis(ws, resolution=resolution).float()
        return pyramid_loss(images, F.avg_pool2d(targets, 64 // resolution))

    def after_step(self, step: int) -> None:
        decay = min(0.999, (step + 1) / (step + 20))
        parameters = list(self.network.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - decay)

    def evaluate(self) -> dict[str, float]:
        """Fidelity of the running average."""
        return fidelity(self.average)

    def export(self) -> tuple[dict[str, Tensor], dict]:
        return self.average.state_dict(), self.average.config_dict()


@torch.no_grad()
def fidelity(generator: StyleGAN2, n: int = 256) -> dict[str, float]:
    """L1 to the true portraits of n fresh latents per source domain, and sharpness.

    Sharpness is the mean horizontal gradient of the output over that of the target; 1 is ideal.
    """
    metrics = {}
    for domain in (Domain("human", "adult", "photo"), Domain("dog", "adult", "photo")):
        z = torch.randn(n, LATENT_DIM, generator=rng(0, "generator-test"))
        w = generator.map(z, c=condition(torch.tensor([domain.index] * n)))
        target, output = render(z, domain), generator.synthesis(w)
        sharpness = output.diff(dim=3).abs().mean() / target.diff(dim=3).abs().mean()
        metrics[f"stylegan2_{domain.species}_l1"] = (output - target).abs().mean().item()
        metrics[f"stylegan2_{domain.species}_sharpness"] = sharpness.item()
    return metrics
