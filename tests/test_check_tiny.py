"""`check-tiny`: the shipped weights are as good as their records claim, and a false claim shows."""

import json

import pytest

from airlib.errors import AirlibError
from airlib.tinyworld.check import NETWORKS, check_tiny, compare, load_record


def test_shipped_weights_are_what_their_records_say():
    measured = check_tiny(quick=True)
    claimed = [name for network in NETWORKS for name in load_record(network)["metrics"]]
    left_out = set(claimed) - set(measured)
    assert all(name.startswith(("judge_exam", "judge_disguise")) for name in left_out)
    assert set(measured) - set(claimed) == {"stylegan2_human_fd_ratio"}
    assert measured["stylegan2_human_fd_ratio"] < 1  # nearer to its domain than babies are


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
