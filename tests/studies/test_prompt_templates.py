"""Study 2: the misalignment of a prompt by hand, planted associations, and its runs."""

import math
from dataclasses import replace

import pytest
import torch

from airlib.clip_space.templates import NADA_TEMPLATES, templates_of
from airlib.errors import AirlibError
from airlib.experiments.plan import read_plan
from airlib.experiments.runs import Run
from airlib.experiments.sweep import sweep
from airlib.profiles import load_profile
from airlib.results import Metric
from airlib.seeding import rng
from airlib.studies.misalignment.offsets import spearman
from airlib.studies.prompt_templates import (
    ENSEMBLE,
    KIND_STYLES,
    KINDS,
    PAPER,
    TEMPLATES,
    Association,
    associate,
    offset_misalignment,
    pearson,
    spread,
)
from airlib.studies.template_runs import (
    OUTCOMES,
    matrix,
    misalignments,
    options_of,
    over_seeds,
    template_of,
    tried,
)
from airlib.worlds import open_world

QUICK = {
    "evaluation.samples": 20,
    "evaluation.references": 30,
    "methods.nada.steps": 2,
    "methods.nada.batch": 2,
}
WORDINGS = ["a {}", "a {} or a rabbit"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed, "test"), dtype=torch.float64)


# -- M -----------------------------------------------------------------------------------------
def test_parallel_offsets_are_aligned_and_opposite_ones_are_not():
    image = normal(8)
    texts = torch.stack([image, 3 * image, -image])
    assert offset_misalignment(image, texts).tolist() == pytest.approx([0, 0, 2], abs=1e-12)


def test_misalignment_by_hand():
    image, texts = torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-4.0, 3.0]])
    assert offset_misalignment(image, texts).tolist() == pytest.approx([1 - 0.6, 1 - 0.8, 1.0])


def test_lengths_and_a_common_rotation_do_not_matter():
    image, texts, turn = normal(6), normal(5, 6, seed=1), torch.linalg.qr(normal(6, 6, seed=2)).Q
    found = offset_misalignment(image, texts)
    scaled = offset_misalignment(0.01 * image, 100 * texts)
    torch.testing.assert_close(scaled, found)
    torch.testing.assert_close(offset_misalignment(image @ turn, texts @ turn), found)


@pytest.mark.parametrize(("image", "texts"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_an_offset_without_direction_is_refused(image, texts):
    with pytest.raises(AirlibError, match="no direction"):
        offset_misalignment(torch.full((4,), image), torch.full((2, 4), texts))


# -- association -------------------------------------------------------------------------------
@pytest.mark.slow  # resamples thousands of times
def test_a_planted_association_is_found_and_its_sign_kept():
    x = normal(2, 28)
    y = 5 * x + 0.3 * normal(2, 28, seed=1) + torch.tensor([[100.0], [-100.0]])
    for correlation in (spearman, pearson):
        found = associate(x, y, correlation, rng(0), 300)
        low, high = found.interval
        assert found.value > 0.9 and low > 0.8 and low <= found.value <= high
        assert found.p_value == pytest.approx(1 / 301)
        assert found.is_positive and found.verdict == "held" and found.templates == 28
        against = associate(x, -y, correlation, rng(0), 300)
        assert against.value == pytest.approx(-found.value)
        assert not against.is_positive and "opposite" in against.verdict


@pytest.mark.slow  # resamples thousands of times
def test_nothing_is_found_where_nothing_is():
    """P-values of unrelated tables are uniform: of 40 about two are at most .05."""
    p_values = [
        associate(normal(1, 12, seed=s), normal(1, 12, seed=100 + s), pearson, rng(s), 99).p_value
        for s in range(40)
    ]
    assert sum(p <= 0.05 for p in p_values) <= 6
    assert 0.35 < sum(p_values) / 40 < 0.65


def test_association_of_three_templates_by_hand():
    x, y = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 30.0, 20.0]])
    assert associate(x, y, spearman, rng(0), 200).value == pytest.approx(0.5)
    # deviations (-4, -1, 5) / 3 and (-10, 10, 0): 30 / 3 over sqrt(42) / 3 * sqrt(200)
    found = associate(x, y, pearson, rng(0), 200)
    assert found.value == pytest.approx(30 / math.sqrt(42 * 200))
    assert found.p_value > 0.05 and "no sure" in found.verdict


def test_pairs_count_alike_whatever_their_scale():
    x = normal(1, 10)
    y = torch.cat([x, 1000 * normal(1, 10, seed=1)])
    both = associate(x.repeat(2, 1), y, pearson, rng(0), 50).value
    alone = associate(x, y[1:], pearson, rng(0), 50).value
    assert both == pytest.approx((1 + alone) / 2)


@pytest.mark.slow  # resamples thousands of times
def test_a_common_shuffle_of_pairs_that_agree_is_no_evidence_for_more():
    """Two copies of one pair say no more than one: the null exchanges templates, not cells."""
    x, y = normal(1, 8), normal(1, 8, seed=3)
    once = associate(x, y, spearman, rng(0), 400)
    twice = associate(x.repeat(2, 1), y.repeat(2, 1), spearman, rng(0), 400)
    assert twice.value == pytest.approx(once.value) and twice.p_value == once.p_value
    assert twice.interval == pytest.approx(once.interval)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.ones(1, 5), normal(1, 5), "same for all"),
        (normal(1, 2), normal(1, 2), "at least 3"),
        (normal(2, 5), normal(1, 5), "two values"),
        (normal(5), normal(5), "two values"),
    ],
)
def test_what_cannot_be_associated_is_refused(x, y, words):
    with pytest.raises(AirlibError, match=words):
        associate(x, y, spearman, rng(0))


def test_a_verdict_needs_both_the_interval_and_the_p_value():
    assert Association(0.5, (0.1, 0.8), 0.01, 28).is_positive
    assert not Association(0.5, (-0.1, 0.8), 0.01, 28).is_positive
    assert not Association(0.5, (0.1, 0.8), 0.2, 28).is_positive


def test_spread_takes_the_ends_and_all_if_all_are_wanted():
    values = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert spread(values, 3) == [1, 4, 0]
    assert sorted(spread(values, 9)) == [0, 1, 2, 3, 4]


# -- data --------------------------------------------------------------------------------------
def test_the_study_has_as_many_templates_as_the_papers():
    assert len(KINDS) == sum(map(len, TEMPLATES.values())) == PAPER["templates"]
    assert TEMPLATES.keys() == KIND_STYLES.keys()
    assert all(templates_of(template) == (template,) for template in KINDS)
    assert set(TEMPLATES["camera"] + TEMPLATES["style"]) <= set(NADA_TEMPLATES)
    for profile in ("tiny", "paper"):
        assert set(PAPER["pairs"]) <= set(load_profile(profile).pairs)
    assert (
        load_profile("paper").pairs["dog-cat"].steps == PAPER["settings"]["dog-cat"]["iterations"]
    )


@pytest.mark.parametrize("name", ["nada80", "a photo", "a {} and a {}", "a {x} and {}", "{"])
def test_what_is_no_template_is_refused(name):
    with pytest.raises(AirlibError, match="unknown templates"):
        templates_of(name)


# -- runs --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world():
    return open_world(load_profile("tiny", QUICK), "human")


def test_the_plan_has_every_template_on_the_pairs_of_the_paper():
    plan = read_plan("templates")
    assert plan.options == {"templates": [*KINDS, ENSEMBLE]} and plan.methods == ("nada",)
    assert list(plan.pairs) == PAPER["pairs"]


@pytest.mark.slow  # adapts
def test_a_run_is_nada_with_that_template_scored_like_any_other(world, tmp_path):
    quick, template = load_profile("tiny", QUICK), WORDINGS[1]
    [run] = sweep(quick, ["nada"], ["human-baby"], [0], tmp_path, 1, rows=(),
                  options=options_of([template]))  # fmt: skip
    assert template_of(run) == template
    expected = world.adapt("nada", "human-baby", 0, templates=template)
    found = run.adaptation()
    assert found.log == expected.log
    assert all(torch.equal(found.tensors[name], t) for name, t in expected.tensors.items())
    images = world.batches(expected.apply(world.generator), 20)
    scores = {m.name: m.value for m in world.score(images, "human-baby", "nada", 0)}
    for name in OUTCOMES:
        assert run.value(name) == pytest.approx(scores[name], rel=1e-5)


def test_misalignment_of_a_prompt_is_that_of_its_offsets(world):
    encoder, latents = world.space.encoders[0], world.z(20)
    with torch.no_grad():
        source = encoder.embed_images(world.generator(world.generator.map(latents)))
        target = world.reference("human-baby").clip
        for template, found in zip(
            WORDINGS, misalignments(world, "human-baby", WORDINGS).tolist(), strict=True
        ):
            a, b = encoder.embed_text([template.format("human"), template.format("baby")])
            expected = 1 - torch.cosine_similarity(target.mean(0) - source.mean(0), b - a, dim=0)
            assert found == pytest.approx(expected.item(), abs=1e-5)


def run_of(template: str, pair: str, seed: int, value: float) -> Run:
    run = Run(pair, "nada", seed, options=(("templates", template),))
    return replace(run, metrics=(Metric("m", value, 1, None, "by hand", pair, run.label, seed),))


def test_tables_of_runs_are_means_over_seeds_of_templates_tried_everywhere():
    runs = [run_of("x {}", "a", seed, value) for seed, value in enumerate((1.0, 4.0))]
    runs += [run_of("y {}", "a", 0, 7.0), run_of("x {}", "b", 0, 0.0)]
    runs += [run_of(ENSEMBLE, pair, 0, 9.0) for pair in "ab"]
    assert tried(runs, ["a"]) == ["x {}", "y {}"] and tried(runs, ["a", "b"]) == ["x {}"]
    assert over_seeds(runs, "a", ["y {}", "x {}"], "m") == [[7.0], [1.0, 4.0]]
    assert matrix(runs, ["a", "b"], ["x {}"], "m").tolist() == [[2.5], [0.0]]


def test_what_is_no_template_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(AirlibError, match="unknown templates 'a photo'"):
        sweep("tiny", ["nada"], ["human-baby"], [0], tmp_path, 1,
              options=options_of(["a {}", "a photo"]))  # fmt: skip
    assert not list(tmp_path.iterdir())
