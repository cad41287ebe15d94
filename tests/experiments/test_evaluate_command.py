"""`airlib evaluate`: numbers of sweeps, folders of images, kills, and one line per bad input."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.adaptation import Adaptation
from airlib.cli.commands import main
from airlib.evaluation import features as features_module
from airlib.experiments import evaluate as evaluate_module
from airlib.experiments.evaluate import evaluate_path
from airlib.experiments.sweep import sweep
from airlib.files import save_tensors
from airlib.images.folders import open_image_set, save_images
from airlib.profiles import load_profile
from airlib.worlds import open_world

pytestmark = pytest.mark.slow  # adapts and scores

PAIR = "human-baby"
QUICK = {
    "evaluation.samples": 60,
    "evaluation.references": 40,
    "methods.nada.steps": 2,
    "methods.nada.batch": 2,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What `airlib sweep` leaves: one short run of NADA; its directory and metrics."""
    directory = tmp_path_factory.mktemp("runs")
    [run] = sweep(load_profile("tiny", QUICK), ["nada"], [PAIR], [0], directory, 1, rows=())
    return directory, list(run.metrics)


@pytest.fixture(scope="module")
def adaptation(runs) -> Path:
    return runs[0] / f"{PAIR}-nada-0.safetensors"


@pytest.fixture(scope="module")
def world():
    return open_world(load_profile("tiny", QUICK), "human")


@pytest.fixture(scope="module")
def references(tmp_path_factory, world) -> Path:
    folder = tmp_path_factory.mktemp("references")
    save_images(world.reference_images(PAIR), folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AIRLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def named(metrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


# --- what it measures


def test_quick_gives_the_numbers_of_the_sweep(runs):
    directory, swept = runs
    report = evaluate_path(directory, protocol="quick", overrides=QUICK)
    assert report.metrics == swept
    again = evaluate_path(directory, protocol="quick", overrides=QUICK)  # from the cache
    assert again.metrics == swept


def test_saved_images_score_like_the_adaptation_but_for_rounding(
    adaptation, references, tmp_path, capsys
):
    """The same generator as a tool that only leaves pictures behind."""
    arguments = ["--references", str(references), "--out", str(tmp_path / "a.json")]
    drawn = ["--samples", "60", "--save-images", str(tmp_path / "drawn")]
    assert main(["evaluate", str(adaptation), *arguments, *drawn]) == 0
    printed, _ = capsys.readouterr()
    content = json.loads((tmp_path / "a.json").read_text())
    assert printed.startswith(f"{PAIR}-nada-0: nada on {PAIR}, seed 0, protocol full\n")
    assert printed.endswith(f"file: {tmp_path / 'a.json'}\n")
    folder = tmp_path / "drawn" / f"{PAIR}-nada-0"
    assert len(list(folder.iterdir())) == 60
    report = evaluate_path(folder, pair=PAIR, references=references)

    tensors = {metric["name"]: metric for metric in content["metrics"]}
    files = {metric.name: metric for metric in report.metrics}
    paired = {"paired_feature", "paired_l1", "paired_edge", "clip_truth_gap"}
    assert set(tensors) - set(files) == paired and not set(files) - set(tensors)
    assert report.scored[0].scores.omitted == {
        "paired distances": "the true targets of these images are not known"
    }
    for name, metric in files.items():
        low, high = tensors[name]["interval"] or (0.0, 0.0)  # without one, all halves agree
        assert abs(metric.value - tensors[name]["value"]) <= 0.1 * (high - low), name
        assert metric.n == tensors[name]["n"] and metric.method == f"{PAIR}-nada-0"
        assert name in printed


def test_a_folder_without_a_pair_is_compared_with_references(references, tmp_path):
    report = evaluate_path(references, references=references)
    found = named(report.metrics)
    assert found["frechet"] == pytest.approx(0, abs=1e-6) and found["precision"] == 1
    assert set(report.scored[0].scores.omitted) == {"paired distances", "text alignment"}
    content = json.loads(report.save(tmp_path / "scores.json").read_text())
    assert {entry["measure"] for entry in content["omitted"]} == set(
        report.scored[0].scores.omitted
    )
    assert str(tmp_path) not in (tmp_path / "scores.json").read_text()


def test_the_paper_profile_scores_a_folder_without_a_generator(tmp_path, world):
    """With random weights: what is measured, not how well."""
    save_images([world.draw(world.generator, 4)], tmp_path / "images")
    overrides = load_profile("paper", dry_run=True).dry_run.as_dict()
    arguments = {"references": tmp_path / "images", "profile": "paper", "overrides": overrides}
    report = evaluate_path(tmp_path / "images", **arguments)
    assert named(report.metrics)["clip_gap"] == 0 and {m.n for m in report.metrics} == {4}
    assert named(report.metrics)["frechet"] == pytest.approx(0, abs=1e-6)
    assert set(report.scored[0].scores.omitted) == {
        "paired distances", "text alignment", "intra-LPIPS",
    }  # fmt: skip


def test_two_methods_on_the_same_runs_are_compared(runs, world, tmp_path):
    directory, _ = runs
    adapted = Adaptation.load(directory / f"{PAIR}-nada-0.safetensors")
    for method, stretch in (("nada", 1.0), ("air", 0.0)):  # "air": nothing moved
        for seed in (0, 1):
            tensors = {
                name: stretch * value + (1 - stretch) * world.generator.state_dict()[name]
                for name, value in adapted.tensors.items()
            }
            labels = {**adapted.config["labels"], "method": method}
            loop = {**adapted.config["adaptation"], "seed": seed}
            config = {**adapted.config, "labels": labels, "adaptation": loop}
            Adaptation(tensors, config).save(tmp_path / f"{method}-{seed}.safetensors")
    report = evaluate_path(
        tmp_path, protocol="quick", overrides={**QUICK, "evaluation.samples": 20}
    )
    lines = {line.split(":")[0]: line for line in report.comparison()}
    values = {metric.method: metric.value for metric in report.metrics if metric.name == "frechet"}
    better = min(values, key=values.get)
    assert f"over all 2 runs {better} is ahead" in lines["frechet"]
    assert lines["frechet"] in report.table()


def test_runs_that_differ_in_their_options_are_told_apart(tmp_path):
    """The quick protocol measures what the sweep did, each under the run's own name."""
    options = [{"steps": 1}, {"steps": 3, "learning_rate": 0.01}]
    quick = load_profile("tiny", QUICK)
    made = sweep(quick, ["nada"], [PAIR], [0], tmp_path, 1, rows=(), options=options)
    report = evaluate_path(tmp_path, protocol="quick", overrides=QUICK)
    found = {(m.method, m.name): m.value for m in report.metrics}
    known = {(m.method, m.name): m.value for run in made for m in run.metrics}
    assert {method for method, _ in found} == {"nada steps=1", "nada learning_rate=0.01 steps=3"}
    for method in ("nada steps=1", "nada learning_rate=0.01 steps=3"):
        key = method, "frechet"
        assert found[key] == pytest.approx(known[key], rel=1e-3)
    assert found["nada steps=1", "frechet"] != found["nada learning_rate=0.01 steps=3", "frechet"]


def test_own_words_are_not_scored_against_the_truth_of_the_pair(adaptation, cache, tmp_path):
    made = Adaptation.load(adaptation)
    objective = {**made.config["objective"], "target": "zombie"}
    path = Adaptation(made.tensors, {**made.config, "objective": objective}).save(tmp_path / "z.v2")
    few = {**QUICK, "evaluation.samples": 12}
    with pytest.warns(
        UserWarning, match="made for the text 'zombie', and pair human-baby .*'baby'"
    ):
        own = evaluate_path(path, protocol="text", overrides=few)
    theirs = evaluate_path(adaptation, protocol="text", overrides=few)
    assert own.scored[0].name == "z.v2"
    truth = {"paired_feature", "paired_l1", "paired_edge", "clip_truth_gap"}
    assert named(theirs.metrics).keys() - named(own.metrics).keys() == truth
    assert named(own.metrics)["text_quality"] != named(theirs.metrics)["text_quality"]
    assert named(own.metrics)["frechet"] == named(theirs.metrics)["frechet"]


def test_names_with_dots_are_found_in_a_folder(adaptation, tmp_path):
    made = Adaptation.load(adaptation)
    made.save(tmp_path / "sketch.v1")
    (tmp_path / "sketch.v2").write_bytes(adaptation.read_bytes())  # as earlier versions named it
    (tmp_path / "notes.v2").write_text("{")
    assert list(evaluate_module._adaptations(tmp_path)) == ["sketch.v1", "sketch.v2"]
    names = {evaluate_module.results_file(tmp_path / name, "full", None) for name in ("a.1", "a.2")}
    assert {path.name for path in names} == {"a.1-full.json", "a.2-full.json"}


def test_references_may_be_statistics(references, adaptation, cache, tmp_path):
    images = evaluate_path(references, references=references, protocol="quick")
    judge = open_world("tiny").judges[0]
    features = judge.features(torch.cat(list(open_image_set(references)))).double().numpy()
    stats = tmp_path / "stats.npz"
    np.savez(stats, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    found = named(evaluate_path(references, references=stats, protocol="quick").metrics)
    assert found.keys() == {"frechet", "diversity"}
    assert found["frechet"] == pytest.approx(named(images.metrics)["frechet"], abs=1e-3)
    drawn = evaluate_path(adaptation, references=stats, protocol="text", overrides=QUICK)
    assert {"frechet", "paired_feature", "text_quality"} <= named(drawn.metrics).keys()


# --- killed and started again


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Equal bits need equal sums, and a forked process has no other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _job(adaptation: Path, references: Path) -> None:
    evaluate_path(adaptation, references=references, overrides=SLOW)


SLOW = {**QUICK, "evaluation.samples": 40}


def test_killed_at_random_points_and_restarted_gives_the_same_file(
    adaptation, references, cache, monkeypatch, tmp_path, one_thread
):
    monkeypatch.setattr("airlib.generators.base.images_at_once", lambda generator: 5)
    whole = evaluate_path(adaptation, references=references, overrides=SLOW)
    whole = whole.save(tmp_path / "whole.json").read_bytes()
    expected = features(cache)
    assert len(expected) == 8 + 1  # batches of images, and of references
    monkeypatch.setenv("AIRLIB_CACHE", str(tmp_path / "killed"))
    evaluate_module._cache.cache_clear()
    look = features_module._look

    def slowly(*arguments):
        time.sleep(0.05)
        return look(*arguments)

    monkeypatch.setattr(features_module, "_look", slowly)
    chance = np.random.default_rng(time.time_ns())
    for at_least in (0, 2, 5):
        evaluate_module._reference.cache_clear()
        process = multiprocessing.get_context("fork").Process(
            target=_job, args=(adaptation, references)
        )
        process.start()
        while process.is_alive() and len(features(tmp_path / "killed")) < at_least:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert features(tmp_path / "killed").items() <= expected.items()  # nothing half written
    evaluate_module._reference.cache_clear()
    report = evaluate_path(adaptation, references=references, overrides=SLOW)
    assert report.save(tmp_path / "again.json").read_bytes() == whole
    assert features(tmp_path / "killed") == expected


def features(cache: Path) -> dict[str, bytes]:
    files = [path for path in cache.rglob("*.safetensors") if not path.name.startswith(".")]
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


def test_images_that_changed_are_scored_again(references, cache, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(references.iterdir())[:12]:
        (folder / path.name).write_bytes(path.read_bytes())
    first = named(evaluate_path(folder, references=references).metrics)
    Image.new("RGB", (64, 64)).save(folder / "00003.png")
    changed = named(evaluate_path(folder, references=references).metrics)
    assert changed["frechet"] != first["frechet"]


# --- bad input


@pytest.fixture
def bad(tmp_path, adaptation) -> Path:
    """A folder of everything that can be wrong."""
    large, two = [(128, 128)] * 3, [(64, 64)] * 2
    folders = {"empty": [], "mixed": [(64, 64), (32, 64)], "large": large, "two": two}
    for name, sizes in folders.items():
        (tmp_path / name).mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cut.safetensors").write_bytes(adaptation.read_bytes()[:5000])
    (tmp_path / "text.txt").write_text("no adaptation")
    good = Adaptation.load(adaptation)
    Adaptation(good.tensors, {**good.config, "done": 3}).save(tmp_path / "stopped.safetensors")
    Adaptation(good.tensors, {**good.config, "labels": {}}).save(tmp_path / "bare.safetensors")
    Adaptation(good.tensors, {**good.config, "source": "0"}).save(tmp_path / "dog.safetensors")
    for key, value in {"pair": ["a"], "method": 3, "options": []}.items():
        labels = {**good.config["labels"], key: value}
        config = {**good.config, "labels": labels}
        Adaptation(good.tensors, config).save(tmp_path / f"odd_{key}.safetensors")
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    torch.save({"g_ema": torch.zeros(1)}, tmp_path / "0.pt")
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((2, 64, 64, 3), np.uint8))
    header = {"kind": "stylegan2", "source": "rosinality", "config": {}, "sha256": ""}
    save_tensors(tmp_path / "generator.safetensors", {"x": torch.zeros(1)}, header)
    for name in ("twice", "again"):
        good.save(tmp_path / "same" / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "--pair", PAIR], "missing is no folder of images"),
        (["empty", "--pair", PAIR], "holds 0 images; at least 1"),
        (["mixed", "--pair", PAIR], "0.png has 64 x 64 pixels and 1.png 32 x 64; make"),
        (["large", "--pair", PAIR], "128 x 128 pixels and the judges of this profile see 64 x 64"),
        (["two"], "add --pair NAME or --references DIR"),
        (["two", "--pair", "human-bab"], "unknown pair 'human-bab'; choose from"),
        (["two", "--pair", PAIR, "--profile", "huge"], "unknown profile 'huge'"),
        (["two", "--pair", PAIR, "--protocol", "fast"], "unknown protocol 'fast'; choose from"),
        (["two", "--references", "empty"], "empty holds 0 images"),
        (["two", "--references", "large"], "the images in large have 128 x 128"),
        (["two", "--references", "two", "--save-images", "x"], "holds images already"),
        (["two", "--references", "two", "--out", "empty"], "choose a file in a writable directory"),
        (["two", "--references", "two", "--out", "text.txt/a.json"], "choose a file in a writable"),
        (["cut.safetensors"], "cut.safetensors is damaged"),
        (["text.txt"], "text.txt is damaged or not an airlib file"),
        (["0.png", "--pair", PAIR], "0.png is one picture; give the folder that holds it"),
        (["0.pt"], "0.pt is a weight file of another project, no adaptation; run `airlib import`"),
        (["samples.npz"], "save its images as PNG files in a folder, and give the folder"),
        (["generator.safetensors"], "no adaptation but an imported network (stylegan2)"),
        (["two", "--references", "samples.npz"], "no .npz file with the arrays mu and sigma"),
        (["two", "--references", "0.png"], "no .npz file with the arrays mu and sigma"),
        (["stopped.safetensors"], "is a checkpoint; finish the adaptation"),
        (["bare.safetensors"], "bare does not say which pair it is for; add --pair NAME"),
        (["odd_pair.safetensors"], "odd_pair cannot be evaluated: pair is no str in its header"),
        (["odd_method.safetensors"], "method is no str in its header; make it again"),
        (["odd_options.safetensors"], "options is no dict in its header; make it again"),
        (["dog.safetensors"], "was made from another source generator"),
        (["bare.safetensors", "--pair", "dog-cat"], "was made from another source generator"),
        (["same"], "again and twice are both nada on human-baby with seed 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    bad, cache, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(bad)
    before = sorted(bad.rglob("*"))
    assert main(["evaluate", *arguments]) == 1
    output, errors = capsys.readouterr()
    last = errors.split("\r")[-1]  # after the progress bars
    assert output == "" and message in errors
    assert last.strip().startswith("airlib: ") and errors.count("\n") == 1, errors
    assert sorted(bad.rglob("*")) == before


def test_too_few_images_are_measured_as_far_as_they_go(bad, references, cache, capsys):
    arguments = ["evaluate", str(bad / "two"), "--references", str(references)]
    assert main([*arguments, "--out", str(bad / "out.json")]) == 0
    output, _ = capsys.readouterr()
    assert "not measured: overlap: k = 3 neighbours need sets of more" in output
    assert "nan" not in output.lower() and "inf " not in output
    content = (bad / "out.json").read_text()
    assert "NaN" not in content and "Infinity" not in content


def test_unreadable_images_are_counted(bad, references, cache, capsys):
    (bad / "two" / "9.png").write_bytes(b"")
    arguments = ["evaluate", str(bad / "two"), "--references", str(references)]
    assert main([*arguments, "--out", str(bad / "out.json")]) == 0
    _, errors = capsys.readouterr()
    assert "airlib: two: skipped 1 of 3 images, which cannot be read; the first is 9.png" in errors
    assert json.loads((bad / "out.json").read_text())["skipped"] == {"two": ["9.png"]}
