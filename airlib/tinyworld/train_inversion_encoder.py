r"""Training of the inversion encoder E (`tinyworld.inversion_encoder`) through the frozen G.

G is the world generator. The latent w of a render is known: the mapping network makes it of the
same sitter. The first steps ask for w alone, which is cheap, because G does not draw
(`EncoderTask.lesson_loss`). Then

    L = |G(E(x)) - x| / pixels + d(G(E(x)), x) + lambda_w |E(x) - w|^2 / variance of w

where d is the distance in the maps of the first judge (`evaluation.perceptual`). Half of these
batches are renders, pictures that no generator drew; the other half are drawn by G. lambda_w keeps
codes where G was trained, so that an adapted copy knows what to make of them. One inversion encoder
serves people and dogs: they share G, and differ in w alone.
"""

import math

import torch
from torch import Generator as Rng
from torch import Tensor

from airlib.evaluation.perceptual import PerceptualEmbedding, paired_l1
from airlib.generators.stylegan2 import StyleGAN2
from airlib.seeding import rng as stream
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, Domain
from airlib.tinyworld.inversion_encoder import NAME, TinyEncoder
from airlib.tinyworld.judge import ConvJudge, VitJudge, load_judge
from airlib.tinyworld.pool import load_pool
from airlib.tinyworld.renderer import render
from airlib.tinyworld.train_generator import SOURCES, condition, world_generator
from airlib.tinyworld.train_judge import POOL_SIZE
from airlib.training.precision import reduced_precision

LESSON_SHARE, LESSON_BATCH = 0.6, 128  # of the steps that ask for w alone, and of renders in each
BATCH = 32
LATENT_WEIGHT = 0.3  # lambda_w
PEAK, WARM_UP = 2e-3, 0.03  # learning rate, and the share of the steps that leads up to it
MEASURED = 256  # held-out renders per species


class EncoderTask:
    """Train the inversion encoder: a task of `airlib.training.loop`.

    pool_size: renders of all domains, of which those of the source domains are used.
    """

    name = NAME

    def __init__(self, seed: int = 0, steps: int = 2000, pool_size: int = POOL_SIZE) -> None:
        self.steps, self.generator = steps, world_generator()
        self.perceptual = PerceptualEmbedding(load_judge().maps)
        pool = load_pool(pool_size, seed, "train")
        self.domains = torch.tensor([domain.index for domain in SOURCES])
        own = (pool.domains[:, None] == self.domains).all(dim=2).any(dim=1)
        self.pool = type(pool)(*(tensor[own] for tensor in pool))
        known = self._latents(self.pool.latents, self.pool.domains)[:, 0]
        self.variance = known.var(dim=0).mean()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, self.name, "weights").initial_seed())
            network = TinyEncoder(self.generator.num_ws, self.generator.w_dim)
        network.latent_avg.copy_(known.mean(dim=0))
        self.encoder = network.to(memory_format=torch.channels_last)
        self.modules = {"encoder": self.encoder}
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), weight_decay=0.01)

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up, then a cosine from `PEAK` to 0."""
        warm_up = min(1.0, (progress + 1e-3) / WARM_UP)
        return PEAK * warm_up * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: Rng) -> Tensor:
        """Loss of one batch: of the latents in the first 60 % of the steps, then of the images."""
        return self.lesson_loss(rng) if step < LESSON_SHARE * self.steps else self.image_loss(rng)

    def lesson_loss(self, rng: Rng) -> Tensor:
        """Squared error of w over new renders, as a share of the variance of w."""
        images, known = self._renders(LESSON_BATCH, rng)
        return self._off(self._encode(images), known)

    def image_loss(self, rng: Rng) -> Tensor:
        """Loss of reconstructions: pixels, judge maps, and lambda_w times the error of w."""
        images, known = self.batch(rng)
        latents = self._encode(images)
        with reduced_precision():
            drawn = self.generator(latents)
            maps = self.perceptual.embed(drawn) - self.perceptual(images)
        pixels = (drawn.float() - images).abs().mean()
        distance = maps.square().sum(dim=1).mean()
        return pixels + distance + LATENT_WEIGHT * self._off(latents, known)

    def batch(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Images [B, 3, 64, 64], renders first and images drawn by G after them, with their w+.

        The latents are [B, num_ws, w_dim].
        """
        n = BATCH // 2
        renders, known = self._renders(n, rng)
        kinds = self.domains[torch.randint(len(self.domains), (n,), generator=rng)]
        latents = self._latents(torch.randn(n, LATENT_DIM, generator=rng), kinds)
        with torch.no_grad(), reduced_precision():
            drawn = self.generator(latents).float().clamp(-1, 1)
        return torch.cat([renders, drawn]), torch.cat([known, latents])

    def _renders(self, n: int, rng: Rng) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self.pool.latents), (n,), generator=rng)
        known = self._latents(self.pool.latents[rows], self.pool.domains[rows])
        return self.pool.pictures(rows), known

    def _encode(self, images: Tensor) -> Tensor:
        with reduced_precision():
            return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def _off(self, latents: Tensor, known: Tensor) -> Tensor:
        return (latents - known).square().mean() / self.variance

    def _latents(self, z: Tensor, domains: Tensor) -> Tensor:
        return self.generator.map(z, c=condition(domains))

    def after_step(self, step: int) -> None:
        """Nothing is averaged."""

    def evaluate(self) -> dict[str, float]:
        """Errors and recognition of held-out renders: the metrics of `quality`."""
        self.encoder.eval()
        metrics = quality(self.encoder, self.generator)
        self.encoder.train()
        return metrics

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The state to ship and what rebuilds the network around it."""
        return dict(self.encoder.state_dict()), self.encoder.config


@torch.no_grad()
def quality(encoder: TinyEncoder, generator: StyleGAN2, n: int = MEASURED) -> dict[str, float]:
    """How well n held-out renders per species come back.

    For each species `encoder_SPECIES_...`: "l1" in pixels and "perceptual" in the maps of the first
    judge, both part of the loss; and by the second judge, who is not, "perceptual_vit" and the
    shares of reconstructions whose "species" and "age" are right and whose "sitter" is: whose
    latent, as the judge reads it, is nearer to that of its own picture than to any other's.
    """
    judge, other = load_judge("judge"), load_judge("judge_vit")
    metrics: dict[str, float] = {}
    for domain in SOURCES:
        pictures = render(held_out(domain, n), domain)
        drawn = torch.cat([generator(encoder(part)) for part in pictures.split(50)])
        found = {"l1": paired_l1(drawn, pictures).mean().item()}
        for name, network in {"perceptual": judge, "perceptual_vit": other}.items():
            distance = PerceptualEmbedding(network.maps).paired_distance(drawn, pictures)
            found[name] = distance.mean().item()
        found |= recognised(other, drawn, pictures, domain)
        metrics |= {f"{NAME}_{domain.species}_{name}": value for name, value in found.items()}
    return metrics


def held_out(domain: Domain, n: int) -> Tensor:
    """Latents [n, 64] of sitters of `domain` that no training saw."""
    return torch.randn(n, LATENT_DIM, generator=stream(0, "encoder-test", str(domain)))


@torch.no_grad()
def recognised(
    judge: ConvJudge | VitJudge, drawn: Tensor, pictures: Tensor, domain: Domain
) -> dict[str, float]:
    """Shares of images `drawn` [n, 3, H, W] in which the judge finds what is in `pictures`.

    "species" and "age" are those of the domain; "sitter" counts an image whose latent, as the judge
    reads it, is nearer to that of its own picture than to any other's.
    """
    read, wanted = judge(drawn), judge(pictures)
    species = read["species"].argmax(dim=1) == SPECIES.index(domain.species)
    age = read["age"].argmax(dim=1) == AGES.index(domain.age)
    nearest = torch.cdist(read["latent"], wanted["latent"]).argmin(dim=1)
    right = {"species": species, "age": age, "sitter": nearest == torch.arange(len(drawn))}
    return {name: share.float().mean().item() for name, share in right.items()}
