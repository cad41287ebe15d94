"""Other losses that are shown pictures: a direction between images, and an offset in w+."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_space

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.image_direction import ImageDirection, ImageDirectionConfig
from airlib.methods.step import Step
from airlib.methods.target_clip import TargetCLIP, TargetCLIPConfig, inconsistency
from airlib.parameterizations.stylegan2 import latent_direction, synthesis, trainable_numbers
from airlib.seeding import rng

SOURCE, SPACE = small_generator(), small_space()
ENCODER = SPACE.encoders[0]
PICTURES = (0.5 * torch.randn(3, 3, 24, 24, generator=rng(0, "pictures"))).clamp(-1, 1)
CONFIG = AdaptationConfig(steps=30, batch=4, learning_rate=0.02, noise="none")


# --- the direction between images ----------------------------------------------------------------


def test_the_direction_leads_from_mean_samples_to_mean_pictures():
    found = ImageDirection(SPACE, SOURCE, PICTURES, ImageDirectionConfig(5), seed=3)
    samples = SOURCE(SOURCE.sample_latents(5, rng(3, "image direction")))
    start = sum(ENCODER.embed_images(image[None])[0] for image in samples) / 5
    end = sum(ENCODER.embed_images(picture[None])[0] for picture in PICTURES) / 3
    torch.testing.assert_close(found.directions[0], end - start, atol=1e-5, rtol=1e-4)


def test_the_direction_is_the_seed_s_and_more_samples_change_it_less():
    def directions(samples: int) -> torch.Tensor:
        return torch.stack(
            [
                ImageDirection(
                    SPACE, SOURCE, PICTURES, ImageDirectionConfig(samples), s
                ).directions[0]
                for s in (0, 1)
            ]
        )

    assert torch.equal(directions(4), directions(4))
    few, many = (directions(n).diff(dim=0).norm() for n in (4, 400))
    assert 0 < many < few / 3


@pytest.mark.slow  # adapts
def test_images_move_towards_the_pictures():
    objective = ImageDirection(SPACE, SOURCE, PICTURES[:1])
    adapted = adapt(SOURCE, SPACE, objective, synthesis(), CONFIG).apply(SOURCE)
    latents = SOURCE.sample_latents(20, rng(9))
    target = ENCODER.embed_images(PICTURES[:1])[0]
    before, after = (ENCODER.embed_images(g(latents)) @ target for g in (SOURCE, adapted))
    assert (after > before).float().mean() >= 0.9


def test_a_run_is_not_continued_with_other_pictures(tmp_path):
    config = AdaptationConfig(steps=2, batch=2, learning_rate=0.01)
    adapt(SOURCE, SPACE, ImageDirection(SPACE, SOURCE, PICTURES), synthesis(), config, tmp_path)
    other = ImageDirection(SPACE, SOURCE, PICTURES[:2])
    with pytest.raises(AirlibError, match="other settings"):
        adapt(SOURCE, SPACE, other, synthesis(), config, tmp_path)
    with pytest.raises(AirlibError, match="at least 1"):
        ImageDirectionConfig(samples=0)


# --- the offset in w+ ----------------------------------------------------------------------------


def test_the_direction_of_a_1024_pixel_generator_has_9216_numbers():
    """One W+ offset, 18 x 512; tables that give TargetCLIP 30 million count what it keeps."""
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(resolution=1024))
    assert sum(p.numel() for p in latent_direction().attach(generator).values()) == 9216
    assert trainable_numbers(SOURCE)["latent_direction"] == SOURCE.num_ws * SOURCE.w_dim


def test_a_direction_of_zero_is_the_source_bit_for_bit():
    moved, latents = SOURCE.copy_frozen(), SOURCE.sample_latents(4, rng(1))
    noise = SOURCE.sample_noise(4, rng(2))
    moved.add_direction()
    assert torch.equal(moved(latents, noise), SOURCE(latents, noise))
    assert list(set(moved.state_dict()) - set(SOURCE.state_dict())) == ["direction"]


def test_a_direction_is_added_to_every_latent_also_behind_a_mapping():
    moved, offset = SOURCE.copy_frozen(), torch.randn(SOURCE.num_ws, 16, generator=rng(3))
    moved.add_direction().data.copy_(offset)
    z = SOURCE.sample_z(4, rng(1))
    expected = SOURCE(SOURCE.map(z) + offset)
    assert torch.equal(moved(SOURCE.map(z)), expected)
    assert torch.equal(moved.with_mapping()(z), expected)
    assert torch.equal(moved.copy_frozen()(SOURCE.map(z)), expected)


def test_an_adapted_direction_travels_alone(tmp_path):
    config = AdaptationConfig(steps=3, batch=2, learning_rate=0.1)
    result = adapt(SOURCE, SPACE, TargetCLIP(SPACE, PICTURES[:1]), latent_direction(), config)
    assert result.tensors.keys() == {"direction"} and result.tensors["direction"].any()
    again = Adaptation.load(result.save(tmp_path / "direction.safetensors")).apply(SOURCE)
    latents = SOURCE.sample_latents(3, rng(1))
    assert torch.equal(again(latents), result.apply(SOURCE)(latents))
    assert not torch.equal(again(latents), SOURCE(latents))


# --- TargetCLIP ----------------------------------------------------------------------------------


def test_inconsistency_by_hand_and_as_the_double_sum():
    same = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert inconsistency(same) == 0
    assert inconsistency(torch.eye(2)) == 1
    assert inconsistency(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == 2
    offsets = torch.randn(4, 6, generator=rng(0, "offsets"))
    unit = F.normalize(offsets, dim=1)
    total = sum(1 - float(a @ b) for a in unit for b in unit) / (4**2 - 4)
    assert inconsistency(offsets).item() == pytest.approx(total, abs=1e-6)


def test_the_norm_term_is_the_weight_decay_of_adam():
    moved = SOURCE.copy_frozen()
    (direction,) = latent_direction().attach(moved).values()
    direction.data += torch.randn(direction.shape, generator=rng(4))
    config = TargetCLIPConfig(similarity=0.0, consistency=0.0)
    step = Step(0, 1, 0, SOURCE, moved, SPACE, SOURCE.sample_latents(2, rng(1)), 0, "none")
    terms = TargetCLIP(SPACE, PICTURES[:1], config)(step)
    terms["norm"].backward()
    torch.testing.assert_close(direction.grad, 0.003 * direction.detach())


def test_one_direction_brings_all_images_nearer_to_the_target():
    objective = TargetCLIP(SPACE, PICTURES[:1], TargetCLIPConfig(consistency=0.0, norm=0.0))
    config = AdaptationConfig(steps=30, batch=4, learning_rate=0.02, noise="none")
    result = adapt(SOURCE, SPACE, objective, latent_direction(), config)
    latents, adapted = SOURCE.sample_latents(20, rng(9)), result.apply(SOURCE)
    target = ENCODER.embed_images(PICTURES[:1])[0]
    before, after = (ENCODER.embed_images(g(latents)) @ target for g in (SOURCE, adapted))
    assert (after > before).float().mean() >= 0.9
    assert result.log[-1]["similarity"] < result.log[0]["similarity"]


def test_target_clip_wants_a_direction_and_company():
    adapted = SOURCE.copy_frozen()
    step = Step(0, 1, 0, SOURCE, adapted, SPACE, SOURCE.sample_latents(2, rng(1)), 0, "none")
    with pytest.raises(AirlibError, match=r"adapt latent_direction\(\)"):
        TargetCLIP(SPACE, PICTURES[:1])(step)
    adapted.add_direction()
    alone = Step(0, 1, 0, SOURCE, adapted, SPACE, SOURCE.sample_latents(1, rng(1)), 0, "none")
    with pytest.raises(AirlibError, match="at least 2"):
        TargetCLIP(SPACE, PICTURES[:1])(alone)
