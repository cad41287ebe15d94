"""A hypernetwork for the domains of the tiny world, and how good it is on domains it never saw.

    network = load_hypernetwork()                          # shipped; airlib train-tiny hypernetwork
    domain = predicted(world, network, "watercolor painting of a kitten")      # an Adaptation
    images = domain.apply(world.generator)(world.sample(8))

It is trained (`HypernetworkTask`) on the words for every species x age x style that
`tinyworld.held_out` leaves. The CLIP was taught no captions of the others either.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator as Rng
from torch import Tensor

from airlib.adaptation import Adaptation, fingerprint
from airlib.clip_space.augmentation import random_views
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.files import load_tensors
from airlib.methods.hyperdomainnet import (
    HyperConfig,
    HyperDomainNet,
    Texts,
    domain_names,
    draw,
    hyper_losses,
    with_domains,
)
from airlib.tinyworld.captions import description
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.held_out import HELD_OUT
from airlib.tinyworld.renderer import render
from airlib.tinyworld.training import WEIGHTS
from airlib.worlds import World, open_world
from airlib.worlds.base import templates_of

NAME = "hypernetwork"
SOURCE = Domain("human")
DEPTHS = {"backbone_depth": 4, "head_depth": 2}  # those of the official code's public settings
MEASURED = 48  # latents of `distance_left`


def seen_domains() -> list[Domain]:
    """What it is trained on: 101 domains."""
    return [d for d in all_domains() if d not in HELD_OUT and d != SOURCE]


def load_hypernetwork(path: str | Path = WEIGHTS / f"{NAME}.safetensors") -> HyperDomainNet:
    """A trained network, ready to predict; AirlibError if the file holds none."""
    tensors, config = load_tensors(path)
    try:
        network = HyperDomainNet(**config)
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except (TypeError, RuntimeError) as error:
        raise AirlibError(
            f"{path} does not hold a hypernetwork; run `airlib train-tiny {NAME}`"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def predicted(world: World, network: HyperDomainNet, text: str) -> Adaptation:
    """The domain of any text as an adaptation of the world's generator, at once."""
    names = domain_names(with_domains(world.generator))
    network.eval()
    vectors = network(world.space.encoders[0].embed_text([text]))
    config = {
        "source": fingerprint(world.generator), "parameterization": "domain_vector",
        "objective": {"method": NAME, "target": text}, "labels": {"profile": world.profile.name},
    }  # fmt: skip
    return Adaptation({n: v[0].clone() for n, v in zip(names, vectors, strict=True)}, config)


def nearest_seen(world: World, text: str) -> tuple[Domain, float]:
    """The training domain whose text is most like `text`, and the cosine of the two."""
    known = seen_domains()
    encoder = world.space.encoders[0]
    one, *all_known = encoder.embed_text([text, *map(description, known)])
    cosines = torch.stack(all_known) @ one
    best = int(cosines.argmax())
    return known[best], float(cosines[best])


@torch.no_grad()
def distance_left(world: World, network: HyperDomainNet, domains: Sequence[Domain]) -> list[float]:
    """Per domain: the share of the source's feature distance to the true target that is left."""
    embed = PerceptualEmbedding(world.judges[0].maps)
    z = world.z(MEASURED)
    w = world.generator.map(z)
    source = embed(world.generator(w))
    shares = []
    for domain in domains:
        adapted = predicted(world, network, description(domain)).apply(world.generator)
        truth = embed(render(z, domain))
        before, after = ((x - truth).square().sum(1).mean() for x in (source, embed(adapted(w))))
        shares.append(float(after / before))
    return shares


class HypernetworkTask:
    """Train a HyperDomainNet on texts alone; a `tinyworld.training.Task`.

    world: whose generator is adapted and whose first CLIP leads. domains: (source class, target
    class) of each, by default those of `seen_domains`.
    """

    name = NAME

    def __init__(
        self, seed: int = 0, steps: int = 3000, batch: int = 12, world: World | None = None,
        domains: Sequence[tuple[str, str]] | None = None, config: HyperConfig | None = None,
    ):  # fmt: skip
        self.steps, self.batch = steps, batch
        self.config = config or HyperConfig()
        self.world = world or open_world("tiny", SOURCE.species)
        self.generator = with_domains(self.world.generator)
        self.encoder = self.world.space.encoders[0]
        templates = templates_of(self.world.profile.world.templates)
        words = [(description(SOURCE), description(domain)) for domain in seen_domains()]
        self.texts = Texts.of(self.encoder, domains or words, templates)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = HyperDomainNet(
                [layer.domain.numel() for layer in self.generator.synthesis.layers],
                self.texts.inputs.shape[1], **DEPTHS,
            )  # fmt: skip
        self.network, self.modules = network, {"network": network}
        self.optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))

    def learning_rate(self, progress: float) -> float:
        """A cosine from 0.001 to 0."""
        return 0.0005 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: Rng) -> Tensor:
        n, config = self.batch, self.config
        mixed = self.texts.mixed(n, rng, config.nearest) if config.convex else None
        texts = mixed or self.texts.drawn(n, rng)
        latents = self.generator.sample_latents(n, rng)
        vectors = self.network(texts.inputs)
        with torch.no_grad():
            source = self.encoder.embed_images(random_views(self.generator(latents), 1, rng))
        images = random_views(draw(self.generator, vectors, latents), 1, rng)
        adapted = self.encoder.embed_images(images)
        return torch.stack(
            list(hyper_losses(source, adapted, texts, vectors, config).values())
        ).sum()

    def after_step(self, step: int) -> None:
        """Nothing is averaged."""

    def evaluate(self) -> dict[str, float]:
        """Mean `distance_left` over the unseen domains, and over a tenth of the seen ones."""
        return measured(self.world, self.network)

    def export(self) -> tuple[dict[str, Tensor], dict]:
        return dict(self.network.state_dict()), self.network.config


def measured(world: World, network: HyperDomainNet) -> dict[str, float]:
    """What the record of a trained network claims."""
    groups = {"unseen": HELD_OUT, "seen": seen_domains()[::10]}
    left = {name: distance_left(world, network, domains) for name, domains in groups.items()}
    return {f"{NAME}_{name}_left": sum(v) / len(v) for name, v in left.items()}
