"""Training of the tiny CLIP: contrastive learning on renders and their captions.

Each step draws renders and fresh captions, distorts the images (`augment`), moves them towards
wrong captions (`adversarial_steps`), and asks both towers to find each other in the batch. The two
changes of the images exist because this CLIP will be used as a *loss for generators*: its gradient
with respect to pixels must point at shapes, not at artefacts that only CLIP can see.
"""

import copy
import math
import random
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.preprocessing import ClipPreprocess
from airlib.seeding import rng as stream
from airlib.tinyworld.artefacts import attack
from airlib.tinyworld.attributes import LATENT_DIM, attributes_from_latent
from airlib.tinyworld.captions import captions
from airlib.tinyworld.domains import SPECIES, STYLES
from airlib.tinyworld.held_out import HELD_OUT, is_held_out
from airlib.tinyworld.pool import Pool, load_pool
from airlib.tinyworld.renderer import render
from airlib.tinyworld.tiny_clip import build_model, load_tokenizer, model_config
from airlib.training.precision import reduced_precision

BATCH = 192
POOL_SIZE = 120_000  # shared by all trainings
MAX_LOGIT_SCALE = 50.0
MAX_PERTURBATION = 6.0
"""Largest L2 norm of the adversarial steps on a [-1, 1] image (3 where images span [0, 1])."""
ATTACK_STEPS = 2

HELD_OUT_RENDERS = 50  # per domain
AGE_PROMPTS = ("a person", "a baby", "an old person")
"""Zero-shot prompts of the ages, in the order of `domains.AGES`; examined on humans only."""


class ClipTask:
    """The tiny CLIP as a task of `airlib.training.loop`."""

    name = "clip"

    def __init__(self, seed: int = 0, steps: int = 3000):
        self.seed, self.steps = seed, steps
        self.tokenizer = load_tokenizer()
        self.config = model_config(self.tokenizer.vocab_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, self.name, "weights").initial_seed())
            self.model = build_model(self.config)
        self.modules = {"clip": self.model}
        self.preprocess = ClipPreprocess(self.config["vision_cfg"]["image_size"])
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
        )
        pool = load_pool(POOL_SIZE, seed, "train")
        self.pool = Pool(*(tensor[~is_held_out(pool.domains)] for tensor in pool))

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up over the first 5 %, then a cosine down to 2 % of 0.002."""
        warm_up = min(1.0, (progress + 1e-3) / 0.05)
        return 2e-3 * warm_up * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        """Contrastive loss of one batch; everything random comes from `rng`."""
        images, texts = draw_batch(self.pool, rng)
        images = augment(images, rng)
        same = same_text(texts)
        text_features = self.embed_texts(texts)
        attacked = self.adversarial_steps(images, text_features.detach(), same, rng)
        image_features = self.embed_images(attacked)
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        return contrastive_loss(scale * image_features @ text_features.T, same)

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Captions -> unit features [B, 128], computed in bfloat16."""
        with reduced_precision():
            features = self.model.encode_text(self.tokenizer(texts))
        return F.normalize(features.float(), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, 64, 64] in [-1, 1] -> unit features [B, 128], computed in bfloat16."""
        pixels = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        with reduced_precision():
            features = self.model.encode_image(pixels)
        return F.normalize(features.float(), dim=-1)

    def adversarial_steps(
        self, images: Tensor, text_features: Tensor, same: Tensor, rng: torch.Generator
    ) -> Tensor:
        """`images` [n, 3, H, W] moved to raise their own loss, each by at most a random L2 norm.

        The network is asked as it will be used later, with its running statistics. `same` [n, B]
        says which of the captions are an image's own.
        """
        repeats = same & ~torch.eye(*same.shape, dtype=torch.bool)
        scale = self.model.logit_scale.exp().detach()

        def loss(moved: Tensor) -> Tensor:
            logits = scale * self.embed_images(moved) @ text_features.T
            return F.cross_entropy(
                logits.masked_fill(repeats, -torch.inf), torch.arange(len(images))
            )

        self.model.eval()
        attacked = attack(images, loss, MAX_PERTURBATION, rng, ATTACK_STEPS)
        self.model.train()
        return attacked

    def after_step(self, step: int) -> None:
        """Nothing to keep up to date: no running average of the weights."""

    def evaluate(self) -> dict[str, float]:
        """Zero-shot accuracies on renders of the test split."""
        encoder = ClipEncoder(copy.deepcopy(self.model), self.tokenizer, "tiny")
        return zero_shot_accuracies(encoder, load_pool(1000, self.seed, "test"))

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The state to ship and what rebuilds the network around it."""
        return self.model.state_dict(), {"model": self.config}


def zero_shot_accuracies(encoder: ClipEncoder, pool: Pool) -> dict[str, float]:
    """How often the nearest text names the species, style and (for humans) age of a render.

    Held-out combinations of the three are reported apart, on renders of their own.
    """
    taught = ~is_held_out(pool.domains)
    domains = torch.tensor([domain.index for domain in HELD_OUT]).repeat(HELD_OUT_RENDERS, 1)
    z = torch.randn(len(domains), LATENT_DIM, generator=stream(0, "held-out renders"))
    return {
        **_accuracies(encoder, pool.pictures(taught), pool.domains[taught], "clip_zero_shot"),
        **_accuracies(encoder, render(z, domains), domains, "clip_held_out"),
    }


@torch.no_grad()
def _accuracies(
    encoder: ClipEncoder, images: Tensor, domains: Tensor, prefix: str
) -> dict[str, float]:
    features = torch.cat([encoder.embed_images(batch) for batch in images.split(200)])
    species, age, style = domains.unbind(1)
    human = species == SPECIES.index("human")

    def accuracy(chosen: Tensor, prompts: list[str], labels: Tensor) -> float:
        nearest = (chosen @ encoder.embed_text(prompts).T).argmax(1)
        return (nearest == labels).float().mean().item()

    return {
        f"{prefix}_species": accuracy(features, [f"a {name}" for name in SPECIES], species),
        f"{prefix}_style": accuracy(features, [f"a {name}" for name in STYLES], style),
        f"{prefix}_age": accuracy(features[human], list(AGE_PROMPTS), age[human]),
    }


def draw_batch(pool: Pool, rng: torch.Generator) -> tuple[Tensor, list[str]]:
    """Random renders [B, 3, 64, 64] in [-1, 1] and one new caption each."""
    chosen = torch.randint(len(pool.images), (BATCH,), generator=rng)
    words = random.Random(int(torch.randint(2**62, (), generator=rng)))
    attributes = attributes_from_latent(pool.latents[chosen], pool.domains[chosen])
    return pool.pictures(chosen), captions(attributes, words)


def same_text(texts: list[str]) -> Tensor:
    """Which captions of a batch are the same sentence: bool [n, n]."""
    ids = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    labels = torch.tensor([ids[text] for text in texts])
    return labels[:, None] == labels


def contrastive_loss(logits: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where equal captions share the target probability.

    Short captions ("a dog") repeat within a batch; calling the repeats wrong would teach the model
    to tell apart what is the same. logits [n, n]: images in rows, texts in columns.
    """
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Renders [n, 3, H, W] as a generator under training might draw them, in [-1, 1].

    Geometry, light, blur, noise, the grids of upsampling layers, and erased boxes: each on a random
    share of the images.
    """
    n, _, size, _ = images.shape
    uniform = partial(torch.rand, generator=rng)
    normal = partial(torch.randn, generator=rng)

    def some(share: float) -> Tensor:
        return (uniform(n, 1, 1, 1) < share).float()

    images = _random_affine(images, uniform)
    brightness, colour = 0.2 * normal(n, 1, 1, 1), 0.12 * normal(n, 3, 1, 1)
    images = torch.lerp(images, (images + 1) * (1 + brightness) - 1 + colour, some(0.5))
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = (0.3 * normal(n, 1, 1, 1)).clamp(-0.5, 0.5)
    images = images + some(0.3) * contrast * (images - mean)
    images = torch.lerp(images, _box_blur(images), some(0.2))
    images = torch.lerp(images, _half_resolution(images), some(0.15))
    images = images + some(0.4) * 0.12 * uniform(n, 1, 1, 1) * normal(images.shape)
    cells = 8 << int(3 * uniform(()))
    blobs = F.interpolate(normal(n, 3, cells, cells), size=size, mode="nearest")
    images = images + some(0.3) * 0.2 * uniform(n, 1, 1, 1) * blobs
    stripe = torch.arange(size) // (1 << int(3 * uniform(()))) % 2
    grid = (stripe[:, None] ^ stripe).float() * 2 - 1
    images = images + some(0.2) * 0.14 * normal(n, 3, 1, 1) * grid
    erased = some(0.15) * _random_boxes(n, size, uniform)
    images = torch.lerp(images, (2 * uniform(n, 3, 1, 1) - 1).expand_as(images), erased)
    return images.clamp(-1, 1)


def _random_affine(images: Tensor, uniform: partial) -> Tensor:
    """Scale 0.8-1.3, turn +-14 degrees, shift +-9 % of the side, mirror half of the images."""
    n = len(images)
    scale = 0.8 + 0.5 * uniform(n)
    angle = 0.5 * uniform(n) - 0.25
    shift = 0.36 * uniform(n, 2) - 0.18
    mirror = torch.where(uniform(n) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)]
    matrix = torch.cat([torch.stack(rows, 1), shift[:, :, None]], 2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _box_blur(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _half_resolution(images: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")


def _random_boxes(n: int, size: int, uniform: partial) -> Tensor:
    """Masks [n, 1, size, size] of one box each, sides an eighth to a third of the image's."""
    sides = size * (0.125 + 0.1875 * uniform(n, 2))
    corners = (size - sides) * uniform(n, 2)
    position = torch.arange(size)
    inside = (position >= corners[..., None]) & (position < (corners + sides)[..., None])
    return (inside[:, 0, None, :, None] & inside[:, 1, None, None, :]).float()
