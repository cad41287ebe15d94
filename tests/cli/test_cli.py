"""The command line: exit codes, one line per error, data on stdout."""

import subprocess
import sys

import pytest

from airlib import __version__
from airlib.cli.commands import main


def errors_of(capsys, *arguments: str) -> tuple[int, str]:
    """(exit code, the one line on stderr) of a command that fails and prints no data."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("airlib: ") and errors.count("\n") == 1, errors
    return code, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["reproduc"], "invalid choice: 'reproduc'"),
        (["reproduce", "--profil"], "--profil"),
        (["reproduce", "-p", "seed"], "expected 2 arguments"),
        (["train-tiny"], "the following arguments are required: NAME"),
        (["train-tiny", "clip", "--steps", "0"], "'0' is not a whole number above 0"),
        (["train-tiny", "clip", "--seed", "x"], "invalid int value: 'x'"),
        (["sweep", "a\0b"], "'a\\x00b' is no name of a file"),
        (["evaluate", "a", "--out", "\0"], "'\\x00' is no name of a file"),
        (["doctor", "--notebooks", ""], "'' is no name of a file"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    code, errors = errors_of(capsys, *arguments)
    assert code == 2
    assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'; choose from paper, tiny"),
        (["--only", "07"], "unknown notebook '07'; choose from 01_first, 02_second"),
        (["-p", "sed", "1"], "unknown parameter 'sed'; known: dry_run, "),
        (["-p", "seed", "one"], "parameter seed must be of type int"),
        (["-p", "overrides", '{"a.b": 1}'], "a does not exist in profile tiny (known: "),
        (["-p", "overrides", '{"a":' * 50_000], "parameter overrides must be of type dict"),
        (["-p", "overrides", '{"a": 1, "a": 2}'], "parameter overrides must be of type dict"),
    ],
)
def test_bad_input_of_reproduce(capsys, make_notebook, tmp_path, arguments, message):
    make_notebook("01_first")
    make_notebook("02_second")
    places = ["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "out")]
    code, errors = errors_of(capsys, "reproduce", *places, *arguments)
    assert code == 1
    assert message in errors


def test_a_directory_that_cannot_be_written(capsys, make_notebook, tmp_path):
    make_notebook("01_first")
    (tmp_path / "out").write_text("a file in the way")
    places = ["--notebooks", str(tmp_path / "notebooks"), "--out", str(tmp_path / "out")]
    code, errors = errors_of(capsys, "reproduce", *places)
    assert code == 1
    assert "choose a writable directory" in errors
    assert (tmp_path / "out").read_text() == "a file in the way"


def test_a_folder_without_notebooks(capsys, tmp_path):
    code, errors = errors_of(capsys, "reproduce", "--notebooks", str(tmp_path))
    assert code == 1
    assert "no notebooks NN_name.ipynb in" in errors


@pytest.mark.slow  # starts processes
def test_reproduce_prints_the_report_and_refuses_damaged_results(
    airlib_command, make_notebook, tmp_path
):
    make_notebook("01_first")
    places = ["--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out"]
    done = airlib_command("reproduce", *places)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out' / 'report.html'}\n")
    assert done.stderr.startswith("[1/1] 01_first: running\n[1/1] 01_first: finished in ")

    other = tmp_path / "out/tiny/99_other/results.json"
    other.parent.mkdir()
    other.write_text("{}")
    done = airlib_command("reproduce", *places)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "[1/1] 01_first: already finished"
    assert lines[1].startswith(f"airlib: {other} has no valid 'notebook'")
    assert len(lines) == 2


def test_debug_shows_the_traceback(capsys, tmp_path):
    for arguments in (
        ["--debug", "reproduce", "--notebooks", str(tmp_path)],
        ["reproduce", "--notebooks", str(tmp_path), "--debug"],
    ):
        assert main(arguments) == 1
        errors = capsys.readouterr().err
        assert "Traceback" in errors
        assert errors.splitlines()[-1].startswith("airlib: no notebooks")


def test_unknown_network(capsys):
    code, errors = errors_of(capsys, "train-tiny", "gpt")
    assert code == 1
    assert "gpt" in errors and "choose from clip, judge, judge_vit, stylegan2" in errors


def test_version(airlib_command):
    done = airlib_command("--version")
    assert (done.returncode, done.stdout) == (0, f"airlib {__version__}\n")


@pytest.mark.slow  # starts processes
def test_doctor_tells_what_it_found(airlib_command, make_notebook, tmp_path):
    make_notebook("01_first")
    done = airlib_command(
        "doctor", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "out"
    )
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert found["airlib"] == __version__
    assert found["notebooks"] == "01_first"
    assert found["free memory"].endswith(" GB")
    assert {"torch", "device", "free disk", "weights clip"} <= set(found)
    damaged = [name for name, value in found.items() if "damaged" in value]
    assert done.returncode == (1 if damaged else 0), done.stderr
    assert not (tmp_path / "out").exists()


def test_doctor_finds_a_damaged_weight_file(tmp_path, monkeypatch, capsys):
    from airlib.reproduction import doctor

    (tmp_path / "clip.safetensors").write_bytes(b"\x08\x00")
    monkeypatch.setattr(doctor, "WEIGHTS_DIRECTORY", tmp_path)
    assert main(["doctor", "--out", str(tmp_path)]) == 1
    output, errors = capsys.readouterr()
    assert "weights clip: missing or damaged" in output
    assert f"{tmp_path / 'clip.safetensors'} is damaged" in errors
    assert f"no such file: {tmp_path / 'judge.safetensors'}" in errors


def test_a_reader_that_stops_early_is_no_traceback(tmp_path):
    command = f"{sys.executable} -m airlib.cli.commands doctor --out {tmp_path} | head -c 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
