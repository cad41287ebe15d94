"""The world diffusion model: one conditional UNet that predicts noise in portraits of all domains.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon,  loss = w(t) |epsilon(x_t, t, c) - epsilon|^2

1000 linear steps from 1e-4 to 0.02, as ADM and as `generators.solver` expects. The condition c is
that of the world StyleGAN2 (species, age, style); `ConditionalUNet.restrict` turns it into the
ordinary unconditional UNet2DModel of one source domain.

All 114 domains, not the two source domains alone, although those would be sharper in the same time.
A tiny CLIP can point at a direction but cannot teach a network to paint fur: adaptation finds its
way where the weights already hold what it needs, as those of a large model do, and the narrow
StyleGAN2, which has seen people only, shows what happens where they do not. It also makes the row
"prior" possible: these weights restricted to the target, the best that adaptation can reach. Of the
batches 45 % are source domains, because every result starts from them.

32 pixels (area average of the 64 of the renderer): at 64 a step costs four times as much, and the
model sees a fourth of the portraits in the same time. Enlarged again, such portraits lose little to
those who look at them: the tiny CLIP names the species of 93.7 % of 1,000 held-out ones (93.8 % at
64 pixels), the judge of 99.5 % (99.7 %). `w` is min-SNR (Hang et al. 2023). In equal time Muon's
error on held-out portraits was lower than Adam's (.056 and .069 after 90 seconds, the better of two
learning rates each).
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from airlib.checkpoints.configs import checked
from airlib.errors import AirlibError
from airlib.evaluation.features import Judge
from airlib.evaluation.frechet import frechet_distance
from airlib.files import load_tensors
from airlib.generators.diffusion import ConditionalUNet, DiffusionGenerator
from airlib.seeding import rng
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.judge import NETWORKS, load_judge
from airlib.tinyworld.pool import Pool, load_pool
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shipped import WEIGHTS
from airlib.tinyworld.train_generator import CONFIG as STYLEGAN2_CONFIG
from airlib.tinyworld.train_generator import SOURCES, condition
from airlib.training.muon import Muon
from airlib.training.precision import reduced_precision

RESOLUTION = 32
CONFIG = {  # of diffusers.UNet2DModel
    "sample_size": RESOLUTION,
    "block_out_channels": [32, 64, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "add_attention": True,  # one, in the middle, at 8x8
    "attention_head_dim": 32,
    "norm_num_groups": 16,
    "attn_norm_num_groups": 16,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "scale_shift",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
C_DIM = STYLEGAN2_CONFIG.c_dim
SOURCE_COPIES = 3  # how often a portrait of a source domain counts
MIN_SNR = 5.0
ABAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).float()
FRECHET_SAMPLES = 500


def add_noise(images: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """Images [B, 3, H, W] with noise `epsilon` of that shape, as at times t [B], 0 <= t < 1000."""
    kept = ABAR[t].view(-1, 1, 1, 1)
    return kept.sqrt() * images + (1 - kept).sqrt() * epsilon


def spread_times(n: int, rng: Rng) -> Tensor:
    """Times [n] that are each uniform in 0 ... 999 but evenly spaced together: less variance."""
    shift = torch.rand(1, generator=rng)
    return (((shift + torch.arange(n) / n) % 1) * len(ABAR)).long()


class DiffusionTask:
    """Train `ConditionalUNet(CONFIG)`; ships the running average of the weights."""

    name = "diffusion"

    def __init__(self, seed: int = 0, steps: int = 6500, batch: int = 32, pool_size: int = 120_000):
        self.steps, self.batch = steps, batch
        pool = load_pool(pool_size, seed, "train")
        self.images, self.domains = shrink(pool), pool.domains
        self.rows = rows_to_learn(pool.domains)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = ConditionalUNet(CONFIG, C_DIM)
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        self.modules = {"network": network, "average": self.average}
        matrices = inner_matrices(network)
        chosen = {id(weight) for weight in matrices}
        others = [p for p in network.parameters() if id(p) not in chosen]
        self.optimizer = Muon(matrices, others, ratio=0.5)

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up over the first 200 steps, and a cosine from 0.003 to 0."""
        warm = min(1.0, (progress * self.steps + 1) / 200)
        return 0.003 * warm * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: Rng) -> Tensor:
        """Squared error of the noise predicted in one batch, with min-SNR weights."""
        pick = self.rows[torch.randint(0, len(self.rows), (self.batch,), generator=rng)]
        t = spread_times(self.batch, rng)
        images = to_floats(self.images[pick])
        with reduced_precision():
            error = noise_error(self.network, images, self.domains[pick], t, rng)
        snr = ABAR[t] / (1 - ABAR[t])
        return (error * (MIN_SNR / snr).clamp(max=1)).mean()

    def after_step(self, step: int) -> None:
        """Update the running average of the weights."""
        decay = min(0.999, (step + 1) / (step + 20))
        parameters: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - decay)

    def evaluate(self) -> dict[str, float]:
        """The metrics `held_out_error` and `frechet_ratios` of the running average."""
        judges = {name: load_judge(name) for name in NETWORKS}
        return held_out_error(self.average) | frechet_ratios(self.average, judges)

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The running average and what rebuilds the network around it."""
        return self.average.state_dict(), {"unet": CONFIG, "c_dim": C_DIM}


def generator_of(network: ConditionalUNet, domain: Domain, **options) -> DiffusionGenerator:
    """The unconditional generator of one domain, frozen; options: those of `DiffusionGenerator`."""
    unet = network.restrict(condition(torch.tensor([domain.index]))[0])
    return DiffusionGenerator(unet, **options).requires_grad_(False).eval()


def world_diffusion(path: str | Path = WEIGHTS / "diffusion.safetensors") -> ConditionalUNet:
    """The conditional UNet of all domains, frozen and in float32.

    path: a weights file; default the shipped one. Raises AirlibError if the file is missing,
    damaged, or of another network.
    """
    tensors, config = load_tensors(path)
    try:
        unet = checked("unet", config["unet"])
        with torch.device("meta"):  # the file's tensors take the place of those
            network = ConditionalUNet(unet, config["c_dim"])
        network.load_state_dict({k: v.float() for k, v in tensors.items()}, assign=True)
    except (AirlibError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AirlibError(
            f"{path} does not hold the world diffusion model; run `airlib train-tiny diffusion`"
        ) from error
    return network.requires_grad_(False).eval()


def rows_to_learn(domains: Tensor) -> Tensor:
    """Numbers of the rows of domains [n, 3] to draw from; those of source domains are repeated."""
    sources = torch.tensor([domain.index for domain in SOURCES])
    is_source = (domains[:, None] == sources).all(dim=2).any(dim=1)
    repeats = torch.where(is_source, SOURCE_COPIES, 1)
    return torch.arange(len(domains)).repeat_interleave(repeats)


def inner_matrices(network: ConditionalUNet) -> list[torch.nn.Parameter]:
    """Weights of all convolutions and attentions between the first and the last layer."""
    parts = map(network.unet.get_submodule, ("down_blocks", "mid_block", "up_blocks"))
    return [p for part in parts for p in part.parameters() if p.ndim > 1]


def shrink(pool: Pool) -> Tensor:
    """The pool's images at 32 pixels, as bytes [n, 3, 32, 32]."""
    parts = [reduce(part.float()).round().byte() for part in pool.images.split(4096)]
    return torch.cat(parts)


def to_floats(images: Tensor) -> Tensor:
    """Images as bytes 0 .. 255 -> floats in [-1, 1] of the same shape."""
    return images.float() / 127.5 - 1


def noise_error(
    network: ConditionalUNet, images: Tensor, domains: Tensor, t: Tensor, rng: Rng
) -> Tensor:
    """Mean squared error [B] of the noise predicted in images [B, 3, 32, 32] at times t [B].

    domains: rows of `Domain.index` [B, 3]. rng: the source of the noise.
    """
    epsilon = torch.randn(images.shape, generator=rng)
    x = add_noise(images, epsilon, t)
    predicted = network(x, t, condition(domains))
    return (predicted.float() - epsilon).square().mean(dim=(1, 2, 3))


# -- how good it is --------------------------------------------------------------------------------
@torch.no_grad()
def held_out_error(network: ConditionalUNet, n: int = 1000) -> dict[str, float]:
    """Mean squared error of the predicted noise on n held-out portraits, over all times.

    The key is "diffusion_noise_error".
    """
    pool, stream = load_pool(n, 0, "test"), rng(0, "diffusion-test")
    images, t = to_floats(shrink(pool)), torch.randint(0, len(ABAR), (n,), generator=stream)
    parts = torch.arange(n).split(50)
    errors = [noise_error(network, images[i], pool.domains[i], t[i], stream) for i in parts]
    return {"diffusion_noise_error": torch.cat(errors).mean().item()}


@torch.no_grad()
def frechet_ratios(
    network: ConditionalUNet, judges: Mapping[str, Judge], n: int = FRECHET_SAMPLES
) -> dict[str, float]:
    """How visible ten-step samples of each source domain are, on the scale of an adaptation.

    A ratio is the Frechet distance of n samples to n held-out renders, divided by the distance of n
    renders of the domain's babies to those renders. Keys are diffusion_SPECIES_fd_ratio_JUDGE.
    judges: name -> judge. The judges look at 64 pixels, so both sides are enlarged from 32.
    """
    metrics = {}
    for domain in SOURCES:
        generator = generator_of(network, domain)
        x = generator.sample_latents(n, rng(0, "diffusion-test", str(domain)))
        samples = torch.cat([generator(part) for part in x.split(50)])
        adults, babies = (_renders(d, n) for d in (domain, Domain(domain.species, "baby")))
        for name, judge in judges.items():
            seen, true, other = (judge.features(enlarge(x)) for x in (samples, adults, babies))
            ratio = frechet_distance(seen, true) / frechet_distance(other, true)
            metrics[f"diffusion_{domain.species}_fd_ratio_{name}"] = ratio
    return metrics


def _renders(domain: Domain, n: int) -> Tensor:
    z = torch.randn(n, LATENT_DIM, generator=rng(0, "diffusion-test", "renders", str(domain)))
    return reduce(render(z, domain))


def reduce(images: Tensor) -> Tensor:
    """Images [B, 3, 64, 64] of the renderer -> [B, 3, 32, 32], by area averages."""
    return F.avg_pool2d(images, images.shape[-1] // RESOLUTION)


def enlarge(images: Tensor) -> Tensor:
    """Images [B, 3, 32, 32] -> [B, 3, 64, 64], bilinear: the judges see 64 pixels."""
    return F.interpolate(images, scale_factor=64 // RESOLUTION, mode="bilinear")
