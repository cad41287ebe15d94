"""Stop advice: the rule on curves made by hand, and the curve of a tiny run."""

import json
import math

import pytest
import torch
from small_networks import small_generator, small_space

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.errors import AirlibError
from airlib.methods.nada import NADA
from airlib.methods.regularizers import InDomainAngle
from airlib.parameterizations.stylegan2 import synthesis
from airlib.seeding import rng
from airlib.studies.stopping import Curve, Point, advice, class_embeddings, total_losses

SOURCE, SPACE = small_generator(), small_space()
ENCODER = SPACE.encoders[0]
LATENTS = SOURCE.sample_latents(6, rng(0, "curve"))


def curve_of(probabilities: list[float], diversities: list[float]) -> list[Point]:
    numbers = zip(probabilities, diversities, strict=True)
    return [Point(10 * i, p, d) for i, (p, d) in enumerate(numbers)]


def run(curve: Curve, steps: int = 12, **options) -> Adaptation:
    config = AdaptationConfig(steps=steps, learning_rate=0.02, checkpoint_every=1)
    objective = NADA(SPACE, "human", "dog")
    return adapt(SOURCE, SPACE, objective, synthesis(), config, on_step=curve, **options)


# --- the rule ------------------------------------------------------------------------------------


def test_the_first_point_of_the_plateau_where_diversity_lasts():
    """0.1 + 0.95 (0.9 - 0.1) = 0.86: 0.85 is not enough and 0.87 is."""
    found = advice(curve_of([0.1, 0.5, 0.85, 0.87, 0.9, 0.89, 0.9], [1.0] * 7), "dog")
    assert found.step == 30
    assert 'the probability of "dog" reaches 0.87, 96% of its rise from 0.10 to 0.90' in found.why


def test_earlier_where_diversity_falls_more_than_the_probability_rises():
    """g = 0, .5, .75, 1 and g + d = 1, 1.4, 1.15, 1.1."""
    found = advice(curve_of([0.1, 0.5, 0.7, 0.9], [1.0, 0.9, 0.4, 0.1]), "dog")
    assert found.step == 10
    assert "after it diversity falls more" in found.why
    assert "it is 0.50 here and 0.90 at best" in found.why
    assert "90% of the source's here and 10% there" in found.why


def test_a_slow_start_is_not_taken_for_the_end():
    """Before the probability moves, diversity alone falls; the sum over the run decides."""
    found = advice(curve_of([0.1, 0.1, 0.11, 0.8, 0.9], [1.0, 0.97, 0.95, 0.9, 0.89]), "dog")
    assert found.step == 40


def test_later_collapse_does_not_change_the_advice():
    rising = ([0.1, 0.6, 0.9, 0.91, 0.91], [1.0, 0.95, 0.9, 0.9, 0.9])
    collapsing = ([0.1, 0.6, 0.9, 0.91, 0.91], [1.0, 0.95, 0.9, 0.5, 0.1])
    assert advice(curve_of(*rising), "dog") == advice(curve_of(*collapsing), "dog")


def test_the_advice_does_not_depend_on_where_the_probability_lies():
    """Only its shape counts: p -> a p + b moves no step."""
    p = torch.rand(20, generator=rng(1)).cumsum(0)
    d = 1 - torch.rand(20, generator=rng(2)).cumsum(0) / 15
    steps = {
        advice(curve_of((low + (high - low) * p / p.max()).tolist(), d.tolist()), "dog").step
        for low, high in ((0.0, 1.0), (0.4, 0.6), (0.1, 0.95))
    }
    assert len(steps) == 1


def test_a_rise_that_lasts_to_the_end_is_said():
    rising = [0.1 * k for k in range(8)]
    assert advice(curve_of(rising, [1.0] * 8), "dog").why.endswith("further in a longer run")
    flat = rising + [0.7] * 8
    assert "longer run" not in advice(curve_of(flat, [1.0] * 16), "dog").why


@pytest.mark.parametrize("p", [[0.2], [0.5, 0.4, 0.1], [0.97, 0.99, 0.98], [0.3, 0.33, 0.34]])
def test_a_probability_that_does_not_rise_gives_no_step(p):
    found = advice(curve_of(p, [1.0] * len(p)), "dog")
    assert found.step is None
    assert f"has not risen ({p[0]:.2f} at first, {max(p):.2f} at best)" in found.why


# --- the curve -----------------------------------------------------------------------------------


def test_a_point_is_what_the_formulas_say():
    curve = Curve(SPACE, "dog", "human", LATENTS, every=4)
    moved = run(curve).apply(SOURCE)
    target, source = class_embeddings(ENCODER, ["dog", "human"], ["a {}.", "the {}."])
    two = Curve(SPACE, "dog", "human", LATENTS, templates=["a {}.", "the {}."])
    for step, generator in ((0, SOURCE), (5, moved)):
        two(step, generator)
    scale = float(ENCODER.model.logit_scale.exp())
    x, start = (ENCODER.embed_images(g(LATENTS)) for g in (moved, SOURCE))
    odds = [math.exp(scale * float(v @ source - v @ target)) for v in x]
    assert two.points[1].probability == pytest.approx(sum(1 / (1 + o) for o in odds) / 6, rel=1e-4)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    spread, first = (sum(1 - float(e[i] @ e[j]) for i, j in pairs) for e in (x, start))
    assert two.points[1].diversity == pytest.approx(spread / first, rel=1e-3)
    assert two.points[0].diversity == 1


def test_class_embeddings_are_the_zero_shot_classifier_of_clip():
    texts = ENCODER.embed_text(["a dog.", "the dog."])
    mean = (texts[0] + texts[1]) / 2
    found = class_embeddings(ENCODER, ["dog"], ["a {}.", "the {}."])[0]
    torch.testing.assert_close(found, mean / mean.norm())


@pytest.mark.slow  # draws many images
def test_a_curve_is_repeatable_and_leaves_the_run_alone():
    curves = [Curve(SPACE, "dog", "human", LATENTS, every=3) for _ in range(2)]
    results = [run(curve) for curve in curves]
    assert [point.step for point in curves[0].points] == [0, 3, 6, 9, 12]
    assert curves[0].points == curves[1].points and curves[0].advice() == curves[1].advice()
    assert len({point.probability for point in curves[0].points}) == 5
    plain = run(lambda *_: None)
    assert all(torch.equal(value, plain.tensors[k]) for k, value in results[0].tensors.items())


def test_a_new_run_begins_a_new_curve():
    curve, once = (Curve(SPACE, "dog", "human", LATENTS, every=2) for _ in range(2))
    run(curve, steps=6)
    run(curve, steps=2)
    run(once, steps=2)
    assert curve.points == once.points


def test_a_continued_run_goes_on_and_its_curve_says_what_is_missing(tmp_path):
    run(lambda *_: None, steps=2, directory=tmp_path)
    curve = Curve(SPACE, "dog", "human", LATENTS, every=2)
    run(curve, steps=2, directory=tmp_path)
    with pytest.raises(AirlibError, match="begins at step 2, as the run was continued"):
        curve.advice()
    with pytest.raises(AirlibError, match="pass it to a run as on_step"):
        Curve(SPACE, "dog", "human", LATENTS).advice()


def test_losses_are_those_that_were_minimised():
    curve = Curve(SPACE, "dog", "human", LATENTS, every=2)
    config = AdaptationConfig(steps=4, learning_rate=0.02, weights={"direction": 3.0})
    angle, objective = InDomainAngle(0.5), NADA(SPACE, "human", "dog")
    result = adapt(SOURCE, SPACE, objective, synthesis(), config, None, None, curve, [angle])
    expected = [3.0 * e["direction"] + 0.5 * e["in_domain_angle"] for e in result.log]
    assert list(total_losses(result).values()) == pytest.approx(expected)
    rows = curve.rows(result)
    means = [(expected[0] + expected[1]) / 2, (expected[2] + expected[3]) / 2]
    assert [row["loss"] for row in rows[:2]] == pytest.approx(means) and rows[2]["loss"] is None
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_too_little_to_follow_is_refused():
    for latents, every in ((LATENTS[:1], 5), (LATENTS, 0)):
        with pytest.raises(AirlibError, match="at least 2 latents, and every >= 1"):
            Curve(SPACE, "dog", "human", latents, every=every)
    curve = Curve(SPACE, "dog", "human", LATENTS[:1].repeat(3, 1, 1))
    run(curve, steps=1)
    with pytest.raises(AirlibError, match="the same image for all latents"):
        curve.advice()
