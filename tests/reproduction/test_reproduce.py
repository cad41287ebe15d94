"""`airlib reproduce` on small notebooks: order, resuming, failures, interruption, the report."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from airlib.errors import AirlibError
from airlib.reproduction import doctor
from airlib.reproduction.plan import find_notebooks, make_plans, select
from airlib.reproduction.report import write_report
from airlib.reproduction.runner import reproduce
from airlib.results import Metric, Record

pytestmark = pytest.mark.slow  # runs notebooks

PNG = bytes.fromhex(  # one white pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file in which notebooks note that they ran."""
    return tmp_path / "log.txt"


def note(log: Path, what: str) -> str:
    """Source of a cell that appends `what` to the log."""
    return f"with open({str(log)!r}, 'a') as file:\n    print({what!r}, file=file)"


def run(tmp_path: Path, **options) -> Path:
    options = {"jobs": 1} | options
    return reproduce(out=tmp_path / "out", notebooks=tmp_path / "notebooks", **options)


def files(tmp_path: Path) -> set[str]:
    out = tmp_path / "out"
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_runs_in_order_and_skips_what_is_finished(make_notebook, tmp_path, log):
    make_notebook("02_second", note(log, "second"))
    make_notebook("01_first", note(log, "first"))
    report = run(tmp_path)
    assert log.read_text().split() == ["first", "second"]
    assert files(tmp_path) == {"report.html"} | {
        f"tiny/{name}/{file}"
        for name in ("01_first", "02_second")
        for file in ("results.json", "finished.json", f"{name}.ipynb")
    }
    assert report.read_text().count("<section") == 2

    run(tmp_path)
    assert log.read_text().split() == ["first", "second"]  # nothing ran again
    make_notebook("02_second", note(log, "changed"))
    run(tmp_path)
    assert log.read_text().split()[2:] == ["changed"]
    run(tmp_path, only=["02"], parameters=[("seed", "1")])
    assert log.read_text().split()[3:] == ["changed"]  # other parameters
    run(tmp_path, only=["01_first"], fresh=True)
    assert log.read_text().split()[4:] == ["first"]


def test_is_finished_only_with_whole_results_of_the_same_run(make_notebook, tmp_path):
    notebook = make_notebook("01_first")
    (plan,) = make_plans([notebook], "tiny", tmp_path / "out", [])
    assert not plan.is_finished()
    figure, executed = plan.directory / "grid.png", plan.directory / notebook.name
    figure.write_bytes(PNG)
    record = Record(plan.directory, "01_first", "tiny", {}, seed=0)
    record.add_figure("grid.png", alt="a grid")
    record.save()
    executed.write_bytes(notebook.read_bytes())
    marker = plan.directory / "finished.json"
    marker.write_text(json.dumps(plan.fingerprint()))
    assert plan.is_finished()
    (other,) = make_plans([notebook], "tiny", tmp_path / "out", [("seed", "1")])
    assert not other.is_finished()
    for path in (figure, executed, marker, plan.directory / "results.json"):
        whole = path.read_bytes()
        for damaged in (b"", whole[:-20], b"[]", b"[" * 100_000):
            path.write_bytes(damaged)
            assert not plan.is_finished(), (path, damaged[:9])
        path.unlink()
        assert not plan.is_finished()
        os.mkfifo(path)
        assert not plan.is_finished()
        path.unlink()
        path.write_bytes(whole)
        assert plan.is_finished()


def test_damaged_results_are_made_again_one_after_the_other(make_notebook, tmp_path, log):
    names = ["01_first", "02_second", "03_third"]
    for name in names:
        make_notebook(name, note(log, name))
    whole = Page(run(tmp_path).read_text())
    (tmp_path / "out/tiny/01_first/results.json").write_text("{")
    (tmp_path / "out/tiny/03_third/03_third.ipynb").write_text("")
    (tmp_path / "out/tiny/03_third/results.json").write_text("")
    assert Page(run(tmp_path).read_text()).links == whole.links
    assert log.read_text().split() == [*names, "01_first", "03_third"]


def test_stops_at_the_first_failure_and_continues_there(make_notebook, tmp_path, log):
    make_notebook("01_good", note(log, "1"))
    make_notebook("02_bad", "x = 1", "raise ValueError('too small:\\n  x')")
    make_notebook("03_later", note(log, "3"))
    with pytest.raises(AirlibError) as caught:
        run(tmp_path)
    assert str(caught.value) == "02_bad.ipynb, cell 5: ValueError: too small: x"
    assert log.read_text().split() == ["1"]
    assert not [name for name in files(tmp_path) if "02_bad" in name]

    make_notebook("02_bad", note(log, "2"))
    run(tmp_path)
    assert log.read_text().split() == ["1", "2", "3"]


def test_runs_this_interpreter_in_the_notebooks_folder(make_notebook, tmp_path, monkeypatch):
    """Also where another kernel is registered as python3, and in the terminal of a live Jupyter."""
    kernel = {"argv": ["false", "{connection_file}"], "display_name": "other", "language": "python"}
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JPY_SESSION_NAME", "live.ipynb")
    make_notebook(
        "01_where",
        "import os, sys",
        f"assert sys.executable == {sys.executable!r}",
        f"assert os.getcwd() == {str(tmp_path / 'notebooks')!r}, os.getcwd()",
        "assert 'JPY_SESSION_NAME' not in os.environ",
        "assert (interactive, strength, seed) == ('off', 0.5, 3)",
        "assert session.profile.methods.air.steps == 7",
        "from airlib.showing import figures\nfigure, axes = figures.chart('It falls')",
        "session.show(figure, 'curve', alt='A falling curve.')",
    )
    run(
        tmp_path,
        parameters=[
            ("strength", "0.5"),
            ("seed", "3"),
            ("overrides", '{"methods.air.steps": 7}'),
        ],
    )
    executed = json.loads((tmp_path / "out/tiny/01_where/01_where.ipynb").read_text())
    assert executed["metadata"].keys().isdisjoint({"papermill", "widgets"})
    (output,) = executed["cells"][-2]["outputs"]
    assert output["data"].keys() == {"image/png", "text/plain"}
    assert output["metadata"] == {"image/png": {"alt": "A falling curve."}}
    results = json.loads((tmp_path / "out/tiny/01_where/results.json").read_text())
    assert results["parameters"] == {"overrides": {"methods.air.steps": 7}, "dry_run": False}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([("sed", "1")], "unknown parameter 'sed'; known: dry_run, interactive, out_dir"),
        ([("seed", "one")], "parameter seed must be of type int, such as 3, not 'one'"),
        ([("seed", "true")], "parameter seed must be of type int"),
        ([("seed", "1.5")], "parameter seed must be of type int"),
        ([("strength", "NaN")], "parameter strength must be of type float"),
        ([("dry_run", "1")], "parameter dry_run must be of type bool"),
        ([("overrides", "[1]")], "parameter overrides must be of type dict"),
        ([("overrides", '{"methods.air.stps": 1}')], "did you mean methods.air.steps?"),
        ([("profile", "paper")], "parameter profile is set by the runner; use --profile"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    make_notebook, tmp_path, log, parameters, message
):
    make_notebook("01_first", note(log, "ran"))
    with pytest.raises(AirlibError) as caught:
        run(tmp_path, parameters=parameters)
    assert message in str(caught.value)
    assert not log.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("profile: str = 'tiny'\nseed: int = f()", "may hold only lines such as"),
        ("import os", "is not an assignment"),
        ("seed: int = 'three'", "is not one of bool, int, float, str, dict, list as declared"),
        ("seed: int = 0", "lacks the parameter profile"),
    ],
)
def test_a_parameters_cell_holds_typed_literals(make_notebook, tmp_path, source, message):
    make_notebook("01_first", parameters=source)
    with pytest.raises(AirlibError, match=message):
        run(tmp_path)


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    path = folder / "01_plain.ipynb"
    path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    with pytest.raises(AirlibError, match="needs one cell tagged 'parameters', not 0"):
        run(tmp_path)
    for text in ('{"cells": ', '{"cells": [{}]}', "null", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(AirlibError, match="01_plain.ipynb is .*; get the notebook again"):
            run(tmp_path)


def test_selection_by_number_or_name(tmp_path):
    paths = [tmp_path / f"{name}.ipynb" for name in ("00_start", "01_offsets", "02_prompts")]
    for path in [*paths, tmp_path / "scratch.ipynb"]:
        path.touch()
    assert find_notebooks(tmp_path) == paths
    assert select(paths, []) == paths
    assert select(paths, ["02", "00_start"]) == [paths[0], paths[2]]
    with pytest.raises(AirlibError, match="unknown notebook '3'; choose from 00_start, 01_offsets"):
        select(paths, ["01", "3"])
    with pytest.raises(AirlibError, match="no notebooks NN_name.ipynb in"):
        find_notebooks(tmp_path / "elsewhere")


def test_a_notebook_that_hangs_is_stopped_with_the_cell_that_does(make_notebook, tmp_path):
    make_notebook("01_hangs", "x = 1", "import time; time.sleep(600)")
    limit = ("overrides", '{"notebooks.idle_minutes": 0.3}')
    with pytest.raises(AirlibError, match="01_hangs.ipynb, cell 5: nothing moved for 0.3 minutes"):
        run(tmp_path, parameters=[limit])
    assert files(tmp_path) == set()


def test_a_notebook_that_moves_is_never_too_slow(make_notebook, tmp_path):
    """By outputs, and by the items of a progress bar that a batch does not show."""
    tracked = "from airlib.progress import track\nfor _ in track(range(14), 'waiting'):"
    make_notebook(
        "01_slow",
        "import time",
        f"{tracked}\n    time.sleep(1)",
        "for _ in range(14):\n    time.sleep(1)\n    print('.')",
    )
    limit = ("overrides", '{"notebooks.idle_minutes": 0.2}')  # 12 seconds
    run(tmp_path, parameters=[limit])
    assert "tiny/01_slow/finished.json" in files(tmp_path)


def meeting(tmp_path: Path, own: str, other: str) -> str:
    """Source of a cell that ends only when the other notebook runs at the same time."""
    return (
        f"import time\nfrom pathlib import Path\nPath({str(tmp_path / own)!r}).touch()\n"
        f"while not Path({str(tmp_path / other)!r}).exists():\n    time.sleep(0.1)\n    print('.')"
    )


def after(path: Path, *names: str) -> None:
    """Write into a notebook that it comes after others."""
    notebook = json.loads(path.read_text())
    notebook["metadata"]["airlib"] = {"after": names}
    path.write_text(json.dumps(notebook))


def test_notebooks_run_side_by_side_each_after_those_that_it_reads(make_notebook, tmp_path, log):
    after(make_notebook("01_sum", note(log, "sum")), "02_one", "03_two")
    make_notebook("02_one", meeting(tmp_path, "one", "two"), note(log, "one"))
    make_notebook("03_two", meeting(tmp_path, "two", "one"), note(log, "two"))
    run(tmp_path, jobs=2)
    assert sorted(log.read_text().split()[:2]) == ["one", "two"]
    assert log.read_text().split()[2:] == ["sum"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"after": ["02_two"]}, "each of these notebooks comes after the next: 0"),
        ({"after": "02_two"}, "01_one.ipynb: its metadata may say"),
        ({"after": [2]}, "01_one.ipynb: its metadata may say"),
        ({"work": "much"}, "01_one.ipynb: its metadata may say"),
        ("later", "01_one.ipynb: its metadata may say"),
    ],
)
def test_what_a_notebook_says_of_itself_is_checked(make_notebook, tmp_path, log, said, message):
    path = make_notebook("01_one", note(log, "ran"))
    after(make_notebook("02_two"), "01_one")
    notebook = json.loads(path.read_text())
    notebook["metadata"]["airlib"] = said
    path.write_text(json.dumps(notebook))
    with pytest.raises(AirlibError, match=message):
        run(tmp_path)
    assert not log.exists()


def test_a_failure_ends_the_series_but_not_what_runs_beside_it(make_notebook, tmp_path, log):
    fails = f"{meeting(tmp_path, 'one', 'two')}\nraise ValueError('too small')"
    make_notebook("01_fails", fails)
    make_notebook("02_runs", meeting(tmp_path, "two", "one"), "time.sleep(3)", note(log, "two"))
    make_notebook("03_later", note(log, "three"))
    with pytest.raises(AirlibError, match=r"^01_fails.ipynb, cell 4: ValueError: too small$"):
        run(tmp_path, jobs=2)
    assert log.read_text().split() == ["two"]
    assert {"report.html", "tiny/02_runs/finished.json"} <= files(tmp_path)


def test_the_number_of_processes_does_not_make_it_another_run(make_notebook, tmp_path, log):
    path = make_notebook("01_one", note(log, "ran"))
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] += "\nworkers: int = 2"
    path.write_text(json.dumps(notebook))
    run(tmp_path, parameters=[("workers", "1")])
    run(tmp_path, parameters=[("workers", "3")])
    assert log.read_text().split() == ["ran"]


def test_a_kernel_that_dies_is_reported(make_notebook, tmp_path):
    make_notebook("01_dies", "import os; os._exit(9)")
    with pytest.raises(AirlibError, match="01_dies.ipynb: its Python process died"):
        run(tmp_path)
    assert files(tmp_path) == set()


def test_a_notebook_must_leave_results(make_notebook, tmp_path):
    make_notebook("01_empty", "session.finish = lambda: None")
    with pytest.raises(AirlibError, match=r"left no results .*session.finish\(\)"):
        run(tmp_path)


@pytest.mark.parametrize("resource", ["NEEDED_DISK", "NEEDED_MEMORY"])
def test_too_little_disk_or_memory_is_said_before_anything_runs(
    make_notebook, tmp_path, log, monkeypatch, resource
):
    make_notebook("01_first", note(log, "ran"))
    monkeypatch.setattr(doctor, resource, 10**18)
    with pytest.raises(AirlibError, match="a run needs 1000000000.0 GB; "):
        run(tmp_path)
    assert not log.exists()


def test_available_memory_is_plausible():
    memory = doctor.available_memory()
    assert memory is None or 10**7 < memory < 10**14


def test_interrupt_leaves_nothing_half_written(make_notebook, tmp_path, log):
    pid = "import os; pid = os.getpid()"
    for name in ("01_long", "02_long"):
        make_notebook(
            name,
            f"{pid}\nwith open({str(log)!r}, 'a') as file:\n    print(pid, file=file)",
            "import time; time.sleep(100)",
        )
    command = [sys.executable, "-m", "airlib", "reproduce", "--jobs", "2"]
    command += ["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 2, 90)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == ""
    assert errors.splitlines() == [
        "2 notebooks to run, 2 at a time",
        "[1/2] 01_long: running",
        "[2/2] 02_long: running",
        "airlib: interrupted; the same command continues with what has not finished",
    ]
    assert files(tmp_path) == set()
    for kernel in map(int, log.read_text().split()):
        wait_for(lambda kernel=kernel: not is_running(kernel), 20)


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Page(HTMLParser):
    """The parts of the report that a reader, a browser or a screen reader gets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.images, self.anchors, self.links = [], [], [], set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes)
        self.anchors.add(attributes.get("id"))
        self.links |= {attributes["href"]} if tag == "a" else set()
        assert tag not in {"script", "link"}
        assert not [name for name in attributes if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


HOSTILE = "<script>alert('1')</script> & \"quotes\""


def make_results(out: Path, notebook: str, text: str) -> Record:
    directory = out / "tiny" / notebook
    directory.mkdir(parents=True)
    (directory / "grid.png").write_bytes(PNG)
    record = Record(directory, notebook, "tiny", {"own": text}, seed=3)
    record.add_figure("grid.png", alt=f"alt {text}", title=f"title {text}")
    record.add(Metric("fd", 1.25, 500, (1.0, 1.5), f"protocol {text}", "human-cat", "AIR", 0))
    record.add_table(f"table {text}", ["a", text], [[text, 0.5], ["b", None]])
    record.save()
    return record


def test_report_embeds_figures_and_escapes_everything(tmp_path):
    make_results(tmp_path, "01_one", HOSTILE)
    make_results(tmp_path, "02_two", "plain")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.open == []
    text = "".join(page.text)
    for part in ("alt", "title", "protocol", "table"):
        assert f"{part} {HOSTILE}" in text
    assert [image["alt"] for image in page.images] == [f"alt {HOSTILE}", "alt plain"]
    assert all(image["src"].startswith("data:image/png;base64,iVBORw0") for image in page.images)
    assert page.links == {"#content", "#tiny-01_one", "#tiny-02_two"}
    assert {link.removeprefix("#") for link in page.links} <= page.anchors
    assert page.anchors - {None} == {"content", "tiny-01_one", "tiny-02_two"}
    for shown in ("1 to 1.5", "1.25", "human-cat", "AIR", "(profile tiny)", "torch", "python"):
        assert shown in text


def test_an_id_of_the_report_is_a_safe_word_of_its_own(tmp_path):
    for number, name in enumerate(["a\tb\nc", "a b c", 'x" onclick="y', "ä%41"]):
        record = make_results(tmp_path, f"0{number}_x", "plain")
        content = json.loads((record.directory / "results.json").read_text())
        (record.directory / "results.json").write_text(json.dumps(content | {"notebook": name}))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.links == {f"#{anchor}" for anchor in page.anchors - {None}}
    expected = {"content", "tiny-a-b-c", "tiny-a-b-c--1", "tiny-x-onclick-y", "tiny-41"}
    assert page.anchors - {None} == expected


def test_report_refuses_damaged_results_and_keeps_the_old_one(tmp_path):
    with pytest.raises(AirlibError, match="no results in"):
        write_report(tmp_path)
    make_results(tmp_path, "01_one", "x")
    before = write_report(tmp_path).read_bytes()
    figure = tmp_path / "tiny/01_one/grid.png"
    figure.write_bytes(b"GIF89a")
    with pytest.raises(AirlibError, match="figure grid.png of 01_one is not a whole PNG"):
        write_report(tmp_path)
    figure.write_bytes(PNG[:-1])
    with pytest.raises(AirlibError, match="figure grid.png of 01_one is not a whole PNG"):
        write_report(tmp_path)
    figure.unlink()
    with pytest.raises(AirlibError, match="there is no file .*grid.png; run the notebook again"):
        write_report(tmp_path)
    (tmp_path / "tiny/01_one/results.json").write_text('{"notebook": "01_one"}')
    with pytest.raises(AirlibError, match="results.json has no valid 'profile'"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
