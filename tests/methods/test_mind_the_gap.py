"""MindTheGap's four losses: their formulas, where they vanish, and whom they move."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_encoder, small_generator, small_space
from torch import Tensor

from airlib.adaptation import AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.mind_the_gap import MindTheGap, MindTheGapConfig, shrunk
from airlib.methods.step import Step
from airlib.parameterizations.stylegan2 import domain_vector, synthesis
from airlib.seeding import rng

PERCEPTUAL = PerceptualEmbedding(lambda images: [F.avg_pool2d(images, size) for size in (2, 4)])
TWO_MODELS = ClipSpace([(small_encoder(seed), 1.0) for seed in (0, 1)])


def dimmed(seed: int = 0) -> StyleGAN2:
    """A small generator that stays between -1 and 1, so that its images are pictures."""
    generator = small_generator(seed)
    for block in map(generator.synthesis.block, generator.synthesis.resolutions):
        block.torgb.weight.mul_(0.05)
        block.torgb.bias.mul_(0.05)
    return generator


SOURCE, SPACE = dimmed(), small_space()
LATENT = SOURCE.sample_latents(1, rng(0, "reference"))
COUNTERPART = SOURCE(LATENT)  # I_A*
PICTURE = (0.5 * torch.randn(1, 3, 16, 16, generator=rng(0, "picture"))).clamp(-1, 1)


def step_of(adapted: StyleGAN2, space: ClipSpace = SPACE, noise: str = "none") -> Step:
    return Step(0, 1, 0, SOURCE, adapted, space, SOURCE.sample_latents(3, rng(1)), 0, noise)


def loss_of(picture: Tensor, space: ClipSpace = SPACE, **numbers: float | str) -> MindTheGap:
    config = MindTheGapConfig(**numbers)
    return MindTheGap(space, SOURCE, picture, LATENT, PERCEPTUAL, config)


def test_the_losses_are_the_formulas():
    """Recomputed image by image, as the paper writes them."""
    adapted = dimmed(1)
    terms = loss_of(PICTURE)(step_of(adapted))
    embed, latents = SPACE.encoders[0].embed_images, SOURCE.sample_latents(3, rng(1))
    b, a_star = embed(PICTURE)[0], embed(SOURCE(LATENT))[0]
    across, within = [], []
    for w in latents:
        before, after = embed(SOURCE(w[None]))[0], embed(adapted(w[None]))[0]
        across.append(1 - torch.dot(after - before, b - a_star)
                      / ((after - before).norm() * (b - a_star).norm()))  # fmt: skip
        within.append(1 - torch.dot(after - b, before - a_star)
                      / ((after - b).norm() * (before - a_star).norm()))  # fmt: skip
    drawn = adapted(LATENT)
    distance = PERCEPTUAL.paired_distance(drawn, PICTURE)[0]
    expected = {
        "clip_across": sum(across) / 3,
        "clip_within": 0.5 * sum(within) / 3,
        "ref_clip": 30 * (1 - torch.dot(embed(drawn)[0], b)),
        "ref_rec": 10 * (drawn - PICTURE).square().mean() + 10 * distance,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, atol=1e-4, rtol=1e-4)


def test_where_the_reference_is_the_source_s_own_image_nothing_is_to_do():
    """G_B = G_A and I_B = I_A*: only the direction from I_A* to I_B is not there (it counts 1)."""
    terms = loss_of(COUNTERPART)(step_of(SOURCE.copy_frozen()))
    assert terms["clip_across"].item() == 1
    for name in ("clip_within", "ref_clip", "ref_rec"):
        assert abs(terms[name].item()) < 1e-4, name


def test_an_image_that_moved_as_the_counterpart_did_costs_nothing_across():
    """With w = w_B and G_B(w_B) = I_B the two offsets are the same."""
    adapted = dimmed(1)
    picture = adapted(LATENT)
    step = Step(0, 1, 0, SOURCE, adapted, SPACE, LATENT, 0, "none")
    terms = loss_of(picture)(step)
    for name in ("clip_across", "ref_clip", "ref_rec"):
        assert abs(terms[name].item()) < 1e-4, name


def test_the_loss_at_the_reference_is_a_sum_over_models_or_their_mean():
    """The official codes differ there, and only there."""
    adapted = dimmed(1)
    summed = loss_of(PICTURE, TWO_MODELS)(step_of(adapted, TWO_MODELS))
    meant = loss_of(PICTURE, TWO_MODELS, ref_clip_over="mean")(step_of(adapted, TWO_MODELS))
    torch.testing.assert_close(summed["ref_clip"], 2 * meant["ref_clip"])
    assert all(torch.equal(summed[k], meant[k]) for k in summed if k != "ref_clip")
    alone = [
        loss_of(PICTURE, ClipSpace([pair]))(step_of(adapted, ClipSpace([pair])))
        for pair in zip(TWO_MODELS.encoders, TWO_MODELS.weights, strict=True)
    ]
    for name in ("clip_across", "clip_within", "ref_clip"):
        torch.testing.assert_close(summed[name], alone[0][name] + alone[1][name])


def test_weights_scale_their_own_term_and_no_other():
    adapted = dimmed(1)
    plain = loss_of(PICTURE)(step_of(adapted))
    changed = loss_of(PICTURE, clip_within=0.0, ref_clip=60.0)(step_of(adapted))
    assert changed["clip_within"] == 0 and changed["ref_clip"] == 2 * plain["ref_clip"]
    assert all(torch.equal(plain[name], changed[name]) for name in ("clip_across", "ref_rec"))


@pytest.mark.parametrize("noise", ["shared", "independent", "none"])
def test_gradients_reach_what_is_adapted_and_nothing_else(noise):
    adapted = SOURCE.copy_frozen()
    trainable = synthesis().attach(adapted)
    objective = loss_of(PICTURE)
    torch.stack(list(objective(step_of(adapted, noise=noise)).values())).sum().backward()
    moved = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    still = {name for name in trainable if noise == "none" and name.endswith("noise_strength")}
    assert moved == set(trainable) - still
    for frozen in (SOURCE, SPACE.encoders[0].model):
        assert all(p.grad is None for p in frozen.parameters())
    assert not LATENT.requires_grad and LATENT.grad is None


def test_the_gradient_is_that_of_finite_differences():
    adapted = dimmed(1)
    vectors = domain_vector().attach(adapted)
    objective = loss_of(PICTURE)
    directions = {name: torch.randn(p.shape, generator=rng(0, name)) for name, p in vectors.items()}

    def value(amount: float) -> Tensor:
        moved = {name: p.detach() + amount * directions[name] for name, p in vectors.items()}
        at = adapted.copy_frozen()
        at.load_state_dict(moved, strict=False)
        return torch.stack(list(objective(step_of(at)).values())).sum()

    torch.stack(list(objective(step_of(adapted)).values())).sum().backward()
    slope = sum((p.grad * directions[name]).sum().item() for name, p in vectors.items())
    eps = 1e-3
    difference = (value(eps) - value(-eps)).item() / (2 * eps)
    assert slope == pytest.approx(difference, rel=0.02)


@pytest.mark.slow  # adapts
def test_adaptation_makes_the_reference_of_its_latent():
    config = AdaptationConfig(steps=40, batch=2, learning_rate=0.01, noise="none")
    result = adapt(SOURCE, SPACE, loss_of(PICTURE), synthesis(), config)
    before, after = (entry["ref_rec"] for entry in (result.log[0], result.log[-1]))
    assert after < 0.7 * before
    drawn = result.apply(SOURCE)(LATENT)
    assert F.mse_loss(drawn, PICTURE) < F.mse_loss(COUNTERPART, PICTURE)


def test_a_run_is_not_continued_with_another_picture(tmp_path):
    config = AdaptationConfig(steps=2, batch=2, learning_rate=0.01)
    adapt(SOURCE, SPACE, loss_of(PICTURE), synthesis(), config, tmp_path)
    with pytest.raises(AirlibError, match="other settings"):
        adapt(SOURCE, SPACE, loss_of(-PICTURE), synthesis(), config, tmp_path)


def test_large_images_are_compared_at_256_pixels():
    wave = torch.arange(512).mul(torch.pi).cos().expand(1, 3, 512, 512)  # one pixel light, one dark
    assert shrunk(wave, 256).shape == (1, 3, 256, 256)
    assert shrunk(wave, 256)[..., 8:-8].abs().max() < 0.05  # smoothed away, not sampled
    flat = torch.full((1, 3, 512, 512), 0.25)
    torch.testing.assert_close(shrunk(flat, 256), flat[..., :256, :256])
    assert shrunk(PICTURE, 256) is PICTURE


@pytest.mark.parametrize(
    ("picture", "latent", "words"),
    [
        (PICTURE.repeat(2, 1, 1, 1), LATENT, "takes one reference"),
        (PICTURE, LATENT.repeat(2, 1, 1), "takes one reference"),
        (torch.zeros(1, 3, 32, 32), LATENT, "resize them"),
        (PICTURE * 3, LATENT, "and not from -1 to 1"),
    ],
)
def test_other_references_are_refused(picture, latent, words):
    with pytest.raises(AirlibError, match=words):
        MindTheGap(SPACE, SOURCE, picture, latent, PERCEPTUAL)


def test_an_unknown_way_to_combine_models_is_refused():
    with pytest.raises(AirlibError, match='use "sum", "mean"'):
        MindTheGapConfig(ref_clip_over="max")
