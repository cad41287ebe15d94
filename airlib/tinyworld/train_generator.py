"""The world generator: one conditional StyleGAN2 that has seen every domain of the tiny world.

It is distilled from the renderer instead of trained against a discriminator: latent z and domain d
in, the portrait render(z, d) as the target, so the same z is the same individual in every domain.
The condition is the one-hot species, age and style; `StyleGAN2.restrict` turns it into the ordinary
generator of one domain.

The first steps teach the mapping network alone what a latent says about a sitter (`lessons`):
cheap, and without it fur and hair come out in average colours. Then the images, with small lessons
beside them, because the mapping network forgets what it is not asked for: L1 and gradient L1 at
full, half and quarter resolution, the first 30 % of these steps at 32 pixels only. Pixels count
more in the centre and where the target is finely drawn: to plain L1 a pair of glasses is nothing.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.checkpoints.networks import filled
from airlib.errors import AirlibError
from airlib.files import load_tensors
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain
from airlib.tinyworld.lessons import Lessons
from airlib.tinyworld.pool import FIXED_SHARES, load_pool, sample_domains
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shipped import WEIGHTS
from airlib.training.muon import Muon
from airlib.training.precision import reduced_precision

CONFIG = StyleGAN2Config(
    resolution=64, z_dim=LATENT_DIM, w_dim=128, c_dim=len(SPECIES) + len(AGES) + len(STYLES),
    channel_base=2048, channel_max=128, mapping_layers=4, mapping_lr_multiplier=0.7,
)  # fmt: skip
LESSON_SHARE = 0.2  # of the steps, for the mapping network alone
LESSON_BATCH = 512
LESSON_BESIDE, LESSON_WEIGHT = 128, 0.3  # batch and weight of the lessons beside the images
DETAIL = 8.0  # additional weight of a pixel per unit of difference from its neighbourhood
COARSE_SHARE = 0.3  # of the remaining steps, at half resolution
SOURCES = tuple(FIXED_SHARES)  # what experiments start from; counted twice


def condition(domains: Tensor) -> Tensor:
    """Domain indices [B, 3] -> one-hot species, age and style side by side [B, 18]."""
    sizes = (len(SPECIES), len(AGES), len(STYLES))
    return torch.cat([F.one_hot(domains[:, i], sizes[i]) for i in range(3)], dim=1).float()


def gradient_loss(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 between the edges of images x and y [B, 3, H, W]; weight: [B, 1, H, W].

    Edges are the horizontal and vertical pixel differences.
    """
    d = x - y
    rows = (d.diff(dim=2).abs() * weight[:, :, 1:]).mean()
    return rows + (d.diff(dim=3).abs() * weight[..., 1:]).mean()


def pixel_weights(targets: Tensor) -> Tensor:
    """How much each pixel of targets [B, 3, H, W] counts: [B, 1, H, W].

    The centre, where the face is, counts up to three times, and a pixel `DETAIL` times more per
    unit of difference from its neighbourhood.
    """
    axis = torch.linspace(-1, 1, targets.shape[-1])
    centre = 1 + 2 * torch.exp(-(axis[:, None] ** 2 + axis**2) / 0.35)
    around = F.avg_pool2d(targets, 5, 1, padding=2, count_include_pad=False)
    return centre * (1 + DETAIL * (targets - around).abs().mean(dim=1, keepdim=True))


def pyramid_loss(images: Tensor, targets: Tensor) -> Tensor:
    """L1 and gradient L1 between images [B, 3, H, W] at full, half and quarter resolution.

    Pixels are weighted by `pixel_weights` of the targets.
    """
    weight = pixel_weights(targets)
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
        self, seed: int = 0, steps: int = 32000, batch: int = 16, pool_size: int = 120_000
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
        matrices = [layer.weight for layer in network.synthesis.layers]
        chosen = {id(weight) for weight in matrices}
        parameters = [*network.parameters(), *self.readout.parameters()]
        self.optimizer = Muon(matrices, [p for p in parameters if id(p) not in chosen])

    def rows_to_learn(self, domains: Tensor) -> Tensor:
        """Numbers of the pool's rows to draw from: all, those of the source domains twice."""
        sources = [_rows_of(domain, domains) for domain in SOURCES]
        return torch.cat([torch.arange(len(domains)), *sources])

    def domains_to_learn(self, n: int, rng: Rng) -> Tensor:
        """Domains [n, 3] of one lesson."""
        return sample_domains(n, rng)

    def learning_rate(self, progress: float) -> float:
        """Lessons: a cosine from 0.008 to 0. Images: 0.006, from 30 % on a cosine to 1 % of it."""
        if progress < LESSON_SHARE:
            return 0.008 * _cosine(progress / LESSON_SHARE)
        progress = (progress - LESSON_SHARE) / (1 - LESSON_SHARE)
        warm = min(1.0, progress * self.steps / 100 + 0.01)
        return 0.006 * warm * (0.01 + 0.99 * _cosine(max(0.0, (progress - 0.3) / 0.7)))

    def loss(self, step: int, rng: Rng) -> Tensor:
        """Loss of one batch: lessons alone in the first 20 % of the steps, then images as well."""
        progress = step / self.steps
        if progress < LESSON_SHARE:
            return self.lesson_loss(rng)
        coarse = progress < LESSON_SHARE + COARSE_SHARE * (1 - LESSON_SHARE)
        images = self.image_loss(rng, resolution=32 if coarse else 64)
        return images + LESSON_WEIGHT * self.lesson_loss(rng, LESSON_BESIDE)

    def lesson_loss(self, rng: Rng, n: int = LESSON_BATCH) -> Tensor:
        """Squared error of the facts read from w, over n new sitters."""
        z = torch.randn(n, LATENT_DIM, generator=rng)
        domains = self.domains_to_learn(n, rng)
        read = self.readout(self.network.mapping(z, condition(domains)))
        return F.mse_loss(read, self.lessons(z, domains))

    def image_loss(self, rng: Rng, resolution: int) -> Tensor:
        """Distance of generated portraits to those of the pool, at `resolution` pixels."""
        pick = self.rows[torch.randint(0, len(self.rows), (self.batch,), generator=rng)]
        targets = self.pool.pictures(pick)
        w = self.network.mapping(self.pool.latents[pick], condition(self.pool.domains[pick]))
        ws = w[:, None].expand(-1, self.network.num_ws, -1)
        with reduced_precision():
            images = self.network.synthesis(ws, resolution=resolution).float()
        return pyramid_loss(images, F.avg_pool2d(targets, 64 // resolution))

    def after_step(self, step: int) -> None:
        """Update the running average of the weights."""
        decay = min(0.999, (step + 1) / (step + 20))
        parameters: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - decay)

    def evaluate(self) -> dict[str, float]:
        """Fidelity of the running average on the source domains."""
        return fidelity(self.average)

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The running average, its convolutions scaled to unit mean square like untrained ones.

        Demodulation makes that scale irrelevant to the images, but not to an adaptation: Muon lets
        it grow forty-fold, and a learning rate would then move the network a fortieth as far.
        """
        network = copy.deepcopy(self.average)
        for layer in network.synthesis.layers:
            scale = layer.weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            layer.weight.div_(scale)
        return network.state_dict(), network.config_dict()


class NarrowGeneratorTask(GeneratorTask):
    """The contrast: the same network, but it has seen human photos only, a seventh of the pool."""

    name = "stylegan2_narrow"
    domain = SOURCES[0]

    def __init__(self, seed: int = 0, steps: int = 3000):
        super().__init__(seed, steps)

    def rows_to_learn(self, domains: Tensor) -> Tensor:
        """Numbers of the rows of domains [n, 3] to draw from: those of human photos."""
        return _rows_of(self.domain, domains)

    def domains_to_learn(self, n: int, rng: Rng) -> Tensor:
        """Domains [n, 3] of one lesson: human photos only."""
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
    """L1 to the true portraits of n held-out latents per domain, and sharpness.

    Keys are PREFIX_SPECIES_l1 and PREFIX_SPECIES_sharpness. Sharpness is the mean horizontal
    gradient of the output over that of the target; 1 is ideal.
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


def world_generator(path: str | Path = WEIGHTS / f"{GeneratorTask.name}.safetensors") -> StyleGAN2:
    """The conditional generator of all domains, frozen and in float32.

    path: a weights file; default the shipped one. Raises AirlibError if the file is missing,
    damaged, or of another network.
    """
    tensors, config = load_tensors(path)
    try:
        return filled("stylegan2", config, {k: v.float() for k, v in tensors.items()}, path)
    except AirlibError as error:
        raise AirlibError(
            f"{path} does not hold the world generator; run `airlib train-tiny stylegan2`"
        ) from error
