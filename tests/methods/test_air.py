"""AIR: when anchors are taken, how their prompts are learnt, and what is never computed twice."""

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from small_networks import small_encoder, small_generator

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.methods.air import AIR, AIRConfig
from airlib.methods.ipl import learn_image_prompt
from airlib.methods.nada import NADA
from airlib.methods.prompt_learning import (
    CONTEXT,
    PromptConfig,
    interpolated_prompt,
    learn_prompt,
    mean_direction_of,
)
from airlib.methods.step import Step
from airlib.parameterizations.stylegan2 import synthesis
from airlib.seeding import rng

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCE, ENCODER = small_generator(), small_encoder()
SPACE = ClipSpace([(ENCODER, 1.0)])
PAIRS, PROMPT_STEPS = 60, 3
NUMBERS = AIRConfig(0.5, 0.25, prompt_pairs=PAIRS, prompt_steps=PROMPT_STEPS)
CONFIG = AdaptationConfig(steps=8, learning_rate=0.01)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors, dim=-1)


def air(config: AIRConfig = NUMBERS, space: ClipSpace = SPACE) -> AIR:
    return AIR(space, "human", "dog", config)


def adapted_by(objective: NADA | AIR, config: AdaptationConfig = CONFIG, **options) -> Adaptation:
    return adapt(SOURCE, objective.space, objective, synthesis(), config, **options)


def losses(result: Adaptation, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in result.log if name in entry}


def anchors(result: Adaptation) -> list[dict]:
    return [entry for entry in result.log if entry.get("event") == "anchor"]


# --- when ----------------------------------------------------------------------------------------


def test_anchor_steps_of_the_paper_and_of_the_official_code():
    assert AIRConfig().anchor_steps(300) == list(range(30, 300, 30))
    assert AIRConfig(chain_start="t_thresh").anchor_steps(300) == [180, 210, 240, 270]
    assert AIRConfig().anchor_steps(2000) == list(range(200, 2000, 200))


def test_anchor_steps_at_the_edges():
    assert AIRConfig(t_int=1.0).anchor_steps(300) == []
    assert AIRConfig(t_int=0.1).anchor_steps(3) == [1, 2]  # rounded, each once, none before step 1
    assert AIRConfig(t_thresh=0.0, chain_start="t_thresh").anchor_steps(10) == list(range(1, 10))
    assert AIRConfig(t_thresh=1.0, chain_start="t_thresh").anchor_steps(10) == []


@pytest.mark.parametrize("wrong", [{"t_int": 0.0}, {"t_int": 1.1}, {"t_thresh": -0.1}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(AirlibError, match="must lie in"):
        AIRConfig(**wrong)


def test_before_the_threshold_air_is_nada_bit_for_bit():
    states: dict[str, list[torch.Tensor]] = {"nada": [], "air": []}
    results = {
        name: adapted_by(
            objective,
            on_step=lambda _, net, name=name: states[name].append(
                torch.cat([v.flatten() for v in net.state_dict().values()])
            ),
        )
        for name, objective in (("nada", NADA(SPACE, "human", "dog")), ("air", air()))
    }
    direction = {name: losses(result, "direction") for name, result in results.items()}
    assert losses(results["air"], "adaptive").keys() == {4, 5, 6, 7}
    for step in range(5):  # the state before step 4 is the last that L_adaptive has not touched
        assert torch.equal(states["nada"][step], states["air"][step])
        assert direction["nada"][step] == direction["air"][step]
    assert not torch.equal(states["nada"][5], states["air"][5])
    assert direction["nada"][5] != direction["air"][5]


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["dog", "cat", "wall painting", "tolkien elf"])
def test_progress_leads_from_the_source_prompt_to_the_target_prompt(target):
    features = [
        ENCODER.embed_prompt(*interpolated_prompt(ENCODER, "human", target, progress, "label"))
        for progress in (0.0, 0.5, 1.0)
    ]
    expected = ENCODER.embed_text([f"{CONTEXT} human", f"{CONTEXT} {target}"])
    torch.testing.assert_close(features[2][0], expected[1], atol=1e-6, rtol=0)
    if target in ("dog", "cat"):  # as many tokens as the source
        torch.testing.assert_close(features[0][0], expected[0], atol=1e-6, rtol=0)
    assert (features[1] - features[0]).norm() > 1e-4 < (features[1] - features[2]).norm()


def test_labels_of_different_lengths_meet_at_the_end_of_text():
    short, long = f"{CONTEXT} human", f"{CONTEXT} wall painting"
    embeddings, ends = ENCODER.token_embeddings([short, long])
    extra = int(ends[1] - ends[0])
    assert extra >= 1
    for source, target, first, last in (
        ("human", "wall painting", 0, 1),
        ("wall painting", "human", 1, 0),
    ):
        prompts = [
            interpolated_prompt(ENCODER, source, target, p, "label") for p in (0.0, 0.25, 1.0)
        ]
        assert all(int(end) == ends[1] for _, end in prompts)
        stretched = torch.cat(
            [
                embeddings[0, :5],
                embeddings[0, 5:6].expand(1 + extra, -1),
                embeddings[0, ends[0]][None],
            ]
        )
        sides = [stretched, embeddings[1]]
        torch.testing.assert_close(prompts[0][0][0], sides[first])
        torch.testing.assert_close(prompts[2][0][0], sides[last])
        mixed = 0.75 * sides[first] + 0.25 * sides[last]
        torch.testing.assert_close(prompts[1][0][0], mixed)
        end_of_text = embeddings[0, ends[0]]
        torch.testing.assert_close(prompts[1][0][0, -1], end_of_text)


def test_mixing_all_positions_corrupts_the_end_of_text_as_the_official_code_does():
    source, target = f"{CONTEXT} human", f"{CONTEXT} wall painting"
    embeddings, ends = ENCODER.token_embeddings([source, target])
    mixed, end = interpolated_prompt(ENCODER, "human", "wall painting", 0.25, "all_positions")
    assert int(end) == ends[1]
    expected = 0.75 * embeddings[0] + 0.25 * embeddings[1]
    torch.testing.assert_close(mixed[0], expected)
    assert (mixed[0, -1] - embeddings[1, ends[1]]).abs().max() > 1e-3


class RecordedTokens:
    """The recording's token ids in place of a tokenizer: its vocabulary has 256 entries."""

    def __init__(self, ids: dict[str, torch.Tensor]):
        self.ids = ids

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return torch.cat([self.ids[text] for text in texts])

    def encode(self, text: str) -> list[int]:
        row = self.ids[text][0]
        return row[1 : int(row.argmax())].tolist()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    arrays = {}
    for name in ("clip_text_prompt.npz", "nada_direction.npz"):
        with np.load(GOLDEN / name, allow_pickle=False) as file:
            arrays |= {k: file[k] for k in file.files if file[k].dtype.kind in "fi"}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def recorded_encoder(recorded) -> ClipEncoder:
    open_clip.add_model_config(GOLDEN / "air-tiny-quickgelu.json")
    encoder = ClipEncoder.openai("air-tiny", GOLDEN / "clip_air_tiny.safetensors")
    names = ("src", "tgt")
    encoder.tokenizer = RecordedTokens(
        {f"{CONTEXT} {name}": recorded[f"air_tokens_{name}"] for name in names}
    )
    return encoder


@pytest.mark.parametrize("mixing", ["label", "all_positions"])
def test_interpolated_prompt_equals_the_recording(recorded, recorded_encoder, mixing):
    """The recorded labels have one token each, where both mixings agree."""
    progress = float(recorded["air_interp_p"])
    prompt = interpolated_prompt(recorded_encoder, "src", "tgt", progress, mixing)
    expected = unit(recorded["air_interp_features"])
    actual = recorded_encoder.embed_prompt(*prompt)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_adaptive_loss_equals_the_recording(recorded):
    objective = air()
    objective.chain.targets = [recorded["air/target_text_feature"][0]]
    objective.point_at_target([recorded["air/anchor_prompt_feature"][0]])
    offsets = recorded["trg_img"] - recorded["air/anchor_img"]
    loss = directional_loss(offsets, objective.directions[0])
    torch.testing.assert_close(loss, recorded["air/adaptive_loss"], atol=1e-6, rtol=0)


def test_prompt_starts_at_the_recorded_alignment_loss(recorded, recorded_encoder):
    """No steps: the loss of the interpolated prompt itself, from the definition."""
    direction = unit((recorded["air/anchor_img"] - recorded["src_img"]).mean(dim=0))
    previous = recorded["air/anchor_prompt_feature"][0]
    feature, loss = learn_prompt(
        recorded_encoder, "src", "tgt", float(recorded["air_interp_p"]), direction, previous,
        PromptConfig(steps=0, mixing="all_positions"),
    )  # fmt: skip
    expected = unit(recorded["air_interp_features"])[0]
    torch.testing.assert_close(feature, expected, atol=1e-6, rtol=0)
    assert loss == pytest.approx(1 - float(unit(expected - previous) @ direction), abs=1e-6)


def test_mean_direction_by_hand():
    previous = torch.zeros(3, 2)
    images = torch.tensor([[4.0, 0.0], [0.0, 0.5], [0.0, 0.0]])  # the third pair did not move
    expected = torch.tensor([1.0, 1.0]) / math.sqrt(2)
    torch.testing.assert_close(mean_direction_of(images, previous), expected)


def test_learning_lowers_the_alignment_loss():
    previous = ENCODER.embed_text([f"{CONTEXT} human"])[0]
    direction = unit(torch.randn(32, generator=rng(0)))
    arguments = (ENCODER, "human", "dog", 0.3, direction, previous)
    results = [
        learn_prompt(*arguments, PromptConfig(steps, learning_rate=0.01)) for steps in (0, 20, 100)
    ]
    assert results[0][1] > results[1][1] + 0.01 > results[2][1] + 0.02
    for feature, loss in results:
        expected = 1 - F.cosine_similarity(feature - previous, direction, dim=0)
        assert loss == pytest.approx(float(expected), abs=1e-6)
        assert not feature.requires_grad


@pytest.mark.parametrize("tokens", [4, 2])
def test_only_the_context_of_the_prompt_moves(tokens):
    seen: list[torch.Tensor] = []
    position = ENCODER.model.positional_embedding
    hook = ENCODER.model.transformer.register_forward_pre_hook(
        lambda _m, x: seen.append(x[0].detach()[0] - position[: x[0].shape[1]])
    )
    previous = unit(torch.randn(32, generator=rng(1)))
    config = PromptConfig(steps=5, tokens=tokens)
    learn_prompt(ENCODER, "human", "dog", 0.3, unit(torch.ones(32)), previous, config)
    hook.remove()
    start, _ = interpolated_prompt(ENCODER, "human", "dog", 0.3, "label")
    torch.testing.assert_close(seen[0], start[0])
    assert len(seen) == 6  # five steps and the final feature
    moved = (seen[-1] - seen[0]).abs().amax(dim=1) > 1e-4
    assert moved.nonzero().flatten().tolist() == list(range(1, 1 + tokens))
    assert torch.equal(seen[-1][~moved], seen[0][~moved])


# --- anchors -------------------------------------------------------------------------------------


def counting(module: torch.nn.Module, counter: list[int]):
    """A hook that writes down the batch size of every call; deep copies of the module keep it."""
    return module.register_forward_pre_hook(lambda _m, inputs: counter.append(len(inputs[0])))


@pytest.mark.parametrize(
    ("start", "taken", "steps_with_anchor"), [("t_int", 3, 4), ("t_thresh", 2, 4)]
)
def test_every_image_is_made_and_embedded_once(start, taken, steps_with_anchor):
    """N pairs and A anchors: (A + 1) N images, since a bank is the next anchor's "previous"."""
    generator, encoder = small_generator(), small_encoder()
    space = ClipSpace([(encoder, 1.0)])
    numbers = AIRConfig(0.5, 0.25, prompt_pairs=PAIRS, prompt_steps=PROMPT_STEPS, chain_start=start)
    objective = air(numbers, space)
    made, embedded, read = [], [], []
    counting(generator, made)
    counting(encoder.model.visual, embedded)
    counting(encoder.model.transformer, read)
    result = adapt(generator, space, objective, synthesis(), CONFIG)
    assert len(anchors(result)) == taken
    batch, steps = CONFIG.batch, CONFIG.steps
    pairs = (taken + 1) * PAIRS
    images = pairs + 2 * batch * steps + batch * steps_with_anchor
    assert sum(made) == images + 2 * batch  # the guard looks at what the last step left
    coincidences = 1 + len([s for s in numbers.anchor_steps(steps) if s >= 4])
    assert sum(embedded) == images + batch * coincidences
    assert sum(read) == taken * (PROMPT_STEPS + 1)  # one copy of the prompt; texts were cached


def test_a_run_takes_at_most_a_quarter_of_the_evaluations_of_the_official_script():
    """Its human -> baby: 200 updates of batch 2, anchors every 20 of them, used from the 100th on,
    1,000 pairs and 200 prompt steps. Per forward pass of one image or sentence it does:

    updates    200 x (2 source + 2 adapted) images; 100 x 2 of the anchor, for which the adapted
               ones are encoded again
    selection  200 x 8 images and the target sentence, although all layers are chosen
    log        every 5 updates, the start included, 41 x (50 + 50) images
    anchors    20, 40, ... 200: 10 x 2,000 images, encoded twice; prompts of the 5 from 100 to 180
               that are used, with five equal copies of each
    pictures   160 in grids and 4 x 500 for evaluation, none encoded (counted for generators only)
    """
    made_there = 200 * 4 + 100 * 2 + 200 * 8 + 41 * 100 + 10 * 2000
    encoded_there = 200 * 4 + 100 * 4 + 200 * 8 + 41 * 100 + 2 * 10 * 2000
    read_there = 200 + 5 * 200 * 5
    assert (made_there, encoded_there, read_there) == (26_700, 46_900, 5_200)

    generator, encoder = small_generator(), small_encoder()
    space, made, embedded, read = ClipSpace([(encoder, 1.0)]), [], [], []
    counting(generator, made)
    counting(encoder.model.visual, embedded)
    counting(encoder.model.transformer, read)
    numbers = AIRConfig(0.5, 0.1, prompt_pairs=1000, prompt_steps=200, chain_start="t_thresh")
    config = AdaptationConfig(steps=200, batch=2, noise="independent")
    result = adapt(generator, space, air(numbers, space), synthesis(), config)
    assert [anchor["step"] for anchor in anchors(result)] == [100, 120, 140, 160, 180]
    assert sum(made) <= (made_there + 160 + 4 * 500) / 4
    assert sum(embedded) <= encoded_there / 4 and sum(read) <= read_there / 4
    assert sum(made) + sum(embedded) <= (made_there + encoded_there) / 4


def test_pair_banks_share_latents_and_noise_and_follow_the_seed():
    objective = air()
    (bank,) = objective.chain.embed(SOURCE)
    assert bank.shape == (PAIRS, 32)
    assert torch.equal(bank, objective.chain.embed(SOURCE.copy_frozen())[0])
    assert len({tuple(row.tolist()) for row in bank}) == PAIRS
    other = AIR(SPACE, "human", "dog", NUMBERS, seed=1)
    assert not torch.equal(bank, other.chain.embed(SOURCE)[0])


def test_at_an_anchor_step_the_loss_is_finite_and_has_a_gradient():
    """The anchor equals the adapted generator then, so their offset is zero."""
    objective, adapted = air(), small_generator(seed=3)
    const = adapted.synthesis.b4.const.requires_grad_(True)
    latents = SOURCE.sample_latents(2, rng(0))
    step = Step(4, 8, 0, SOURCE, adapted, SPACE, latents, 0, "shared")
    terms = objective(step)
    anchor_images = objective.anchor(latents, step.noise("anchor"))
    assert torch.equal(anchor_images, step.adapted_images)
    assert math.isfinite(terms["adaptive"].item()) and terms["adaptive"].item() != 1
    (gradient,) = torch.autograd.grad(terms["adaptive"], const)
    assert gradient.isfinite().all() and gradient.abs().max() > 1e-6


def test_the_anchor_stands_still_while_the_generator_moves():
    objective, kept = air(), []

    def watch(index: int, adapted: torch.nn.Module) -> None:
        const = adapted.synthesis.b4.const.detach().clone()
        anchor = objective.anchor and objective.anchor.synthesis.b4.const.clone()
        kept.append((const, anchor))

    adapted_by(objective, on_step=watch)
    assert kept[0][1] is kept[1][1] is kept[2][1] is None
    for anchor_step in (2, 4, 6):  # before steps 3 and 4 the anchor is the generator before step 2
        for later in (anchor_step + 1, anchor_step + 2):
            assert torch.equal(kept[later][1], kept[anchor_step][0])
            assert not torch.equal(kept[later][0], kept[anchor_step][0])


def test_direction_of_the_adaptive_loss_leads_from_the_learnt_prompt_to_the_target():
    objective = air()
    result = adapted_by(objective)
    target = ENCODER.embed_text([f"{CONTEXT} dog"])[0]
    expected = unit(target - objective.chain.prompts[0])
    torch.testing.assert_close(objective.directions[0], expected)
    last = anchors(result)[-1]
    torch.testing.assert_close(
        torch.tensor(last["prompt"][0]), objective.chain.prompts[0], atol=1e-6, rtol=0
    )


def test_events_describe_every_anchor():
    objective = AIR(ClipSpace([(ENCODER, 1.0), (small_encoder(1), 0.5)]), "human", "dog", NUMBERS)
    result = adapt(SOURCE, objective.space, objective, synthesis(), CONFIG)
    assert [event["step"] for event in anchors(result)] == [2, 4, 6]
    for event in anchors(result):
        assert set(event) == {
            "event", "step", "prompt_loss", "cos_with_text_direction", "image_mean", "prompt",
        }  # fmt: skip
        for name, length in (("image_mean", 32), ("prompt", 32)):
            assert [len(vector) for vector in event[name]] == [length, length]
        assert len(event["prompt_loss"]) == 2 and all(0 <= v <= 2 for v in event["prompt_loss"])
        assert all(-1 <= v <= 1 for v in event["cos_with_text_direction"])
        assert all(abs(np.linalg.norm(vector) - 1) < 1e-4 for vector in event["prompt"])
        assert all(0 < np.linalg.norm(vector) <= 1 + 1e-4 for vector in event["image_mean"])
    means = [pairs.mean(dim=0) for pairs in objective.chain.images]
    for mean, logged in zip(means, anchors(result)[-1]["image_mean"], strict=True):
        torch.testing.assert_close(torch.tensor(logged), mean, atol=1e-6, rtol=0)
    assert objective.events() == []  # handed over once


# --- other ways to a prompt (table 4) ------------------------------------------------------------


def learning_from(learn_from: str) -> AIRConfig:
    return AIRConfig(
        0.5, 0.25, prompt_pairs=PAIRS, prompt_steps=PROMPT_STEPS, learn_from=learn_from
    )  # fmt: skip


@pytest.mark.parametrize("learn_from", ["previous", "source"])
def test_offsets_start_at_the_last_anchor_or_at_the_source(learn_from):
    """The loss that is logged, from what was logged of the anchors: steps 2, 4 and 6."""
    objective, banks = air(learning_from(learn_from)), []

    def watch(index: int, adapted: torch.nn.Module) -> None:
        if index in (0, 2, 4, 6):  # anchors are taken in a moment
            banks.append(objective.chain.embed(adapted)[0])

    log = anchors(adapted_by(objective, on_step=watch))
    texts = [ENCODER.embed_text([f"{CONTEXT} human"])[0]]
    texts += [torch.tensor(event["prompt"][0]) for event in log]
    assert len(log) == 3
    for number, event in enumerate(log, start=1):
        before = number - 1 if learn_from == "previous" else 0
        direction = mean_direction_of(banks[number], banks[before])
        loss = 1 - F.cosine_similarity(texts[number] - texts[before], direction, dim=0)
        assert event["prompt_loss"][0] == pytest.approx(float(loss), abs=1e-4)


def test_a_prompt_of_images_is_learnt_without_any_offset():
    """It is the mean of the prompts of the anchor's images, which find their image better."""
    codes = SOURCE.sample_latents(PAIRS, rng(0))[:, 0]
    objective = air(learning_from("images"))
    (images,) = objective.chain.embed(SOURCE)
    prompt = interpolated_prompt(ENCODER, "human", "dog", 0.5, "label")
    found = [
        learn_image_prompt(ENCODER, prompt, codes, images, PromptConfig(steps=n), seed=0)
        for n in (0, 60)
    ]
    assert found[1][1] < found[0][1]
    for feature, _ in found:
        assert feature.norm().item() == pytest.approx(1, abs=1e-5) and not feature.requires_grad
    log = anchors(adapted_by(objective))
    assert [event["step"] for event in log] == [2, 4, 6]
    expected = unit(ENCODER.embed_text([f"{CONTEXT} dog"])[0] - objective.chain.prompts[0])
    torch.testing.assert_close(objective.directions[0], expected)


@pytest.mark.parametrize("learn_from", ["source", "images"])
def test_a_stopped_run_of_an_ablation_continues_bit_for_bit(tmp_path, learn_from):
    def stop(index: int, _adapted: torch.nn.Module) -> None:
        if index == 5:
            raise RuntimeError

    config = AdaptationConfig(steps=8, learning_rate=0.01, checkpoint_every=1)
    whole = adapted_by(air(learning_from(learn_from)), config)
    with pytest.raises(RuntimeError):
        adapted_by(air(learning_from(learn_from)), config, directory=tmp_path, on_step=stop)
    again = adapted_by(air(learning_from(learn_from)), config, directory=tmp_path)
    assert again.log == whole.log
    assert all(torch.equal(value, again.tensors[name]) for name, value in whole.tensors.items())


def test_an_unknown_way_is_refused():
    with pytest.raises(AirlibError, match="choose from previous, source, images"):
        AIRConfig(learn_from="target")


def test_the_adaptive_term_can_be_weighted():
    weighted = AdaptationConfig(steps=8, learning_rate=0.01, weights={"adaptive": 0.0})
    without = adapted_by(air(), weighted)
    nada = adapted_by(NADA(SPACE, "human", "dog"))
    assert all(torch.equal(value, nada.tensors[name]) for name, value in without.tensors.items())
