"""Every number and switch that a profile, the README or a class names is an option, by its name."""

import re
from pathlib import Path

import pytest

from airlib.errors import AirlibError
from airlib.methods.registry import METHODS, defaults_of
from airlib.parameterizations.registry import parameterization_named
from airlib.profiles import load_profile, method_names
from airlib.worlds.numbers import changed, is_by_picture, loop_defaults, numbers_of

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROFILES = {name: load_profile(name) for name in ("tiny", "paper")}
NAMED = [(profile, name) for profile in PROFILES for name in method_names(PROFILES[profile])]


@pytest.mark.parametrize(("profile", "name"), NAMED)
@pytest.mark.parametrize("kind", ["stylegan2", "diffusion"])
def test_every_entry_of_a_table_is_an_option_of_its_method(profile, name, kind):
    numbers = PROFILES[profile]
    tables = [numbers.methods.get(name, {}), numbers.arms.get(name, {}), numbers.for_diffusion]
    options = {k: v for table in tables for k, v in table.items() if k != "method"}
    known = numbers_of(numbers, name, kind)
    assert changed(known, options, name) == known | {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }
    assert parameterization_named(known["parameterization"]).name == known["parameterization"]


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_a_config_is_an_option_and_its_default_is_legal(name):
    known, own = numbers_of(PROFILES["tiny"], name), defaults_of(name)
    assert own.keys() | loop_defaults().keys() == known.keys()
    assert changed(known, own, name) | {"templates": None} == {**known, **own, "templates": None}
    METHODS[name].Config(**own)


def test_the_switches_of_the_readme_s_table_are_options():
    table = README[README.index("## Where paper and official code differ") :]
    switches = re.findall(r'`(\w+)="(\w+)"`', table[: table.index("## Honesty")])
    assert {key for key, _ in switches} == {"noise", "order", "parameterization"}
    known = numbers_of(PROFILES["tiny"], "nada")
    for key, value in switches:
        assert changed(known, {key: value}, "nada")[key] == value
    for name in ("layers5", "layers5_corrected", "lora4_attention", "singular_values"):
        assert parameterization_named(name).name == name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t_int": 0.1}, "nada has no option 't_int'; choose from steps"),
        ({"steps": 2.5}, "nada.steps must be of type int like 50, not 2.5"),
        ({"learning_rate": float("nan")}, "nada.learning_rate must be a finite number"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(options, words):
    with pytest.raises(AirlibError, match=re.escape(words)):
        changed(numbers_of(PROFILES["tiny"], "nada"), options, "nada")


def test_a_diffusion_model_gets_numbers_that_fit_it():
    """Where the table was made for a StyleGAN2, and only there."""
    tiny = PROFILES["tiny"]
    assert numbers_of(tiny, "nada", "diffusion")["parameterization"] == "lora4"
    assert numbers_of(tiny, "nada")["parameterization"] == "synthesis"
    assert numbers_of(tiny, "diffusion_clip", "diffusion")["parameterization"] == "full"
    assert numbers_of(tiny, "air_lora", "diffusion")["prompt_pairs"] == 48


def test_methods_are_shown_pictures_or_told_words():
    by_picture = {
        name for name in method_names(PROFILES["tiny"]) if is_by_picture(PROFILES["tiny"], name)
    }
    assert {"mtg", "mtg_d", "nada_image", "target_clip", "mind_the_gap"} <= by_picture
    assert not by_picture & {"nada", "ipl", "svl", "air", "d", "air_d", "nada_lora"}


def test_an_unknown_method_is_refused_with_every_name_there_is():
    with pytest.raises(AirlibError, match="unknown method 'nadda'; choose from nada, air"):
        numbers_of(PROFILES["tiny"], "nadda")
