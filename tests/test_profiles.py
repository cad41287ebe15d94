"""Profiles: the same entries in both, read-only, and every wrong override refused."""

import copy
import json
import pickle
import re
from importlib import resources

import pytest

from airlib.errors import AirlibError
from airlib.profiles import Profile, load_profile, profile_names

ROLES = {"table", "development", "unseen"}


def shape(value):
    """The names and types of a profile, without its numbers."""
    if isinstance(value, Profile):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [type(entry).__name__ for entry in value]
    return type(value).__name__


def test_profiles_differ_in_numbers_only():
    tiny, paper = load_profile("tiny"), load_profile("paper")
    for table in ("notebooks", "world", "evaluation", "methods", "arms", "hypernetwork"):
        assert shape(tiny[table]) == shape(paper[table])
    one_shot = [shape(profile.one_shot) | {"pairs": ...} for profile in (tiny, paper)]
    assert one_shot[0] == one_shot[1]
    assert all(set(profile.one_shot.pairs) <= set(profile.pairs) for profile in (tiny, paper))
    required = {"source", "source_class", "target_class", "target", "role"}
    for profile in (tiny, paper):
        for pair in profile.pairs.values():
            assert required <= set(pair) <= required | {"steps"}
            assert pair.role.removeprefix("diffusion-") in ROLES


def test_air_extends_nada():
    for name in profile_names():
        methods = load_profile(name).methods
        assert dict(methods.nada).items() <= dict(methods.air).items()


def test_every_number_of_the_paper_profile_has_a_source():
    text = resources.files("airlib.profiles").joinpath("paper.toml").read_text()
    lines = re.findall(r"^(\w+) = .*$", text, flags=re.MULTILINE)
    stated = re.findall(r"^(\w+) = .*  # \S+", text, flags=re.MULTILINE)
    assert set(lines) - set(stated) == {"target", "role"}  # names of ours
    assert len(stated) == len([line for line in lines if line not in {"target", "role"}])


def test_entries_by_item_and_by_attribute():
    profile = load_profile("tiny")
    assert profile.name == profile.methods.air.name == "tiny"
    assert profile["methods"]["air"]["t_thresh"] == profile.methods.air.t_thresh == 0.6
    assert profile.pairs["human-baby"].target_class == "baby"
    assert profile.pairs.get("human-ghost") is None
    assert "human-ghost" not in profile.pairs
    assert not hasattr(profile, "methodz")
    with pytest.raises(AirlibError) as caught:
        profile.pairs["human-bby"]
    assert str(caught.value).startswith(
        "pairs.human-bby does not exist in profile tiny; did you mean pairs.human-baby?"
    )


def test_profiles_are_read_only():
    profile = load_profile("tiny")
    with pytest.raises(AirlibError, match="read-only"):
        profile.methods.air.steps = 3
    with pytest.raises(TypeError):
        profile.methods.air["steps"] = 3
    plain = profile.as_dict()
    plain["methods"]["air"]["steps"] = -1
    assert profile.methods.air.steps > 0
    assert json.loads(json.dumps(plain)) == plain
    assert copy.deepcopy(profile) == pickle.loads(pickle.dumps(profile)) == profile


def test_overrides_change_what_they_name_and_nothing_else():
    changed = load_profile("tiny", {"methods.air.steps": 7, "methods.air.learning_rate": 1})
    assert changed.methods.air.steps == 7
    assert changed.methods.air.learning_rate == 1.0
    assert type(changed.methods.air.learning_rate) is float
    plain = changed.as_dict()
    original = load_profile("tiny").as_dict()
    plain["methods"]["air"] |= {
        key: original["methods"]["air"][key] for key in ("steps", "learning_rate")
    }
    assert plain == original
    assert load_profile("tiny", {"methods.nada.betas": [0, 0.5]}).methods.nada.betas == (0.0, 0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"methods.air.step": 1}, "methods.air.step does not exist.*mean methods.air.steps?"),
        ({"method.air.steps": 1}, "method does not exist.*did you mean methods?"),
        ({"methods.air.steps.x": 1}, "methods.air.steps is not a table"),
        ({"methods.air": {"steps": 1}}, "methods.air is a table.*methods.air.steps"),
        ({"methods.air.steps": 1.0}, "methods.air.steps must be of type int"),
        ({"methods.air.steps": True}, "methods.air.steps must be of type int"),
        ({"methods.air.steps": "1"}, "methods.air.steps must be of type int"),
        ({"methods.air.learning_rate": float("inf")}, "must be a finite number"),
        ({"methods.air.betas": 0.9}, "must be a list such as"),
        ({"methods.air.betas": ["a", "b"]}, "must be of type float"),
        ({"world.templates": 3}, "must be of type str"),
        (["methods.air.steps"], "overrides must be a dict such as"),
        ({"": 1}, "does not exist in profile tiny .known: "),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(AirlibError, match=message):
        load_profile("tiny", overrides)


@pytest.mark.parametrize("name", ["papers", "", "../profiles/tiny", "tiny.toml"])
def test_unknown_profiles_are_refused(name):
    with pytest.raises(AirlibError, match="unknown profile .* choose from paper, tiny"):
        load_profile(name)
