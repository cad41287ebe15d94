"""The world generator: one conditional StyleGAN2 that has seen every domain of the tiny world.

It is distilled from the renderer instead of trained against a discriminator: latent z and domain d
in, the portrait render(z, d) as the target, so the same z is the same individual in every domain.
The condition is the one-hot species, age and style; `StyleGAN2.restrict` turns it into the ordinary
generator of one domain.

The first quarter of the steps teaches the mapping network alone what a latent says about a sitter
(`lessons`): cheap, and without it fur and hair come out in average colours. Then the images:
centre-weighted L1 and gradient L1 at full, half and quarter resolution, the first 30 % of these
steps at 32 pixels only.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain
from airlib.tinyworld.lessons import Lessons
from airlib.tinyworld.pool import FIXED_SHARES, load_pool, sample_domains
from airlib.tinyworld.renderer import render

CONFIG = StyleGAN2Config(
    resolution=64, z_dim=LATENT_DIM, w_dim=128, c_dim=len(SPECIES) + len(AGES) + len(STYLES),
    channel_base=2048, channel_max=128, mapping_layers=4, mapping_lr_multiplier=0.7,
)  # fmt: skip
LESSON_SHARE = 0.25  # of the steps, for the mapping network alone
LESSON_BATCH = 512
COARSE_SHARE = 0.3  # of the remaining steps, at half resolution
SOURCES = tuple(FIXED_SHARES)  # what experiments start from; counted twice


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
    """Distil the renderer into `StyleGAN2(CONFIG)`; ships the running average of the weights.

    `readout`, linear from w to the facts of a lesson, is not shipped.
    """

    name = "stylegan2"

    def __init__(
        self, seed: int = 0, steps: int = 28000, batch: int = 16, pool_size: int = 120_000
    ):
        self.steps, self.batch = steps, batch
        self.pool = load_pool(pool_size, seed, "train")
        self.rows = self.rows_to_learn(self.pool.domains)
        self.lessons = Lessons()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = StyleGAN2(CONFIG).to(memory_format=torch.channels_last)
            self.readout = torch.nn.Linear(CONFIG.w_dim, self.lessons.size)
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        self.modules = {"network": network, "average": self.average, "readout": self.readout}
        parameters = [*network.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.99), fused=True)

    def rows_to_learn(self, domains: Tensor) -> Tensor:
        """Numbers of the pool's rows to draw from: all, those of the source domains twice."""
        sources = [_rows_of(domain, domains) for domain in SOURCES]
        return torch.cat([torch.arange(len(domains)), *sources])

    def domains_to_learn(self, n: int, rng: Rng) -> Tensor:
        """Domains [n, 3] of one lesson."""
        return sample_domains(n, rng)

    def learning_rate(self, progress: float) -> float:
        """Lessons: a cosine from 0.008 to 0. Images: 0.003, from 30 % on a cosine to 1 % of it."""
        if progress < LESSON_SHARE:
            return 0.008 * _cosine(progress / LESSON_SHARE)
        progress = (progress - LESSON_SHARE) / (1 - LESSON_SHARE)
        warm = min(1.0, progress * self.steps / 100 + 0.01)
        return 0.003 * warm * (0.01 + 0.99 * _cosine(max(0.0, (progress - 0.3) / 0.7)))

    def loss(self, step: int, rng: Rng) -> Tensor:
        progress = step / self.steps
        if progress < LESSON_SHARE:
            return self.lesson_loss(rng)
        coarse = progress < LESSON_SHARE + COARSE_SHARE * (1 - LESSON_SHARE)
        return self.image_loss(rng, resolution=32 if coarse else 64)

    def lesson_loss(self, rng: Rng) -> Tensor:
        """Squared error of the facts read from w, over fresh sitters."""
        z = torch.randn(LESSON_BATCH, LATENT_DIM, generator=rng)
        domains = self.domains_to_learn(LESSON_BATCH, rng)
        read = self.readout(self.network.mapping(z, condition(domains)))
        return F.mse_loss(read, self.lessons(z, domains))

    def image_loss(self, rng: Rng, resolution: int) -> Tensor:
        """Distance of generated portraits to those of the pool."""
        pick = self.rows[torch.randint(0, len(self.rows), (self.batch,), generator=rng)]
        targets = self.pool.pictures(pick)
        w = self.network.mapping(self.pool.latents[pick], condition(self.pool.domains[pick]))
        ws = w[:, None].expand(-1, self.network.num_ws, -1)
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


class NarrowGeneratorTask(GeneratorTask):
    """The contrast: the same network, but it has seen human photos only, a seventh of the pool."""

    name = "stylegan2_narrow"
    domain = SOURCES[0]

    def __init__(self, seed: int = 0, steps: int = 12000):
        super().__init__(seed, steps)

    def rows_to_learn(self, domains: Tensor) -> Tensor:
        return _rows_of(self.domain, domains)

    def domains_to_learn(self, n: int, rng: Rng) -> Tensor:
        return torch.tensor(self.domain.index).expand(n, 3)

    def evaluate(self) -> dict[str, float]:
        """Fidelity of the running average in its one domain."""
        return fidelity(self.average, [self.domain], self.name)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _rows_of(domain: Domain, domains: Tensor) -> Tensor:
    """Numbers of the rows of domains [n, 3] that are `domain`."""
    return (domains == torch.tensor(domain.index)).all(dim=1).nonzero()[:, 0]


@torch.no_grad()
def fidelity(
    generator: StyleGAN2,
    domains: Sequence[Domain] = SOURCES,
    prefix: str = "stylegan2",
    n: int = 256,
) -> dict[str, float]:
    """L1 to the true portraits of n fresh latents per domain, and sharpness.

    Sharpness is the mean horizontal gradient of the output over that of the target; 1 is ideal.
    """
    metrics = {}
    for domain in domains:
        z = torch.randn(n, LATENT_DIM, generator=rng(0, "generator-test"))
        w = generator.map(z, c=condition(torch.tensor([domain.index] * n)))
        target, output = render(z, domain), generator.synthesis(w)
        sharpness = output.diff(dim=3).abs().mean() / target.diff(dim=3).abs().mean()
        metrics[f"{prefix}_{domain.species}_l1"] = (output - target).abs().mean().item()
        metrics[f"{prefix}_{domain.species}_sharpness"] = sharpness.item()
    return metrics
