"""`check-tiny`: the shipped weights are as good as their records claim, and a false claim shows."""

import json

import pytest

from airlib.errors import AirlibError
from airlib.studies.check_tiny import NETWORKS, SECOND_SEEDS, check_tiny, compare, load_record

pytestmark = pytest.mark.slow  # measures every shipped network


def test_shipped_weights_are_what_their_records_say():
    measured = check_tiny(quick=True)
    claimed = [name for network in NETWORKS for name in load_record(network)["metrics"]]
    left_out = set(claimed) - set(measured)
    exam = {name for name in claimed if "_exam_" in name or "_disguise" in name}
    samples = {name for name in claimed if name.startswith("diffusion_") and "_fd_ratio_" in name}
    assert left_out == exam | samples
    assert len(exam) == 2 * 8 and len(samples) == 2 * 2  # two judges; two sources
    ratios = set(measured) - set(claimed)
    assert ratios == {"stylegan2_human_fd_ratio", "stylegan2_human_fd_ratio_vit"}
    # On both judges at most a tenth of the distance from adults to babies.
    assert all(measured[name] <= 0.1 for name in ratios)


def test_the_shipped_networks_reach_what_the_tables_rely_on():
    claims = {k: v for name in NETWORKS for k, v in load_record(name)["metrics"].items()}
    for species in ("human", "dog"):
        assert claims[f"stylegan2_{species}_l1"] <= 0.065
        assert claims[f"stylegan2_{species}_sharpness"] >= 0.80
    goals = {"species": 0.90, "style": 0.95, "age": 0.85}
    assert all(claims[f"clip_zero_shot_{name}"] >= goal for name, goal in goals.items())
    assert claims["judge_exam_passed"] == 1 and claims["judge_vit_exam_passed"] > 0.95


@pytest.mark.parametrize("name", SECOND_SEEDS)
def test_a_second_seed_is_nearly_as_good(name):
    first, second = load_record(name), load_record(f"{name}-1")
    assert (first["seed"], second["seed"]) == (0, 1) and first["steps"] == second["steps"]
    assert first["metrics"].keys() == second["metrics"].keys()
    assert all(abs(first["metrics"][k] - v) < 0.05 for k, v in second["metrics"].items())


@pytest.mark.parametrize("measured", [{"a": 0.5, "b": 0.869}, {"a": 0.5}, {"a": 0.5, "b": 0.931}])
def test_a_false_claim_is_named(measured):
    with pytest.raises(AirlibError, match="b is .*, recorded as 0.900") as caught:
        compare({"a": 0.5, "b": 0.9}, measured)
    assert "a is" not in str(caught.value)


def test_rounding_and_unclaimed_values_are_accepted():
    compare({"a": 0.5}, {"a": 0.529, "b": 7.0})
    compare({"a": 0.5}, {"a": 0.471})


@pytest.mark.parametrize("text", [None, "{", "[]", json.dumps({"seed": 0, "metrics": {}})])
def test_a_missing_or_damaged_record_says_what_to_do(tmp_path, text):
    if text is not None:
        (tmp_path / "clip.json").write_text(text)
    with pytest.raises(AirlibError, match="airlib train-tiny clip"):
        load_record("clip", tmp_path)
