"""A hypernetwork for the domains of the tiny world, and how good it is on domains it never saw.

    network = load_hypernetwork()                          # shipped; airlib train-tiny hypernetwork
    domain = predicted(world, network, "watercolor painting of a kitten")      # an Adaptation
    images = domain.apply(world.generator)(world.sample(8))

It is trained (`HypernetworkTask`) on the words for every species x age x style that
`tinyworld.held_out` leaves. The CLIP was taught no captions of the others either.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.adaptation import Adaptation
from airlib.clip_space.augmentation import random_views
from airlib.clip_space.templates import templates_of
from airlib.errors import AirlibError
from airlib.evaluation.comparison import summary
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.experiments.plan import read_plan
from airlib.files import load_tensors
from airlib.generators.identity import fingerprint, identity
from airlib.methods.hyper_anchors import HyperAnchor, HyperAnchors
from airlib.methods.hyperdomainnet import (
    HyperConfig,
    HyperDomainNet,
    Texts,
    domain_names,
    draw,
    hyper_losses,
    with_domains,
)
from airlib.progress import track
from airlib.results import Metric
from airlib.tinyworld.captions import description
from airlib.tinyworld.domains import Domain, all_domains
from airlib.tinyworld.held_out import HELD_OUT
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shipped import WEIGHTS, weights_fingerprint
from airlib.worlds import World, open_world

NAME = "hypernetwork"
SOURCE = Domain("human")
MEASURED = 48  # latents of `distance_left`


def seen_domains() -> list[Domain]:
    """What it is trained on: 101 domains."""
    return [d for d in all_domains() if d not in HELD_OUT and d != SOURCE]


def domains_in_words(name: str) -> list[tuple[str, str]]:
    """(source class, target class) of each domain of a list: "world", or one of domain_lists.toml.

    Raises AirlibError for an unknown list.
    """
    if name == "world":
        return [(description(SOURCE), description(domain)) for domain in seen_domains()]
    text = resources.files(__package__).joinpath("domain_lists.toml").read_text(encoding="utf-8")
    lists = tomllib.loads(text)
    if name not in lists:
        raise AirlibError(f"no list of domains {name!r}; choose from world, {', '.join(lists)}")
    return [tuple(domain) for domain in lists[name]]


def load_hypernetwork(path: str | Path = WEIGHTS / f"{NAME}.safetensors") -> HyperDomainNet:
    """A trained network, ready to predict; AirlibError if the file holds none."""
    tensors, config = load_tensors(path)
    try:
        network = HyperDomainNet(**config)
        network.load_state_dict({k: v.float() for k, v in tensors.items()})
    except (TypeError, RuntimeError) as error:
        raise AirlibError(
            f"{path} does not hold a hypernetwork; run `airlib train-tiny {NAME}`"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def predicted(world: World, network: HyperDomainNet, text: str | Tensor) -> Adaptation:
    """The domain of any text, or of a unit vector [D] of CLIP space, as an adaptation of the
    world's generator, at once.
    """
    names, training = domain_names(world.stylegan2), network.training
    words = not isinstance(text, Tensor)
    point = text[None] if isinstance(text, Tensor) else world.space.encoders[0].embed_text([text])
    network.eval()  # batch normalisation by its running averages
    vectors = network(point)
    network.train(training)
    config = {
        "source": identity(world.generator), "parameterization": "domain_vector",
        "objective": {"method": NAME, "target": text if words else "a point of CLIP space"},
        "labels": {"profile": world.profile.name},
    }  # fmt: skip
    return Adaptation({n: v[0].clone() for n, v in zip(names, vectors, strict=True)}, config)


def between(world: World, start: str, end: str, step: float) -> Tensor:
    """The unit vector [D] of CLIP space at `step` in [0, 1] of the way between two texts."""
    first, last = world.space.encoders[0].embed_text([start, end])
    return F.normalize(first.lerp(last, step), dim=0)


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


def unseen_records(
    world: World, network: HyperDomainNet, pairs: Sequence[str],
    known: Mapping[str, Any] | None = None,
) -> dict[str, dict]:  # fmt: skip
    """Scores of the network's domain for each pair ("network"), and of the domain that it predicts
    for the nearest text it was trained on ("nearest"): what looking it up would give.

    Returns "PAIR-network-0" or "PAIR-nearest-0" -> {"inputs": ..., "metrics": ...}. known: such
    records, taken over where they were made from the same inputs.
    """
    records = {}
    for pair in track(pairs, "unseen domains"):
        text = world.pair(pair).target_class
        texts = {"network": text, "nearest": description(nearest_seen(world, text)[0])}
        for method, words in texts.items():
            name = f"{pair}-{method}-0"
            inputs = {
                "words": words, "network": fingerprint(network), "weights": weights_fingerprint(),
                "evaluation": world.profile.evaluation.as_dict(),
            }  # fmt: skip
            records[name] = (known or {}).get(name, {})
            if records[name].get("inputs") != inputs:
                adapted = predicted(world, network, words).apply(world.generator)
                batches = world.batches(adapted, world.profile.evaluation.samples)
                scores = world.score(batches, pair, method, 0)
                records[name] = {"inputs": inputs, "metrics": [asdict(m) for m in scores]}
    return records


def half_way(metrics: Sequence[Metric], name: str = "paired_feature") -> list[dict]:
    """Per pair: `name` of the untouched source, of a domain vector trained for it alone ("d"), of
    "network" and "nearest", and whether the network is at least half-way from the first to the
    second.
    """
    rows = []
    for row in summary(metrics, name):
        cells = {key: row[key].value for key in ("source", "d", "network", "nearest")}
        passed = cells["network"] <= (cells["source"] + cells["d"]) / 2
        rows.append({"pair": row["pair"], **cells, "half-way": passed})
    return rows


class HypernetworkTask:
    """Train a HyperDomainNet on texts alone; a `training.loop.Task`.

    world: whose generator is adapted, whose first CLIP leads and whose profile has the numbers
    (table "hypernetwork"); default: the tiny world's people. anchors: train with AIR's anchors, too
    (`methods.hyper_anchors`; or its numbers). changes: other numbers.
    """

    name = NAME

    def __init__(
        self, seed: int = 0, steps: int | None = None, world: World | None = None,
        anchors: HyperAnchors | Mapping[str, Any] | None = None, **changes,
    ):  # fmt: skip
        self.world = world or open_world("tiny", SOURCE.species)
        numbers = self.world.profile.hypernetwork.as_dict() | changes
        if unknown := changes.keys() - self.world.profile.hypernetwork.keys():
            raise AirlibError(f"a hypernetwork has no number called {min(unknown)!r}")
        if isinstance(anchors, Mapping):
            anchors = HyperAnchors(**anchors)
        if anchors:
            numbers["anchors"] = asdict(anchors)
        self.numbers, self.steps, self.batch = numbers, steps or numbers["steps"], numbers["batch"]
        self.config = HyperConfig(
            **{key: numbers[key] for key in ("tt_direction", "norm", "convex", "nearest")}
        )
        self.generator, self.encoder = (
            with_domains(self.world.stylegan2),
            self.world.space.encoders[0],
        )
        templates = templates_of(self.world.profile.world.templates)
        domains = domains_in_words(numbers["domains"])
        self.texts = Texts.of(self.encoder, domains, templates)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = HyperDomainNet(
                [layer.affine.bias.numel() for layer in self.generator.synthesis.layers],
                self.texts.inputs.shape[1], numbers["backbone_depth"], numbers["head_depth"],
            )  # fmt: skip
        self.network = network.to(self.encoder.device)
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.anchor: HyperAnchor | None = None
        if anchors:
            self.anchor = HyperAnchor(
                self.network, self.generator, self.encoder, domains, self.texts, anchors, seed
            )
            self.modules["anchor"] = self.anchor.memory
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            network.parameters(), betas=tuple(numbers["betas"])
        )

    def learning_rate(self, progress: float) -> float:
        """A cosine from the profile's rate to 0."""
        return self.numbers["learning_rate"] * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: Rng) -> Tensor:
        n, config = self.batch, self.config
        known = self.anchor.texts_at(step, self.steps) if self.anchor else self.texts
        texts = known.mixed(n, rng, config.nearest) if config.convex else known.drawn(n, rng)
        latents = self.generator.sample_latents(n, rng)
        vectors = self.network(texts.inputs)
        with torch.no_grad():
            source = self._embed(self.generator(latents), rng)
        same_views = rng.clone_state()
        adapted = self._embed(draw(self.generator, vectors, latents), rng)
        terms = hyper_losses(source, adapted, texts, vectors, config)
        if self.anchor and texts.anchored is not None:
            with torch.no_grad():  # seen as `adapted` is: two views differ more than two steps do
                near = draw(self.generator, self.anchor.vectors(texts.inputs), latents)
                anchor = self._embed(near, same_views)
            terms["adaptive"] = self.anchor.loss(adapted, anchor, texts)
        return torch.stack(list(terms.values())).sum()

    def _embed(self, images: Tensor, rng: Rng) -> Tensor:
        if self.numbers["random_view"]:
            images = random_views(images, 1, rng)
        return self.encoder.embed_images(images)

    def after_step(self, step: int) -> None:
        """Nothing is averaged."""

    def evaluate(self) -> dict[str, float]:
        """The mean `distance_left` over the unseen domains, and over a tenth of the seen ones."""
        return measured(self.world, self.network)

    def export(self) -> tuple[dict[str, Tensor], dict]:
        return dict(self.network.state_dict()), self.network.config


def measured(world: World, network: HyperDomainNet) -> dict[str, float]:
    """What the record of a network trained in the tiny world claims: the mean `distance_left` over
    the unseen domains, and over a tenth of the seen ones.
    """
    groups = {"unseen": HELD_OUT, "seen": seen_domains()[::10]}
    left = {name: distance_left(world, network, domains) for name, domains in groups.items()}
    return {f"{NAME}_{name}_left": sum(v) / len(v) for name, v in left.items()}


def ablation_of(known: Mapping[str, Any]) -> list[dict]:
    """Rows "trained with" and what was measured, of the records of the plan "hypernetwork"
    (`load_runs`), in its order.
    """
    return [
        {"trained with": grid, "seed": run.seed, **run.values}
        for grid, runs in read_plan("hypernetwork").grids_in(known).items()
        for run in runs
    ]
