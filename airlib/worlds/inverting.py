"""How a world inverts pictures: its own inversion encoder, a search, both, or DDIM.

    found = inverter_of(world)(world.pictures(12))        # the way of the profile
    found = inverter_of(world, "search")(pictures)        # of a StyleGAN2: one of WAYS

Numbers are those of the profile's tables [inversion] (StyleGAN2) and [manipulation] (diffusion).
"""

from typing import TYPE_CHECKING, Literal

from airlib.assets.store import asset_file
from airlib.checkpoints.e4e import read_e4e
from airlib.editing.curvature import Curvature
from airlib.editing.inversion import InversionConfig
from airlib.editing.inverters import ByDdim, ByEncoder, BySearch, InversionEncoder, Inverter
from airlib.editing.p_norm import PNorm
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.ddim import DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.e4e import E4e, E4eConfig
from airlib.generators.restyle import Restyle
from airlib.seeding import rng
from airlib.tinyworld.inversion_encoder import load_encoder
from airlib.worlds.memory import remembered

if TYPE_CHECKING:
    from airlib.worlds.base import World

Way = Literal["encoder", "refined", "search"]
WAYS: tuple[Way, ...] = ("encoder", "refined", "search")


def inverter_of(world: "World", way: Way | None = None) -> Inverter:
    """How pictures are inverted in a world: DDIM for a diffusion model; for a StyleGAN2 one of
    "encoder" (an inversion encoder), "refined" (a search from its latents) and "search" (from the
    mean latent).

    way: default that of the profile; "search" where the source has no inversion encoder.
    Raises AirlibError for a way that needs an inversion encoder where there is none, and for
    weights that were not fetched.
    """
    if world.draws_by_diffusion:
        numbers = world.profile.manipulation
        schedule = DdimSchedule(numbers.t0, numbers.inversion_steps, numbers.steps)
        assert isinstance(world.generator, DiffusionGenerator)
        return ByDdim(world.generator, schedule)
    numbers, encoder = world.profile.inversion, _encoder(world)
    way = way or (numbers.way if encoder else "search")
    if way not in WAYS or (encoder is None and way != "search"):
        raise AirlibError(f"pictures of {world.source} cannot be inverted by {way!r}; try 'search'")
    if way == "encoder" and encoder:
        return ByEncoder(world.stylegan2, encoder)
    perceptual, prior = perceptual_of(world), _prior(world)
    if way == "refined":
        config = InversionConfig(numbers.steps, numbers.learning_rate, numbers.prior_weight)
        return BySearch(world.stylegan2, perceptual, prior, config, encoder, _curvature(world))
    steps, rate = numbers.steps_alone, numbers.learning_rate_alone
    alone = InversionConfig(steps, rate, numbers.prior_weight)
    return BySearch(world.stylegan2, perceptual, prior, alone)


@remembered
def _encoder(world: "World") -> InversionEncoder | None:
    """That of the profile for the world's source: the shipped one, a published one, or none."""
    name, weights = world.profile.inversion.encoders[world.source], world.profile.networks.weights
    if not name or name == "tiny":
        return load_encoder() if name else None
    if weights == "random":
        network = E4e(E4eConfig(n_styles=world.stylegan2.num_ws))
        network.latent_avg.copy_(world.stylegan2.mapping.w_avg)
    else:
        imported = read_e4e(asset_file(name))
        network = E4e(E4eConfig(**imported.config))
        network.load_state_dict(imported.tensors)
    network = network.to(world.stylegan2.mapping.w_avg.device).requires_grad_(False).eval()
    return Restyle(network, world.stylegan2, world.profile.inversion.iterations)


def _prior(world: "World") -> PNorm:
    numbers = world.profile.inversion
    return prior_of(world, numbers.prior_samples, numbers.prior_floor)


@remembered
def _curvature(world: "World") -> Curvature:
    numbers = world.profile.inversion
    return Curvature.of(
        world.stylegan2, perceptual_of(world), _prior(world), numbers.prior_weight,
        numbers.curvature_samples, rng(0, "curvature"),
    )  # fmt: skip


@remembered
def prior_of(world: "World", samples: int, floor: float) -> PNorm:
    """The P-norm prior of the source's latents, from `samples` of them. floor: see `PNorm.of`."""
    return PNorm.of(world.stylegan2, samples, rng(0, "p-norm"), floor)


def perceptual_of(world: "World") -> PerceptualEmbedding:
    """LPIPS in the paper world, the first judge's maps in the tiny one."""
    if not world.judges:
        raise AirlibError("a picture is compared in the maps of a judge, and this world has none")
    return PerceptualEmbedding(world.judges[0].maps, world.judges[0].layer_weights)
