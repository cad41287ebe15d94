"""Walks: models along a way between domains, attributes of inverted pictures, and what is saved."""

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.adaptation import Adaptation
from airlib.editing.interpolation import smoothness, walk
from airlib.errors import AirlibError
from airlib.evaluation.frechet import frechet_distance
from airlib.profiles import load_profile
from airlib.seeding import rng
from airlib.showing.export import save_gif, save_png
from airlib.studies.walks import (
    Editor,
    _along,
    adaptations_of,
    frechet_along,
    inverted,
    kept,
    smoothness_of_walks,
    truth_of_both,
)
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.renderer import render
from airlib.worlds import World, open_world
from airlib.worlds.inverting import WAYS, inverter_of, perceptual_of

pytestmark = pytest.mark.slow  # adapts and scores

# --- files ---------------------------------------------------------------------------------------

FRAMES = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 8, 8)


def test_a_strip_is_read_back_as_it_was(tmp_path):
    pixels = np.asarray(Image.open(save_png(FRAMES, tmp_path / "strip.png")))
    assert pixels.shape == (8, 32, 3)
    assert pixels[0, ::8, 0].tolist() == [0, 85, 170, 255]
    assert Image.open(save_png(FRAMES[:1], tmp_path / "one.png", side=32)).size == (32, 32)


@pytest.mark.parametrize(("and_back", "expected"), [(True, [0, 85, 170, 255, 170, 85]),
                                                    (False, [0, 85, 170, 255])])  # fmt: skip
def test_a_gif_plays_for_ever_with_every_frame_as_long_as_it_should(tmp_path, and_back, expected):
    path = save_gif(FRAMES, tmp_path / "walk.gif", 0.08, 16, and_back)
    with Image.open(path) as gif:
        assert gif.n_frames == len(expected) and gif.info["loop"] == 0
        for index, level in enumerate(expected):
            gif.seek(index)
            assert gif.info["duration"] == 80 and gif.size == (16, 16)
            assert (np.asarray(gif.convert("RGB")) == level).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["walk.gif"]


def test_colours_of_a_gif_are_close_to_those_of_the_images(tmp_path):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with Image.open(save_gif(images, tmp_path / "noise.gif")) as gif:
        for index, image in enumerate(images):
            gif.seek(index)
            found = np.asarray(gif.convert("RGB")) / 127.5 - 1
            assert np.abs(found - image.permute(1, 2, 0).numpy()).mean() < 0.02


@pytest.mark.parametrize(
    ("images", "seconds", "words"),
    [
        (FRAMES[0], 0.1, r"got \[3, 8, 8\]"),
        (FRAMES[:0], 0.1, r"got \[0, 3, 8, 8\]"),
        (FRAMES * float("nan"), 0.1, "NaN"),
        (FRAMES, 0.001, "0.02 s to 655 s"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path, images, seconds, words):
    with pytest.raises(AirlibError, match=words):
        save_gif(images, tmp_path / "walk.gif", seconds)
    assert not list(tmp_path.iterdir())


# --- in the tiny world ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> World:
    few = {"evaluation.references": 60, "inversion.steps": 3, "inversion.steps_alone": 3}
    few |= {"inversion.curvature_samples": 8}
    return open_world(load_profile("tiny", few), "human")


@pytest.fixture(scope="module")
def sketch(world) -> Adaptation:
    return world.adapt("nada", "photo-sketch", steps=8)


def test_the_domains_themselves_are_at_the_ends_of_the_way_between_them():
    """Gaussians on a line: d is |m_x - m_y| if the spread is the same."""
    spread = torch.randn(50, 4, generator=rng(0))
    shifted = [spread + shift for shift in (0.0, 0.25, 1.0)]
    along = _along("judge", shifted, spread, spread + 1)
    assert along.to_source == pytest.approx([0, 0.25, 1], abs=1e-6)
    assert along.to_target == pytest.approx([1, 0.75, 0], abs=1e-6)
    assert along.detour == pytest.approx([1, 1, 1], abs=1e-6)
    aside = spread + torch.tensor([0.5, 0.5, 0.5, 0.5]) + torch.tensor([3.0, -3.0, 3.0, -3.0])
    (detour,) = _along("judge", [aside], spread, spread + 1).detour
    assert detour == pytest.approx(2 * 37**0.5 / 2, rel=1e-6)  # d is 2 between the ends


def test_distances_along_the_way_are_frechet_distances_of_its_models(world, sketch):
    adapted = sketch.apply(world.generator)
    first, second = frechet_along(world, "photo-sketch", [world.generator, adapted], 30, 60)
    judge, reference = world.judges[0], world.reference("photo-sketch")
    source, images = judge.features(world.pictures(60)), world.draw(adapted, 30)
    whole = frechet_distance(source, reference.features[0])
    expected = frechet_distance(judge.features(images.clamp(-1, 1)), reference.features[0])
    assert first.to_target[1] == pytest.approx((expected / whole) ** 0.5, rel=1e-4)
    for along in (first, second):
        assert along.to_source[0] < along.to_source[1] and min(along.detour) >= 1
    assert first.judge != second.judge


def test_adaptations_are_those_of_the_world_and_made_once(world, tmp_path):
    few = load_profile("tiny", {"methods.nada.steps": 2})
    (made,) = adaptations_of(few, [("nada", "photo-sketch")], 3, tmp_path, workers=1)
    expected = world.adapt("nada", "photo-sketch", 3, steps=2)
    assert made.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(made.tensors[name], value) for name, value in expected.tensors.items())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    adaptations_of(few, [("nada", "photo-sketch")], 3, tmp_path, workers=1)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    more = load_profile("tiny", {"methods.nada.steps": 3})
    (longer,) = adaptations_of(more, [("nada", "photo-sketch")], 3, tmp_path, workers=1)
    assert len(longer.log) == 3


def test_the_truth_of_two_domains_is_their_style_and_their_species(world):
    both = truth_of_both(world, "photo-sketch", "human-werewolf", 2)
    assert torch.equal(both, render(world.z(2), Domain("werewolf", "adult", "sketch")))


def test_walks_of_one_model_are_measured_as_that_model_alone(world, sketch):
    adapted, z = sketch.apply(world.generator), world.z(4).view(2, 2, -1)
    rows = smoothness_of_walks(world, {"a": world.generator, "b": adapted}, z, 3)
    assert len({row["walk"] for row in rows}) == len(rows) == 6
    by_name = {row["walk"]: row for row in rows}
    w = [walk(*world.generator.map(ends), 3) for ends in z]
    with torch.no_grad():
        lengths = [smoothness(adapted(path), perceptual_of(world)).path_length for path in w]
    assert by_name["linear in w"]["b: path length"] == pytest.approx(sum(lengths) / 2, rel=1e-4)
    alone = smoothness_of_walks(world, {"b": adapted}, z, 3)
    assert alone[4]["b: largest step"] == pytest.approx(rows[4]["b: largest step"], rel=1e-4)


def test_a_perfect_copy_keeps_everything_and_another_sitter_nothing(world):
    pictures = world.pictures(6)
    perfect, wrong = kept(world, pictures), kept(world, pictures.roll(1, 0))
    assert perfect["l1"] == perfect["perceptual"] == perfect["perceptual 2"] == 0
    assert perfect["sitter"] == 1 and wrong["sitter"] == 0
    assert perfect["attributes"] < 0.6 < 1 < wrong["attributes"]  # twice the variance
    assert wrong["l1"] == pytest.approx((pictures - pictures.roll(1, 0)).abs().mean().item() / 2)


def test_every_way_inverts_the_same_pictures(world):
    pictures = world.pictures(2)
    found = inverted(world, pictures)
    assert list(found) == list(WAYS) and all(one.seconds > 0 for one in found.values())
    for way, one in found.items():
        again = inverter_of(world, way)(pictures)
        assert torch.equal(one.latents, again.latents)
    assert kept(world, found["refined"].reconstruction)["l1"] == pytest.approx(
        found["refined"].errors["l1"].mean().item() / 2, rel=1e-4
    )


def test_the_editor_draws_source_and_target_at_the_ends(world, sketch):
    editor, adapted = Editor(world, {"sketch": sketch}, "encoder"), sketch.apply(world.generator)
    picture = world.pictures(1)
    shown = editor("sketch", 0.0, seed=3, picture=picture)
    assert torch.equal(shown[:1], picture) and torch.equal(shown[1], shown[2])
    found = inverter_of(world, "encoder")(picture)
    with torch.no_grad():
        assert torch.equal(editor("sketch", 1.0, picture=picture)[2:], adapted(found.latents))
    sitters = [editor("sketch", strength, 5) for strength in (0.0, 0.5, 1.0)]
    assert torch.equal(sitters[0][0], sitters[0][1])
    assert all(torch.equal(images[0], sitters[0][0]) for images in sitters)
    assert not torch.allclose(sitters[1][1], sitters[2][1], atol=1e-2)
    assert not torch.equal(editor("sketch", 0.5, 6)[0], sitters[1][0])


def test_a_sitter_of_no_truncation_is_the_mean_of_all(world, sketch):
    editor = Editor(world, {"sketch": sketch})
    mean = world.generator.mapping.w_avg.expand(1, world.generator.num_ws, -1)
    with torch.no_grad():
        average = world.as_scored(
            torch.cat([world.generator(mean), sketch.apply(world.generator)(mean)])
        )
    for seed in (1, 2):
        torch.testing.assert_close(editor("sketch", 1.0, seed, 0.0), average, atol=1e-4, rtol=0)
    assert torch.equal(editor("sketch", 1.0, 1), editor("sketch", 1.0, 1, world.truncation))
    assert not torch.allclose(editor("sketch", 1.0, 1), average, atol=0.1)
