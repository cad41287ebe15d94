"""Records of a run: they come back as written, and what must not travel never gets in."""

import json
import math
import socket

import numpy as np
import pytest

from airlib.errors import AirlibError
from airlib.results import KEYS, Metric, Record, load_results

METRIC = Metric(
    "frechet", 12.5, 500, (11.0, 14.0), "frechet/judge, 500 vs 1000", "human-baby", "air", 3
)


def new_record(directory, **parameters) -> Record:
    return Record(directory, "03_air_gan", "tiny", {"overrides": {}, **parameters}, seed=3)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = new_record(tmp_path, steps=60)
    (tmp_path / "grid.png").write_bytes(b"png")
    record.add(METRIC, Metric("rho", -0.25, 6441, None, "spearman, all pairs"))
    record.add_figure("grid.png", alt="Two rows of faces.", title="Faces")
    record.add_table("Distances", ["method", "value"], [["air", 1.5], ["nada", None]])
    content = load_results(record.save())
    assert set(content) == set(KEYS)
    assert content["notebook"] == "03_air_gan" and content["profile"] == "tiny"
    assert content["parameters"] == {"overrides": {}, "steps": 60} and content["seed"] == 3
    loaded = content["metrics"][0]
    assert Metric(**loaded) == METRIC
    assert content["metrics"][1]["interval"] is None
    assert content["figures"] == [
        {"file": "grid.png", "alt": "Two rows of faces.", "title": "Faces"}
    ]
    assert content["tables"][0]["rows"] == [["air", 1.5], ["nada", None]]
    assert {"python", "torch", "airlib", "open_clip", "platform"} <= set(content["versions"])
    assert socket.gethostname() not in json.dumps(content["versions"])
    assert str(tmp_path) not in (tmp_path / "results.json").read_text()


def test_a_second_save_replaces_the_first_and_leaves_nothing_else(tmp_path):
    record = new_record(tmp_path)
    record.save()
    record.add(METRIC)
    assert len(load_results(record.save())["metrics"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    with pytest.raises(AirlibError, match="frechet"):
        Metric("frechet", value, 10, None, "p")
    with pytest.raises(AirlibError, match="interval"):
        Metric("frechet", 1.0, 10, (0.0, value), "p")
    with pytest.raises(AirlibError):
        new_record(tmp_path).add_table("t", ["a"], [[value]])
    with pytest.raises(AirlibError):
        new_record(tmp_path, rate=value)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(name="", value=1.0, n=1, interval=None, protocol="p"),
        dict(name="a", value=1.0, n=1, interval=None, protocol=""),
        dict(name="a", value="high", n=1, interval=None, protocol="p"),
        dict(name="a", value=1.0, n=-1, interval=None, protocol="p"),
        dict(name="a", value=1.0, n=1.5, interval=None, protocol="p"),
        dict(name="a", value=1.0, n=1, interval=(2.0, 1.0), protocol="p"),
        dict(name="a", value=1.0, n=1, interval=(1.0,), protocol="p"),
    ],
)
def test_a_metric_without_meaning_is_refused(arguments):
    with pytest.raises(AirlibError):
        Metric(**arguments)


def test_array_scalars_become_plain_numbers(tmp_path):
    record = new_record(tmp_path, width=np.int64(4))
    record.add(Metric("a", np.float32(0.5), np.int64(7), (np.float64(0), np.float64(1)), "p"))
    content = load_results(record.save())
    assert content["metrics"][0]["value"] == 0.5 and content["metrics"][0]["n"] == 7
    assert content["parameters"]["width"] == 4


@pytest.mark.parametrize("path", ["/home/someone/runs", "C:\\Users\\someone", "C:/runs"])
def test_absolute_paths_stay_out_of_records(tmp_path, path):
    with pytest.raises(AirlibError, match="absolute path"):
        new_record(tmp_path, overrides={"out": [path]})
    with pytest.raises(AirlibError, match="absolute path"):
        new_record(tmp_path).add_table("t", ["a"], [[path]])
    with pytest.raises(AirlibError, match="relative"):
        new_record(tmp_path).add_figure(path, alt="x")


def test_figures_must_exist_below_the_record_and_say_what_they_show(tmp_path):
    record = new_record(tmp_path / "run")
    (tmp_path / "outside.png").write_bytes(b"png")
    with pytest.raises(AirlibError, match="relative"):
        record.add_figure("../outside.png", alt="x")
    with pytest.raises(AirlibError, match="saved"):
        record.add_figure("missing.png", alt="x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.png").write_bytes(b"png")
    with pytest.raises(AirlibError, match="alt text"):
        record.add_figure("a.png", alt="  ")
    record.add_figure("a.png", alt="first")
    record.add_figure("a.png", alt="second")
    assert [figure["alt"] for figure in load_results(record.save())["figures"]] == ["second"]


def test_ragged_tables_are_refused(tmp_path):
    with pytest.raises(AirlibError, match="cells"):
        new_record(tmp_path).add_table("t", ["a", "b"], [[1, 2], [3]])


def damaged(content: dict, key: str, value) -> str:
    return json.dumps({**content, key: value})


def test_damaged_files_give_one_clear_error(tmp_path):
    record = new_record(tmp_path)
    record.add(METRIC)
    path = record.save()
    content = json.loads(path.read_text())
    figure = {"file": "/etc/a.png", "alt": "", "title": ""}
    table = {"title": "t", "columns": ["a"], "rows": [[1, 2]]}
    shown = {"file": "a.png", "alt": "a", "title": ["t"]}
    versions = {
        "truncated": path.read_text()[:100],
        "not an object": "[]",
        "binary": "\ufffd\x00",
        "missing key": json.dumps({k: v for k, v in content.items() if k != "metrics"}),
        "wrong type": damaged(content, "seed", "three"),
        "nan": path.read_text().replace("12.5", "NaN"),
        "metric without n": damaged(content, "metrics", [{"name": "a", "value": 1.0}]),
        "metric is a number": damaged(content, "metrics", [3]),
        "absolute figure": damaged(content, "figures", [figure]),
        "ragged table": damaged(content, "tables", [table]),
        "figure is a text": damaged(content, "figures", ["a.png"]),
        "title of a figure is a list": damaged(content, "figures", [shown]),
        "title of a table is a list": damaged(content, "tables", [table | {"title": []}]),
        "row is a text": damaged(content, "tables", [table | {"rows": ["a"]}]),
        "columns are a number": damaged(content, "tables", [table | {"columns": 1, "rows": []}]),
        "deep": damaged(content, "parameters", {"a": None}).replace("null", "[" * 5000),
    }
    for name, text in versions.items():
        bad = tmp_path / f"{name}.json"
        bad.write_text(text)
        with pytest.raises(AirlibError) as caught:
            load_results(bad)
        assert "\n" not in str(caught.value), name
    with pytest.raises(AirlibError, match="there is no file .*; run its notebook again"):
        load_results(tmp_path / "nowhere.json")
