"""The tiny world around a diffusion model: one way to adapt and score it, as for StyleGAN2."""

import pytest
import torch

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.profiles import load_profile
from airlib.studies import edits
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.renderer import render
from airlib.tinyworld.train_diffusion import enlarge, reduce
from airlib.worlds import open_world

PAIR = "diffusion-human-baby"
SMALL = {
    "diffusion.steps": 2, "diffusion.gradient_steps": 2,
    "evaluation.samples": 8, "evaluation.references": 12,
    "manipulation.inversion_steps": 3, "manipulation.steps": 3, "manipulation.pictures": 3,
    "methods.diffusion_clip.pictures": 2, "methods.diffusion_clip.steps": 2,
    "methods.diffusion_clip.training_steps": 2, "methods.diffusion_clip.inversion_steps": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return open_world(load_profile("tiny", SMALL), "diffusion-human")


@pytest.fixture(scope="module")
def adapted(world):
    return world.adapt("nada_lora", PAIR, steps=2, batch=2)


def test_what_is_scored_is_what_was_drawn_enlarged(world):
    images = world.draw(world.generator, 3)
    assert torch.equal(images, enlarge(world.generator(world.z(3))))
    assert images.shape == (3, 3, 64, 64)


@pytest.mark.slow  # adapts a diffusion model
def test_nothing_is_paired_and_everything_else_is_scored(world, adapted):
    assert not world.knows_truth
    generator = adapted.apply(world.generator)
    metrics = {m.name for m in world.score(world.batches(generator, 8), PAIR, "nada_lora", 0)}
    assert metrics == {"frechet", "frechet_vit", "clip_distance", "clip_gap", "diversity"}


def test_the_true_edit_of_a_picture_is_the_same_sitter_in_the_target_domain(world):
    """Drawn by the renderer at full size, reduced and enlarged as the model's images are."""
    pictures, truth = world.pictures(2), world.edited_truth(PAIR, 2)
    assert pictures.shape == (2, 3, 32, 32) and truth.shape == (2, 3, 64, 64)
    sitters = open_world("tiny", "human").z(2, "pictures")
    for domain, found in (("human", pictures), ("human/baby/photo", reduce(truth))):
        true = reduce(render(sitters, Domain.parse(domain)))
        assert (found - true).abs().mean() < 0.03
    assert (pictures - reduce(truth)).abs().mean() > 0.05


@pytest.mark.slow  # adapts a diffusion model
def test_an_adapter_is_small_and_draws_the_same_bits_again(world, adapted, tmp_path):
    path = adapted.save(tmp_path / "baby.safetensors")
    assert path.stat().st_size < 1_000_000
    again = Adaptation.load(path).apply(open_world("tiny", "diffusion-human").generator)
    # Another number of solver steps is no other model.
    again.steps = again.gradient_steps = 2
    assert torch.equal(again(world.z(2)), adapted.apply(world.generator)(world.z(2)))


def test_an_adaptation_is_refused_by_the_model_of_another_domain(adapted):
    with pytest.raises(AirlibError, match="another source"):
        adapted.apply(open_world("tiny", "diffusion-dog").generator)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("synthesis", "'synthesis' is for a StyleGAN2 and this is a DiffusionGenerator"),
        ("domain_vector", "'domain_vector' is for a StyleGAN2 and this is a DiffusionGenerator"),
        ("lora", "unknown parameterization 'lora'; choose from .* loraR, loraR_convolutions"),
        ("lora0", "LoRA of rank 0"),
        ("lora4_mapping", "unknown parameterization 'lora4_mapping'"),
    ],
)
def test_what_a_diffusion_model_cannot_train_is_refused(world, name, words):
    with pytest.raises(AirlibError, match=words):
        world.adapt("nada", PAIR, parameterization=name, steps=1, batch=1)


def test_lora_is_not_for_stylegan2():
    with pytest.raises(
        AirlibError, match="'lora4' is for a DiffusionGenerator and this is a Style"
    ):
        open_world("tiny", "human").adapt("nada_lora", "human-baby", steps=1)


@pytest.mark.slow  # adapts a diffusion model
def test_edits_are_scored_against_the_true_edit(world, adapted):
    pictures = world.pictures(3)
    found = edits.edited(world, adapted, pictures)
    scores = {m.name: m.value for m in edits.score(world, PAIR, found.edited, pictures, "x", 0)}
    right = world.edited_truth(PAIR, 3)
    assert scores["paired_l1"] == pytest.approx(
        (enlarge(found.edited).clamp(-1, 1) - right.clamp(-1, 1)).abs().mean().item() / 2, rel=1e-4
    )
    kept = {m.name: m.value for m in edits.score(world, PAIR, pictures, pictures, "x", 0)}
    assert kept["kept_l1"] == 0 < scores["kept_l1"]


@pytest.mark.slow  # adapts a diffusion model
def test_diffusion_clip_tunes_on_other_pictures_than_are_edited(world):
    tuned = world.adapt("diffusion_clip", PAIR)
    assert set(tuned.log[-1]) == {"step", "direction", "l1"}
    assert edits.edited(world, tuned, world.pictures(1)).edited.isfinite().all()


def test_a_learning_rate_that_explodes_stops_the_run(world):
    with pytest.raises(AirlibError, match="left the range .* lower the learning rate"):
        world.adapt("nada_lora", PAIR, steps=2, batch=1, learning_rate=10.0)
