"""Sweeps from files: what is multiplied out, what is refused, what failure and murder leave."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
import torch
from distributed import LocalCluster

from airlib.cli.commands import main
from airlib.errors import AirlibError
from airlib.evaluation.comparison import summary
from airlib.experiments.inputs import inputs_of
from airlib.experiments.plan import (
    PLANS,
    Plan,
    multiplied,
    plan_names,
    plan_of_flags,
    read_plan,
    run_plan,
)
from airlib.experiments.runs import Run, load_runs
from airlib.experiments.sweep import FailedRuns, sweep
from airlib.methods.registry import METHODS
from airlib.results import Metric

pytestmark = pytest.mark.slow  # starts processes and kills them

SMALL = """
[overrides]
"evaluation.samples" = 20
"evaluation.references" = 30
"methods.air.steps" = 2
"methods.air.batch" = 2
"methods.air.prompt_steps" = 2
"methods.air.prompt_pairs" = 4
"""
PLAN = f"""
methods = ["air"]
pairs = ["human-baby"]
seeds = [0]
[options]
t_thresh = [0.5, 1]
learning_rate = [0.001, 0.01]
{SMALL}"""
NAMES = [
    "human-baby-source-0",
    "human-baby-prior-0",
    "human-baby-truth-0",
    "human-baby-air-0-learning_rate=0.001-t_thresh=0.5",
    "human-baby-air-0-learning_rate=0.01-t_thresh=0.5",
    "human-baby-air-0-learning_rate=0.001-t_thresh=1.0",
    "human-baby-air-0-learning_rate=0.01-t_thresh=1.0",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As workers do: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def table(plan_file, tmp_path_factory) -> Path:
    """runs.json of the plan, made in this process without any interruption."""
    path, errors = run_plan(read_plan(plan_file), tmp_path_factory.mktemp("whole"), workers=1)
    assert not errors
    return path


# --- what is run ---------------------------------------------------------------------------------


def test_options_are_multiplied_out():
    assert multiplied({}) == [{}]
    assert multiplied({"t_int": [0.05, 0.1, 0.2], "steps": 9, "t_thresh": [0.3, 0.6]}) == [
        {"t_int": 0.05, "steps": 9, "t_thresh": 0.3},
        {"t_int": 0.05, "steps": 9, "t_thresh": 0.6},
        {"t_int": 0.1, "steps": 9, "t_thresh": 0.3},
        {"t_int": 0.1, "steps": 9, "t_thresh": 0.6},
        {"t_int": 0.2, "steps": 9, "t_thresh": 0.3},
        {"t_int": 0.2, "steps": 9, "t_thresh": 0.6},
    ]
    assert multiplied({"betas": [[0.0, 0.9], [0.9, 0.99]]})[1] == {"betas": [0.9, 0.99]}


def test_every_name_says_its_options(table, tmp_path):
    assert list(load_runs(table)) == NAMES
    hostile = Run("a", "b", 0, tmp_path, options=(("templates", "../x-y=1"), ("betas", (0.0, 1.0))))
    assert hostile.file(".json").parent == tmp_path
    assert hostile.stem.name == "a-b-0-templates=..%2Fx-y%3D1-betas=[0.0, 1.0]"


def test_options_reach_the_loss_and_the_record(table):
    records = load_runs(table)
    for name in NAMES[3:]:
        options = records[name]["inputs"]["options"]
        adaptation = Run("human-baby", "air", 0, table.parent, options=tuple(options.items()))
        adaptation = adaptation.adaptation()
        used = adaptation.config["labels"]["numbers"]
        assert {key: used[key] for key in options} == options
        assert ("adaptive" in adaptation.log[-1]) == (options["t_thresh"] == 0.5)
    distances = {
        metric["value"]
        for name in NAMES[3:]
        for metric in records[name]["metrics"]
        if metric["name"] == "paired_feature"
    }
    assert len(distances) == 4
    metrics = [Metric(**entry) for record in records.values() for entry in record["metrics"]]
    (row,) = summary(metrics, "paired_feature")
    assert len(row) == 1 + 3 + 4 and "air learning_rate=0.01 t_thresh=1.0" in row


def test_a_run_without_options_is_named_and_recorded_as_ever(table, plan_file, tmp_path):
    assert Run("human-baby", "air", 0, tmp_path).stem == tmp_path / "human-baby-air-0"
    inputs = load_runs(table)[NAMES[0]]["inputs"]
    run = Run("human-baby", "source", 0)
    assert inputs == inputs_of(run, read_plan(plan_file).numbers()) and "options" not in inputs


def test_flags_are_a_plan_too():
    plan = plan_of_flags({"methods": ["d"], "role": "unseen", "seeds": 3})
    assert (plan.methods, plan.seeds, plan.protocol) == (("d",), (0, 1, 2), "quick")
    assert plan.chosen_pairs()[0] == "unseen-human-baby-sketch"
    shipped = "airlib sweep --profile tiny --methods d --role unseen --seeds 3 --protocol quick"
    assert plan.command == shipped


def test_flags_replace_what_a_file_says(plan_file):
    plan = read_plan(plan_file, {"seeds": 2, "role": "unseen", "protocol": "text"})
    assert (plan.seeds, plan.role, plan.pairs, plan.protocol) == ((0, 1), "unseen", (), "text")
    assert plan.methods == ("air",) and plan.options["t_thresh"] == [0.5, 1]
    assert plan.command == "airlib sweep plan.toml --seeds 2 --role unseen --protocol text"
    assert read_plan("knobs", {"pairs": ["human-fox"]}).pairs == ("human-fox",)


def test_grids_are_run_one_after_the_other_under_their_names(tmp_path):
    (tmp_path / "plan.toml").write_text("""
        pairs = ["human-baby"]
        seeds = [7]
        grids = [
            {name = "slow", options = {steps = [80, 160]}},
            {name = "AIR", methods = ["air"], options = {t_int = 0.2}},
            {name = "slow", methods = ["nada"], options = {steps = 320}},
        ]""")
    found = read_plan(tmp_path / "plan.toml").grids_of_runs()
    names = {grid: [run.label for run in runs] for grid, runs in found.items()}
    slow = [f"{method} steps={n}" for method in ("nada", "air") for n in (80, 160)]
    rows = ["source", "prior", "truth"]
    assert names == {"": rows, "slow": [*slow, "nada steps=320"], "AIR": ["air t_int=0.2"]}


@pytest.mark.parametrize("name", plan_names())
def test_a_shipped_plan_can_be_run_and_says_in_a_line_what_it_is(name, capsys):
    plan = read_plan(name)
    assert any(runs for grid, runs in plan.grids_of_runs().items())
    assert plan.command == f"airlib sweep {name}"
    assert main(["sweep", "--list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(name + ":")]
    assert line.endswith(".") and (PLANS / f"{name}.toml").exists()


def test_nothing_is_measured_where_nothing_is_asked(plan_file, tmp_path):
    quick = read_plan(plan_file).numbers()
    [run] = sweep(quick, ["air"], ["human-baby"], [0], tmp_path, 1, protocol="none")
    assert run.metrics == () and run.adaptation().tensors and run.is_here


# --- trainings -----------------------------------------------------------------------------------

TASK = """
import torch
from torch import nn

class Line:
    name = "line"
    def __init__(self, seed, steps=300, rate=0.1):
        torch.manual_seed(seed)
        self.steps, self.rate, self.numbers = steps, rate, {"rate": rate}
        self.net = nn.Linear(1, 1)
        self.modules, self.optimizer = {"net": self.net}, torch.optim.SGD(self.net.parameters())
    def learning_rate(self, progress):
        return self.rate
    def loss(self, step, rng):
        if (here := __import__("pathlib").Path("stop")).exists() and step == 270:
            raise KeyboardInterrupt
        x = torch.randn(8, 1, generator=rng)
        return (self.net(x) - 3 * x - 1).square().mean()
    def after_step(self, step):
        pass
    def evaluate(self):
        return {"slope": self.net.weight.item(), "steps_seen": float(self.steps)}
    def export(self):
        return dict(self.net.state_dict()), {}
"""


def test_trainings_are_runs_that_continue_where_they_were_killed(tmp_path, monkeypatch):
    """Stopped after its checkpoint at 250 of 300 steps, a training ends with the same bits; with
    another rate it starts anew.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "line_of_a_test.py").write_text(TASK)
    (tmp_path / "plan.toml").write_text(
        'train = "line_of_a_test:Line"\nseeds = [0, 1]\n[options]\nrate = [0.1, 0.01]'
    )
    plan = read_plan("plan.toml")
    whole, errors = run_plan(plan, tmp_path / "whole", workers=1)
    assert not errors and list(load_runs(whole)) == [
        f"line-{seed}-rate={rate}" for seed in (0, 1) for rate in (0.1, 0.01)
    ]
    records = load_runs(whole)
    slopes = {name: run["metrics"][0]["value"] for name, run in records.items()}
    assert slopes["line-0-rate=0.1"] == pytest.approx(3, abs=1e-3) and len(set(slopes.values())) > 2
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "again", workers=1)
    (tmp_path / "stop").unlink()
    kept = tmp_path / "again" / "line-0-rate=0.1" / "checkpoint.safetensors"
    before = kept.read_bytes()
    resumed, errors = run_plan(plan, tmp_path / "again", workers=1)
    assert not errors and resumed.read_bytes() == whole.read_bytes()
    other = tmp_path / "again" / "line-0-rate=0.5" / "checkpoint.safetensors"
    other.parent.mkdir()
    other.write_bytes(before)  # of another rate: not continued
    (tmp_path / "plan.toml").write_text(
        'train = "line_of_a_test:Line"\nseeds = [0]\n[options]\nrate = 0.5'
    )
    alone = [run_plan(read_plan("plan.toml"), tmp_path / d, workers=1)[0] for d in ("again", "new")]
    assert alone[0].read_bytes() == alone[1].read_bytes()
    sys.modules.pop("line_of_a_test", None)


def test_a_training_that_cannot_be_made_is_one_failed_run(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'train = "airlib.studies.hypernetwork:HypernetworkTask"\n[options]\nnrm = 0.0'
    )
    plan = read_plan(tmp_path / "plan.toml", {"seeds": 1})
    path, errors = run_plan(plan, tmp_path / "out", workers=1)
    assert errors == {"hypernetwork-0-nrm=0.0": "a hypernetwork has no number called 'nrm'"}
    assert load_runs(path) == {}


# --- what is refused, before anything runs -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ['air']", "unknown key 'method'; choose from profile, methods, role, pairs,"),
        ("command = 'rm'", "unknown key 'command'"),
        ("methods = 'air'", "methods must be a list of names, not 'air'"),
        ("methods = []", "methods must be a list of names, not []"),
        ("methods = [['air']]", "methods must be a list of names"),
        ("methods = ['nda']", "unknown method 'nda'; choose from nada"),
        ("methods = ['air', 'air']", "is asked for twice"),
        ("profile = 1", "profile must be a name, not 1"),
        ("profile = 'large'", "unknown profile 'large'; choose from paper, tiny"),
        ("pairs = ['human-bab']", "unknown pair 'human-bab'; choose from human-cat"),
        ("role = 'tabel'", "no pairs of role 'tabel'; choose from development, "),
        ("role = 'table'\npairs = ['human-baby']", "role and pairs are two ways"),
        ("seeds = 3", "seeds must be a list of whole numbers from 0 on, such as [0, 1, 2], not 3"),
        ("seeds = [true]", "seeds must be a list of whole numbers"),
        ("seeds = [0, -1]", "seeds must be a list of whole numbers"),
        ("seeds = [0.5]", "seeds must be a list of whole numbers"),
        (f"[options]\nbetas = [[{', '.join(['0.25'] * 60)}]]", "is too long"),
        (
            "protocol = 'quik'",
            "unknown protocol 'quik'; choose from quick, text, shown, full, none",
        ),
        ("grids = [3]", "grids must be tables such as {name ="),
        ("grids = []", "grids must be tables such as {name ="),
        ("grids = [{nam = 'a'}]", "unknown key 'nam'; choose from name, methods, options"),
        ("grids = [{methods = 'a'}]", "methods must be a list of names, not 'a'"),
        ("[[grids]]\n[options]\nsteps = 3", "options and grids are two ways"),
        ("train = 3", "train must be a name, not 3"),
        ("train = 'no_such:Task'", "cannot find the task 'no_such:Task'"),
        ("train = 'json:loads'", "json:loads is no task of a training"),
        ("train = 'a:B'\nrole = 'table'", "a plan that trains has no role"),
        ("options = 3", "options must be a table, not 3"),
        ("[options]\nt_int = 0.1", "nada has no option 't_int'; choose from steps, batch"),
        ("[options]\nsteps = []", "option 'steps' has no values"),
        ("[options]\nsteps = [50, 2.5]", "nada.steps must be of type int like 50, not 2.5"),
        ("[options]\nsteps = [5, 5]", "is asked for twice"),
        (
            "".join(["[options]"] + [f"\n{key} = {[*range(30)]}" for key in "abc"]),
            "the options have 27,000 combinations, more than 10,000",
        ),
        ("imports = ['..relative']", "cannot import '..relative'"),
        ("imports = ['']", "cannot import ''"),
        ("[options]\nsteps = {a = 1}", "nada.steps must be of type int"),
        ("[options]\nlearning_rate = nan", "learning_rate must be a finite number"),
        ("[options]\nbetas = [0.9, 0.99]", "betas must be a list such as [0.9, 0.99], not 0.9"),
        ("methods = ['d']\n[options]\nmethod = 'air'", "d has no option 'method'"),
        ("[overrides]\n'evaluation.sample' = 3", "did you mean evaluation.samples?"),
        ("[overrides]\nevaluation.samples = 3", "evaluation is a table"),
        ("methods = [", "damaged or no TOML ("),
        ("a = " + "[" * 5000, "a line has more than 2000 characters"),
        ("a = " + "[\n" * 5000, "more than 100 lists or tables in one another"),
        ("a = 0x" + "f" * 17, "an integer has more than 64 bits"),
        ("\x00", "damaged or no TOML ("),
        ("", "bad.toml is empty"),
    ],
)
def test_a_bad_file_is_one_line(capsys, tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    code = main(["sweep", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "out")])
    output, errors = capsys.readouterr()
    assert (code, output) == (1, "") and errors.count("\n") == 1, errors
    assert errors.startswith("airlib: ") and message in errors, errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.toml"], "there is no file missing.toml; name a sweep file, or a shipped plan"),
        (["."], ". is a folder; name a sweep file"),
        (["/dev/zero"], "/dev/zero is no regular file; name a sweep file"),
        (["plan.toml", "--methods", "nda"], "unknown method 'nda'; choose from nada"),
        (["knbs"], "a shipped plan: diffusion_settings, hypernetwork, knobs"),
        (["plan.toml", "--scheduler", "nonsense"], "no Dask scheduler answers at 'nonsense'"),
        (["plan.toml", "--scheduler", "tcp://127.0.0.1:1"], "such as tcp://10.0.0.5:8786"),
    ],
)
def test_bad_arguments_are_one_line(capsys, monkeypatch, plan_file, tmp_path, arguments, message):
    monkeypatch.chdir(plan_file.parent)
    code = main(["sweep", *arguments, "--out", str(tmp_path / "out")])
    output, errors = capsys.readouterr()
    assert (code, output) == (1, "") and message in errors
    assert errors.splitlines()[-1].startswith("airlib: ")
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_encoding(capsys, tmp_path):
    (tmp_path / "bad.toml").write_bytes(b"methods = ['\xff\xfe']")
    assert main(["sweep", str(tmp_path / "bad.toml")]) == 1
    assert "bad.toml is no text in UTF-8; name a sweep file" in capsys.readouterr().err


# --- what goes wrong while it runs ---------------------------------------------------------------


def test_a_failed_run_is_reported_and_stops_no_other(capsys, tmp_path):
    """AIR refuses an interval of 1.5 when it starts; the other one is run after it."""
    text = PLAN.replace("t_thresh = [0.5, 1]", "t_int = [1.5, 0.5]").replace("0.001, ", "")
    (tmp_path / "plan.toml").write_text(text)
    arguments = ["sweep", str(tmp_path / "plan.toml"), "--out", str(tmp_path), "--workers", "1"]
    assert main(arguments) == 1
    output, errors = capsys.readouterr()
    failed, good = (f"human-baby-air-0-learning_rate=0.01-t_int={value}" for value in (1.5, 0.5))
    assert output == f"{tmp_path / 'runs.json'}\n"
    line = f"airlib: {failed}: t_int 1.5 must lie in (0, 1], t_thresh 0.6 in [0, 1]"
    assert errors.splitlines()[-1] == line
    assert list(load_runs(tmp_path / "runs.json")) == [*NAMES[:3], good]
    with pytest.raises(FailedRuns, match="1 runs failed, 4 others are done") as found:
        plan = read_plan(tmp_path / "plan.toml")
        sweep(
            plan.numbers(), plan.methods, plan.pairs, plan.seeds, tmp_path, 1,
            options=multiplied(plan.options),
        )  # fmt: skip
    assert list(found.value.errors) == [failed] and found.value.done[-1].stem.name == good


def records(directory: Path) -> list[Path]:
    return list(directory.glob("human-*.json"))


def test_a_sweep_killed_at_random_moments_ends_with_the_same_table(plan_file, table, tmp_path):
    for workers, most in (("2", 3), ("1", 5)):
        wanted, delay = random.randint(len(records(tmp_path)), most), random.uniform(0, 0.3)
        command = [sys.executable, "-m", "airlib", "sweep", str(plan_file)]
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path), "--workers", workers],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )
        while process.poll() is None and len(records(tmp_path)) < wanted:
            time.sleep(0.02)
        time.sleep(delay)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"finished before {wanted} + {delay}"
        assert not psutil.wait_procs(family, timeout=20)[1]  # workers end with it
        assert not (tmp_path / "runs.json").exists()
        for path in records(tmp_path):
            json.loads(path.read_text())
    path, errors = run_plan(read_plan(plan_file), tmp_path, workers=1)
    assert not errors and path.read_bytes() == table.read_bytes()


def test_workers_of_any_scheduler_make_the_same_table(plan_file, table, tmp_path, monkeypatch):
    """Also where they do not start in the directory of the client."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        LocalCluster(
            n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None,
            memory_limit=None,
        ) as cluster,
    ):  # fmt: skip
        monkeypatch.chdir(tmp_path / "elsewhere")
        address = cluster.scheduler_address
        path, errors = run_plan(read_plan(plan_file), "out", scheduler=address)
        assert not errors and path.read_bytes() == table.read_bytes()


# --- methods of one's own ------------------------------------------------------------------------

OWN = '''
from dataclasses import dataclass

from airlib.methods.registry import register_method
from airlib.methods.step import WithoutMemory


@dataclass(frozen=True)
class GlobalClipConfig:
    strength: float = 1.0


class GlobalClip(WithoutMemory):
    """1 - cos(E_I(image), E_T(target)): StyleGAN-NADA's "global" loss."""

    Config = GlobalClipConfig

    def __init__(self, space, target_class, config):
        self.space, self.config = space, config
        self.texts = space.embed_text([f"a photo of a {target_class}"])
        self.settings = {"method": "own_global", "target": target_class}

    @classmethod
    def of(cls, task, config, seed):
        return cls(task.space, task.target_class, config)

    def __call__(self, step):
        distance = self.space.weighted(
            lambda x, text: (1 - x @ text[0]).mean(), step.adapted_embeddings, self.texts
        )
        return {"global": self.config.strength * distance}


register_method("own_global", GlobalClip)
'''
PLAN_OF_OWN = """
imports = ["own_method_of_a_test"]
methods = ["own_global"]
pairs = ["photo-sketch"]
seeds = [0]
[options]
steps = 2
strength = [1.0, 3.0]
[overrides]
"evaluation.samples" = 8
"evaluation.references" = 16
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_method_of_one_s_own_is_swept_without_touching_the_package(
    tmp_path, monkeypatch, workers
):
    (tmp_path / "own_method_of_a_test.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(PLAN_OF_OWN)
    monkeypatch.chdir(tmp_path)
    path, errors = run_plan(read_plan("own.toml"), tmp_path / "runs", workers=workers)
    runs = load_runs(path)
    names = {f"photo-sketch-own_global-0-steps=2-strength={s}" for s in ("1.0", "3.0")}
    assert not errors and names <= set(runs)
    assert all(runs[name]["inputs"]["method"]["strength"] == 1.0 for name in names)  # the default
    METHODS.pop("own_global", None)  # for the other tests
    sys.modules.pop("own_method_of_a_test", None)


def test_a_module_that_is_not_there_is_named_before_anything_runs(tmp_path):
    plan = Plan.of({"imports": ["no_such_module_anywhere"], "methods": ["nada"]})
    with pytest.raises(AirlibError, match="cannot import 'no_such_module_anywhere'"):
        run_plan(plan, tmp_path)
