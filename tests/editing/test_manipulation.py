"""Manipulation of pictures: how well they come back, and what the adapted model makes of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_unet
from torch import Tensor

from airlib.editing.inversion import InversionConfig
from airlib.editing.inverters import ByDdim, ByEncoder, BySearch, Inverter, edit
from airlib.editing.p_norm import PNorm
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding, paired_l1
from airlib.generators.base import Generator
from airlib.generators.ddim import DdimGenerator, DdimSchedule
from airlib.generators.diffusion import DiffusionGenerator
from airlib.parameterizations.lora import lora
from airlib.profiles import load_profile
from airlib.seeding import rng
from airlib.studies import edits as study
from airlib.worlds import World, open_world
from airlib.worlds.inverting import inverter_of

pytestmark = pytest.mark.slow  # searches latents

SOURCE = DiffusionGenerator(small_unet(), steps=3)
SCHEDULE = DdimSchedule(t0=400, inversion_steps=5, steps=4)
PERCEPTUAL = PerceptualEmbedding(lambda images: [F.avg_pool2d(images, size) for size in (2, 4)])


def pictures(n: int = 3) -> Tensor:
    """Smooth ones, uniform in [-1, 1]."""
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=rng(0, "pictures")) - 1
    return F.interpolate(coarse, (16, 16), mode="bilinear")


INVERTER = ByDdim(SOURCE, SCHEDULE, PERCEPTUAL)


def adapted(source: Generator = SOURCE) -> Generator:
    copy = source.copy_frozen()
    for name, parameter in copy.named_parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=rng(0, name))
    return copy


def test_more_steps_bring_the_picture_back_more_exactly():
    errors = [
        ByDdim(SOURCE, DdimSchedule(400, steps, steps))(pictures()).errors["mse"].mean().item()
        for steps in (3, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.2 * errors[0]


def test_a_further_return_leaves_less_of_the_picture_in_the_latent():
    similar = [
        F.cosine_similarity(ByDdim(SOURCE, DdimSchedule(t0, 5, 5))(pictures()).latents.flatten(1),
                            pictures().flatten(1)).mean().item()
        for t0 in (50, 300, 900)
    ]  # fmt: skip
    assert similar == sorted(similar, reverse=True)


def test_an_edit_by_diffusion_is_ddim_by_the_source_and_back_by_the_adapted_model():
    found, target = edit(INVERTER, adapted(), pictures()), adapted()
    with torch.no_grad():
        up = DdimGenerator(SOURCE.unet, SCHEDULE).invert(pictures())
        assert torch.equal(up, found.latents)
        assert torch.equal(DdimGenerator(SOURCE.unet, SCHEDULE)(up), found.reconstruction)
        assert torch.equal(DdimGenerator(target.unet, SCHEDULE)(up), found.edited)


# --- what holds for every generator and way to invert --------------------------------------------

GAN = small_generator()


def read(images: Tensor) -> Tensor:
    """An inversion encoder: sixteen means of the picture are each entry of w+."""
    means = F.adaptive_avg_pool2d(images, 4).flatten(1)[:, :16]
    return GAN.mapping.w_avg + 0.3 * means[:, None].expand(-1, GAN.num_ws, -1)


def ways() -> dict[str, Inverter]:
    prior, few = PNorm.of(GAN, 5000, rng(0, "prior")), InversionConfig(5, 0.05)
    return {
        "ddim": INVERTER,
        "encoder": ByEncoder(GAN, read, PERCEPTUAL),
        "search": BySearch(GAN, PERCEPTUAL, prior, few),
        "encoder and search": BySearch(GAN, PERCEPTUAL, prior, few, read),
    }


WAYS = ways()


@pytest.fixture(params=WAYS)
def inverter(request) -> Inverter:
    return WAYS[request.param]


def test_an_edit_is_an_inversion_by_the_source_drawn_by_the_adapted_model(inverter):
    target = adapted(inverter.generator)
    found, plain = edit(inverter, target, pictures()), inverter(pictures())
    assert torch.equal(found.latents, plain.latents)
    assert torch.equal(found.reconstruction, plain.reconstruction)
    assert torch.equal(found.reconstruction, inverter.draw(inverter.generator, found.latents))
    assert torch.equal(found.edited, inverter.draw(target, found.latents))
    assert not torch.allclose(found.edited, found.reconstruction, atol=1e-3)
    assert not any(value.requires_grad for value in (found.latents, found.edited))


def test_errors_are_those_of_the_reconstruction(inverter):
    found = inverter(pictures())
    difference = found.reconstruction - pictures()
    torch.testing.assert_close(found.errors["mse"], difference.square().mean(dim=(1, 2, 3)))
    clipped = (found.reconstruction.clamp(-1, 1) - pictures()).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found.errors["l1"], clipped)
    distance = PERCEPTUAL.paired_distance(found.reconstruction, pictures())
    assert torch.equal(found.errors["perceptual"], distance)


def test_a_model_that_was_not_changed_edits_nothing(inverter):
    found = edit(inverter, inverter.generator.copy_frozen(), pictures())
    assert torch.equal(found.edited, found.reconstruction)


def test_an_adapter_that_was_not_trained_edits_nothing():
    untrained = SOURCE.copy_frozen()
    lora(2).attach(untrained)
    found = edit(INVERTER, untrained, pictures())
    assert torch.equal(found.edited, found.reconstruction)


def test_pictures_are_edited_without_regard_to_each_other(inverter):
    together = edit(inverter, adapted(inverter.generator), pictures())
    alone = edit(inverter, adapted(inverter.generator), pictures()[2:])
    torch.testing.assert_close(together.edited[2:], alone.edited, atol=1e-3, rtol=1e-3)


def test_without_an_embedding_errors_are_of_pixels():
    for inverter in (ByDdim(SOURCE, SCHEDULE), ByEncoder(GAN, read)):
        assert set(inverter(pictures()).errors) == {"mse", "l1"}


def test_an_encoder_alone_is_a_search_of_no_steps():
    """And the search goes on from there: the first step moves by the learning rate."""
    start = WAYS["encoder"](pictures()).latents
    torch.testing.assert_close(start, read(pictures()))
    one = BySearch(GAN, PERCEPTUAL, WAYS["search"].prior, InversionConfig(1, 0.01), read)
    moved = (one(pictures()).latents - start).abs()
    assert moved.max() == pytest.approx(0.01, rel=1e-3)


NOT_FINITE = pictures(1).index_fill(3, torch.tensor([4]), float("nan"))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (pictures(1)[0], r"expected pictures \[n, 3, 16, 16\], got \[3, 16, 16\]"),
        (pictures(1)[:, :1], r"got \[1, 1, 16, 16\]"),
        (torch.zeros(1, 3, 32, 32), "resize them to what the generator draws"),
        (torch.zeros(0, 3, 16, 16), r"got \[0, 3, 16, 16\]"),
        (NOT_FINITE, "NaN or infinite"),
        (pictures(1) * 127.5 + 127.5, "and not from -1 to 1; scale them"),
    ],
)
def test_what_cannot_be_edited_is_refused(images, words, inverter):
    with pytest.raises(AirlibError, match=words):
        edit(inverter, inverter.generator, images)


def test_models_of_different_sizes_are_refused():
    with pytest.raises(AirlibError, match="16 pixels and the adapted model 8"):
        edit(INVERTER, DiffusionGenerator(small_unet(size=8)), pictures())


# --- in the tiny world ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> World:
    few = {"evaluation.references": 60, "evaluation.samples": 20, "inversion.steps": 20}
    few |= {"inversion.curvature_samples": 160}
    return open_world(load_profile("tiny", few), "human")


def test_the_encoder_sees_more_than_a_mean_and_a_search_from_it_gets_nearer(world):
    pictures = world.pictures(2)
    mean = world.generator(world.generator.mapping.w_avg.expand(1, world.generator.num_ws, -1))
    found = {way: inverter_of(world, way)(pictures) for way in ("encoder", "refined")}
    errors = [found[way].errors["l1"] for way in found]
    assert (errors[1] < errors[0]).all()
    assert (errors[0] < 0.5 * paired_l1(mean.expand_as(pictures), pictures)).all()


def test_a_search_along_the_curvature_is_ahead_of_one_in_the_latents_themselves(world):
    """After the profile's 50 steps, and at the better of two rates for those."""
    pictures, refined = world.pictures(2), inverter_of(world, "refined")

    def loss(rate: float, **other) -> Tensor:
        config = replace(refined.config, steps=50, learning_rate=rate)
        errors = replace(refined, config=config, **other)(pictures).errors
        return errors["mse"] + errors["perceptual"] + config.prior_weight * errors["prior"]

    along = loss(refined.config.learning_rate)
    assert all((along < 0.9 * loss(rate, curvature=None)).all() for rate in (0.03, 0.08))


def test_several_adaptations_edit_one_inversion(world):
    pair, pictures = "photo-sketch", world.pictures(3)
    sketch = world.adapt("nada", pair, steps=8)
    found, edits = study.edited_by(world, {"NADA": sketch}, pictures, "encoder")
    adapted = sketch.apply(world.generator)
    assert torch.equal(edits["NADA"], inverter_of(world, "encoder").draw(adapted, found.latents))
    scores = {m.name: m for m in study.score(world, pair, edits["NADA"], pictures, "nada", 0)}
    right = (edits["NADA"].clamp(-1, 1) - world.edited_truth(pair, 3)).abs().mean().item() / 2
    assert scores["paired_l1"].value == pytest.approx(right, rel=1e-4)
    assert {"clip_distance", "kept_l1"} <= scores.keys()
    assert "clip_truth_gap" not in scores  # of other sitters than were edited
    unedited = {m.name: m for m in study.score(world, pair, pictures, pictures, "source", 0)}
    assert scores["clip_distance"].value < unedited["clip_distance"].value


def test_what_a_world_cannot_do_is_named(world):
    with pytest.raises(AirlibError, match="cannot be inverted by 'magic'"):
        inverter_of(world, "magic")


def test_profiles_have_the_same_table_and_an_encoder_entry_for_every_stylegan2():
    tables = []
    for name in ("tiny", "paper"):
        profile = load_profile(name)
        table = profile.inversion.as_dict()
        gans = {key for key, source in profile.sources.items() if source.generator == "stylegan2"}
        assert set(table.pop("encoders")) == gans
        tables.append({key: type(value) for key, value in table.items()})
    assert tables[0] == tables[1]
