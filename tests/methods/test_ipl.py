"""IPL against recordings of its code, and what its two stages promise on small networks."""

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from small_networks import assert_continues, small_encoder, small_generator

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.methods.ipl import (
    IPL,
    IPLConfig,
    contrastive_loss,
    domain_loss,
    prompt_directions,
    prompt_features,
)
from airlib.methods.latent_mapper import LatentMapper, Sentence, codes_of
from airlib.methods.step import Step
from airlib.parameterizations.stylegan2 import affine, synthesis
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}
SOURCE, ENCODER = small_generator(), small_encoder()
SPACE = ClipSpace([(ENCODER, 1.0)])
NUMBERS = IPLConfig(mapper_steps=3, mapper_batch=4)
CONFIG = AdaptationConfig(steps=4, learning_rate=0.01, checkpoint_every=1)


def ipl(config: IPLConfig = NUMBERS, space: ClipSpace = SPACE, seed: int = 0) -> IPL:
    return IPL(space, "human", "dog", config, seed=seed)


def adapted_by(objective: IPL, config: AdaptationConfig = CONFIG, **options) -> Adaptation:
    return adapt(SOURCE, objective.space, objective, synthesis(), config, **options)


def step_of(objective: IPL, n: int = 3, views: int = 0, adapted=SOURCE) -> Step:
    latents = SOURCE.sample_latents(n, rng(0, "step"))
    return Step(0, 4, 0, SOURCE, adapted, objective.space, latents, views, "shared")


# --- losses, against the recording ---------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "ipl_losses.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]).float() for name in file.files}


@pytest.fixture(scope="module")
def prompts(recorded) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target prompts of three images."""
    return tuple(
        prompt_features(recorded[f"delta_{side}"][:, 0], recorded[f"init_{side}"])
        for side in ("src", "trg")
    )


def test_stage_2_equals_the_recording(recorded, prompts):
    directions = prompt_directions(*prompts)
    torch.testing.assert_close(directions, recorded["ipl/target_direction"], **TOLERANCE)
    images = [F.normalize(recorded[f"img_{side}"], dim=1) for side in ("src", "trg")]
    found = directional_loss(images[1] - images[0], directions)
    torch.testing.assert_close(found, recorded["ipl/directional_loss"], **TOLERANCE)


def test_stage_1_equals_the_recording(recorded, prompts):
    contrastive = contrastive_loss(F.normalize(recorded["img_src"], dim=1), prompts[0])
    torch.testing.assert_close(contrastive, recorded["ipl/stage1_loss_lambda0"], **TOLERANCE)
    classes = [F.normalize(recorded[f"{side}_templates"], dim=1) for side in ("src", "trg")]
    domains = [domain_loss(*pair) for pair in zip(prompts, classes, strict=True)]
    total = contrastive + sum(domains)
    torch.testing.assert_close(total, recorded["ipl/stage1_loss_lambda1"], **TOLERANCE)


def test_contrastive_loss_by_hand():
    """Orthogonal pairs at scale s lose log(1 + exp(-s)); prompts that are all alike, log 2."""
    found = contrastive_loss(torch.eye(2), torch.eye(2), logit_scale=3.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-3)))
    swapped = contrastive_loss(torch.eye(2), torch.eye(2).flip(0), logit_scale=3.0)
    assert swapped.item() == pytest.approx(3 + found.item())
    alike = contrastive_loss(torch.eye(2), torch.eye(2)[:1].repeat(2, 1), logit_scale=1e-4)
    assert alike.item() == pytest.approx(math.log(2), abs=1e-4)


def test_domain_loss_is_zero_on_the_mean_of_the_templates_and_two_against_it():
    templates = F.normalize(torch.randn(5, 8, generator=rng(0, "templates")), dim=1)
    on_it = F.normalize(templates.mean(0), dim=0).repeat(3, 1)
    assert domain_loss(on_it, templates).item() == pytest.approx(0, abs=1e-6)
    assert domain_loss(-on_it, templates).item() == pytest.approx(2, abs=1e-6)


def test_a_prompt_that_learnt_nothing_is_the_written_sentence():
    written = torch.randn(1, 8, generator=rng(0, "written"))
    found = prompt_features(torch.zeros(3, 8), written)
    torch.testing.assert_close(found, F.normalize(written, dim=1).repeat(3, 1))


# --- the mapper ----------------------------------------------------------------------------------


def test_reading_vectors_before_a_label_equals_the_recording():
    with np.load(GOLDEN / "clip_text_prompt.npz", allow_pickle=False) as file:
        names = ("tokens", "ipl_ctx", "ipl_features")
        tokens, vectors, expected = (torch.from_numpy(file[name]) for name in names)
    open_clip.add_model_config(GOLDEN / "air-tiny-quickgelu.json")
    encoder = ClipEncoder.openai("air-tiny", GOLDEN / "clip_air_tiny.safetensors")
    end = tokens[:1].argmax(dim=1)
    sentence = Sentence(encoder, encoder.model.token_embedding(tokens[:1, : int(end) + 1]), end)
    torch.testing.assert_close(sentence.read(vectors), expected[:, 0], atol=1e-5, rtol=1e-5)


def test_the_mapper_by_its_formula():
    """Pixel norm, then four layers of gain 0.01 / sqrt(inputs), each with leaky ReLU * sqrt(2)."""
    mapper, codes = LatentMapper.random(5, 7, tokens=2, seed=0), 3 * torch.randn(4, 5)
    x = codes / (codes.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for layer in mapper.layers:
        x = x @ (0.01 * layer.weight / 5**0.5).T + 0.01 * layer.bias
        x = math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)
    torch.testing.assert_close(mapper(codes), x.reshape(4, 2, 7))
    assert [layer.weight.shape[0] for layer in mapper.layers] == [5, 5, 5, 14]
    large = LatentMapper.random(64, 64, tokens=4, seed=0)
    assert all(90 < layer.weight.std() < 110 for layer in large.layers)  # 1 / 0.01
    assert not any(layer.bias.any() for layer in large.layers)


def test_mappers_follow_the_seed():
    weights = [LatentMapper.random(5, 7, 2, seed).layers[0].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_codes_are_the_w_behind_a_latent():
    latents = SOURCE.sample_latents(2, rng(0))
    assert torch.equal(codes_of(latents), latents[:, 1])
    assert codes_of(torch.zeros(2, 3, 4, 4)).shape == (2, 48)
    assert codes_of(torch.zeros(2, 9)).shape == (2, 9)


# --- stage 1 -------------------------------------------------------------------------------------


def stage_1(config: IPLConfig) -> dict:
    objective = ipl(config)
    objective.begin(SOURCE, SOURCE)
    (event,) = objective.events()
    return event


@pytest.mark.slow  # trains prompts or variations
def test_learning_helps_prompts_find_images_that_were_not_shown():
    numbers = {"mapper_batch": 8, "domain_weight": 0.0, "mapper_learning_rate": 3.0}
    before, after = (stage_1(IPLConfig(mapper_steps=n, **numbers)) for n in (0, 40))
    assert before["contrastive_loss"][0] > math.log(8) - 0.01  # no better than chance
    assert after["contrastive_loss"][0] < math.log(8) - 0.15


@pytest.mark.slow  # trains prompts or variations
def test_the_domain_terms_hold_the_prompts_at_their_classes():
    alone, held, both = (
        stage_1(
            IPLConfig(mapper_steps=40, mapper_batch=4, domain_weight=weight, source_weight=source)
        )
        for weight, source in ((0.0, 0.0), (30.0, 0.0), (30.0, 1.0))
    )
    assert held["target_loss"][0] < alone["target_loss"][0]
    assert both["source_loss"][0] < alone["source_loss"][0]


def test_stage_1_draws_nothing_from_the_generator_being_adapted():
    objective, others = ipl(), (SOURCE, small_generator(seed=5))
    states = []
    for adapted in others:
        objective.begin(SOURCE, adapted)
        states.append(objective.state())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- stage 2 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", ["bare", "label"])
def test_directions_by_hand(residual):
    """From whole sentences: vectors in place of words 1 to 4, then the written one added."""
    objective = ipl(IPLConfig(mapper_steps=0, mapper_batch=2, residual=residual))
    step = step_of(objective)
    objective.begin(SOURCE, SOURCE)
    vectors, found = objective.mappers[0](codes_of(step.latents)), []
    for label in ("human", "dog"):
        sentences = [f"a photo of a {label}"] * 3
        embeddings, ends = ENCODER.token_embeddings(sentences)
        embeddings = torch.cat([embeddings[:, :1], vectors, embeddings[:, 5:]], dim=1)
        text = "a photo of a" if residual == "bare" else f"a photo of a {label}."
        written = ENCODER.prompt_features(*ENCODER.token_embeddings([text]))
        total = ENCODER.prompt_features(embeddings, ends) + written
        found.append(total / total.norm(dim=1, keepdim=True))
    expected = F.normalize(found[1] - found[0], dim=1)
    directions = objective.image_directions(0, codes_of(step.latents))
    torch.testing.assert_close(directions, expected, **TOLERANCE)
    assert (directions[0] - directions[1]).norm() > 1e-3  # an image's own


@pytest.mark.parametrize("views", [0, 2])
def test_every_view_of_an_image_follows_the_direction_of_that_image(views):
    objective, adapted = ipl(), small_generator(seed=3)
    step = step_of(objective, views=views, adapted=adapted)
    objective.begin(SOURCE, adapted)
    loss = objective(step)["direction"]
    (offsets,) = step.offsets_from(step.source_embeddings)
    directions = objective.image_directions(0, codes_of(step.latents))
    cosines = [
        float(F.cosine_similarity(offset, directions[row % 3], dim=0))
        for row, offset in enumerate(offsets)
    ]
    assert len(cosines) == 3 * max(views, 1)
    assert loss.item() == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-6)


def test_models_count_by_their_weights():
    other, losses = small_encoder(1), []
    adapted = small_generator(seed=3)
    for models in ([(ENCODER, 1.0)], [(other, 1.0)], [(ENCODER, 2.0), (other, 0.5)]):
        objective = ipl(space=ClipSpace(models))
        objective.begin(SOURCE, adapted)
        losses.append(float(objective(step_of(objective, adapted=adapted))["direction"]))
    assert losses[2] == pytest.approx(2 * losses[0] + 0.5 * losses[1], rel=1e-5)


@pytest.mark.parametrize("parameterization", [synthesis, affine])
def test_the_first_step_moves_only_what_may_move_and_no_mapper(parameterization):
    objective, states, mappers = ipl(), [], []

    def watch(_index: int, adapted: torch.nn.Module) -> None:
        states.append({name: value.clone() for name, value in adapted.state_dict().items()})
        mappers.append({name: value.clone() for name, value in objective.state().items()})

    config = AdaptationConfig(steps=2, learning_rate=0.01)
    result = adapt(SOURCE, SPACE, objective, parameterization(), config, on_step=watch)
    moved = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert moved == set(result.tensors)
    assert len(mappers[0]) == 8  # learnt before the first step
    assert all(torch.equal(value, mappers[2][name]) for name, value in mappers[0].items())


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_stopped_run_continues_bit_for_bit(tmp_path, last):
    assert_continues(lambda **options: adapted_by(ipl(), **options), tmp_path, last)


@pytest.mark.slow  # trains prompts or variations
def test_the_log_says_what_the_mapper_learnt_and_the_seed_decides_it():
    event, same, other = (adapted_by(ipl(seed=seed)).log[0] for seed in (0, 0, 1))
    assert event == same != other
    assert (event["event"], event["step"]) == ("mappers", 0)
    assert -1 <= event["cos_with_text_direction"][0] <= 1


@pytest.mark.parametrize(
    ("numbers", "words"),
    [({"residual": "none"}, "choose bare or label"), ({"mapper_batch": 1}, "batches of at least 2")]
    + [({"prompt_tokens": n}, "writes 1 to 4 vectors") for n in (0, 5)],
)
def test_impossible_numbers_are_refused(numbers, words):
    with pytest.raises(AirlibError, match=words):
        IPLConfig(**numbers)
