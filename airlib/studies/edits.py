"""Study: pictures that no generator drew, carried into another domain by adapted models.

    found = edited(world, adaptation, world.pictures(12))            # one adaptation
    inverted, edits = edited_by(world, {"NADA": nada, "AIR": air}, world.pictures(12))
    metrics = score(world, pair, edits["AIR"], world.pictures(12), "AIR", seed=0)

AIR shows this in Fig. 9 and 10 and compares CLIP distance to references. In the tiny world the
right answer is known: the same sitter drawn in the target domain. So the paired distances are
scored as well, and `kept`, the pixel distance to the original picture, which an edit may not forget
either. How a world inverts pictures is in its profile (`inverter_of`); WAYS are compared by
`studies.walks.inverted`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

from torch import Tensor

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.assets import asset_file
from airlib.checkpoints.e4e import read_e4e
from airlib.editing.curvature import Curvature
from airlib.editing.inversion import Inversion, InversionConfig
from airlib.editing.inverters import ByDdim, ByEncoder, BySearch, Encoder, Inverter
from airlib.editing.manipulation import Manipulation, edit
from airlib.editing.p_norm import PNorm
from airlib.encoders.e4e import E4e, E4eConfig
from airlib.encoders.restyle import Restyle
from airlib.encoders.tiny import load_encoder
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import paired_l1
from airlib.evaluation.scoring import evaluate
from airlib.generators.ddim import DdimSchedule
from airlib.methods.diffusion_clip import DiffusionCLIP, DiffusionCLIPConfig, picture_generator
from airlib.parameterizations import full
from airlib.results import Metric
from airlib.seeding import rng
from airlib.studies.one_shot import perceptual_of, prior_of
from airlib.worlds import World
from airlib.worlds.base import templates_of

Way = Literal["encoder", "refined", "search"]
WAYS: tuple[Way, ...] = ("encoder", "refined", "search")


def inverter_of(world: World, way: Way | None = None) -> Inverter:
    """How pictures are inverted in a world: by DDIM, or of a StyleGAN2 by an encoder, "refined" by
    a search from there, or by a "search" from the mean latent.

    way: default that of the profile; "search" where the source has no encoder.
    Raises AirlibError for a way without its encoder, and for weights that were not fetched.
    """
    if world.draws_by_diffusion:
        numbers = world.profile.manipulation
        schedule = DdimSchedule(numbers.t0, numbers.inversion_steps, numbers.steps)
        return ByDdim(world.generator, schedule)
    numbers, encoder = world.profile.inversion, _encoder(world)
    way = way or (numbers.way if encoder else "search")
    if way not in WAYS or (encoder is None and way != "search"):
        raise AirlibError(f"pictures of {world.source} cannot be inverted by {way!r}; try 'search'")
    if way == "encoder":
        return ByEncoder(world.generator, encoder)
    perceptual, prior = perceptual_of(world), _prior(world)
    if way == "refined":
        config = InversionConfig(numbers.steps, numbers.learning_rate, numbers.prior_weight)
        return BySearch(world.generator, perceptual, prior, config, encoder, _curvature(world))
    steps, rate = numbers.steps_alone, numbers.learning_rate_alone
    alone = InversionConfig(steps, rate, numbers.prior_weight)
    return BySearch(world.generator, perceptual, prior, alone)


@cache
def _encoder(world: World) -> Encoder | None:
    """That of the profile for the world's source: the shipped one, a published one, or none."""
    name, weights = world.profile.inversion.encoders[world.source], world.profile.networks.weights
    if not name or name == "tiny":
        return load_encoder() if name else None
    if weights == "random":
        network = E4e(E4eConfig(n_styles=world.generator.num_ws))
        network.latent_avg.copy_(world.generator.mapping.w_avg)
    else:
        imported = read_e4e(asset_file(name))
        network = E4e(E4eConfig(**imported.config))
        network.load_state_dict(imported.tensors)
    network = network.to(world.generator.mapping.w_avg.device).requires_grad_(False).eval()
    return Restyle(network, world.generator, world.profile.inversion.iterations)


def _prior(world: World) -> PNorm:
    numbers = world.profile.inversion
    return prior_of(world, numbers.prior_samples, numbers.prior_floor)


@cache
def _curvature(world: World) -> Curvature:
    numbers = world.profile.inversion
    return Curvature.of(
        world.generator, perceptual_of(world), _prior(world), numbers.prior_weight,
        numbers.curvature_samples, rng(0, "curvature"),
    )  # fmt: skip


def edited(world: World, adaptation: Adaptation, pictures: Tensor) -> Manipulation:
    """Pictures [n, 3, H, H] of the generator's size, inverted, drawn again, and edited."""
    return edit(inverter_of(world), adaptation.apply(world.generator), pictures)


def edited_by(
    world: World, adaptations: Mapping[str, Adaptation], pictures: Tensor, way: Way | None = None
) -> tuple[Inversion, dict[str, Tensor]]:
    """The same by several adaptations, with one inversion: that, and the edits by name."""
    inverter = inverter_of(world, way)
    found = inverter(pictures)
    return found, {
        name: inverter.draw(adaptation.apply(world.generator), found.latents)
        for name, adaptation in adaptations.items()
    }


def score(
    world: World, pair: str, edits: Tensor, pictures: Tensor, method: str, seed: int
) -> list[Metric]:
    """Metrics of `edits` of the first of `world.pictures`, both [n, 3, H, H]."""
    n, truth = len(edits), world.edited_truth(pair, len(edits))
    reference = replace(world.reference(pair), truth=truth)
    parts = world.as_scored(edits).split(50)
    found = evaluate(parts, reference, pair=pair, method=method, seed=seed).metrics
    kept = paired_l1(edits, pictures[:n].to(edits.device)).mean().item() / 2
    how = f"kept{n}: share of the pixel range, to the picture that was edited"
    return [*found, Metric("kept_l1", kept, n, None, how, pair, method, seed)]


def diffusion_clip(world: World, pair: str, seed: int = 0) -> Adaptation:
    """DiffusionCLIP with the profile's numbers: all weights, tuned on pictures of the source."""
    numbers, texts = world.profile.manipulation.diffusion_clip, world.pair(pair)
    schedule = DdimSchedule(
        world.profile.manipulation.t0,
        world.profile.manipulation.inversion_steps,
        numbers.training_steps,
    )
    shown = world.profile.manipulation.pictures  # tuned on others
    pictures = world.pictures(shown + numbers.pictures)[shown:]
    source = picture_generator(world.generator, pictures, schedule)
    weights = DiffusionCLIPConfig(numbers.direction, numbers.l1, numbers.identity)
    loss = DiffusionCLIP(
        world.space, texts.source_class, texts.target_class, source.pictures, weights,
        templates=templates_of(world.profile.world.templates),
    )  # fmt: skip
    config = AdaptationConfig(
        numbers.steps, numbers.batch, numbers.learning_rate, tuple(numbers.betas), numbers.views,
        noise="none", seed=seed,
    )  # fmt: skip
    labels = {"profile": world.profile.name, "pair": pair, "method": "diffusion_clip"}
    return adapt(source, world.space, loss, full(), config, labels=labels)
