"""The command line: reproduce, publish, sweep, sweep-templates, evaluate, train-tiny,
check-tiny, choose-settings, fetch, import, doctor.

Data goes to stdout, everything else to stderr. The exit code is 0 only on success; an error is one
line that says what was wrong and what to do (`--debug` adds the traceback), and Ctrl-C exits with
130. What a command needs is imported when it runs, so that `airlib --help` answers at once.
"""

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from airlib import __version__
from airlib.errors import AirlibError

SUMMARY = "Zero-shot generative model adaptation, reproduced in notebooks."
SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(f"interrupted; {options.after_interrupt}", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if "debug" in options:
            traceback.print_exc()
        return _fail(_describe(error), FAILURE)
    return code


def _reproduce(options: argparse.Namespace) -> int:
    from airlib.reproduce import reproduce

    report = reproduce(
        profile=options.profile,
        only=options.only,
        out=options.out,
        parameters=options.parameter,
        fresh=options.fresh,
        notebooks=options.notebooks,
    )
    print(report)
    return SUCCESS


def _publish(options: argparse.Namespace) -> int:
    from airlib.publish import publish

    for path in publish(options.profile, options.out, options.notebooks):
        print(path)
    return SUCCESS


def _train_tiny(options: argparse.Namespace) -> int:
    from airlib.tinyworld.training import train_tiny

    record = train_tiny(
        options.name,
        seed=options.seed,
        steps=options.steps,
        resume=options.resume,
        directory=options.out,
    )
    print(json.dumps({key: value for key, value in record.items() if key != "curve"}))
    return SUCCESS


def _check_tiny(options: argparse.Namespace) -> int:
    from airlib.tinyworld.check import check_tiny

    print(json.dumps(check_tiny(quick=options.quick), allow_nan=False))
    return SUCCESS


def _sweep(options: argparse.Namespace) -> int:
    from airlib.sweep import sweep_table

    print(sweep_table(options.profile, options.seeds, options.out, options.workers))
    return SUCCESS


def _evaluate(options: argparse.Namespace) -> int:
    from airlib.evaluate import evaluate_path, results_file

    out = results_file(options.what, options.protocol, options.out)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"airlib: {message}", file=sys.stderr)
        report = evaluate_path(
            options.what, pair=options.pair, references=options.references, profile=options.profile,
            protocol=options.protocol, samples=options.samples, resize=options.resize,
            images_to=options.save_images,
        )  # fmt: skip
    path = report.save(out)
    print(f"{report.table()}\nfile: {path}")
    return SUCCESS


def _sweep_templates(options: argparse.Namespace) -> int:
    from airlib.studies.template_sweep import sweep_study

    print(sweep_study(options.profile, options.seeds, options.out, options.workers))
    return SUCCESS


def _choose_settings(options: argparse.Namespace) -> int:
    from airlib.studies.settings import candidates, run_candidates, save_settings

    rows = run_candidates(candidates(), options.out, workers=options.workers)
    print(save_settings(rows, options.out / "tiny_settings.json"))
    return SUCCESS


def _fetch(options: argparse.Namespace) -> int:
    from airlib import assets
    from airlib.manifests import listing, select

    if options.list:
        print("\n".join(listing(options.only)))
        return SUCCESS
    if not select(options.profile, options.only):
        print("airlib: the weights of this profile are in the package", file=sys.stderr)
    code = SUCCESS
    for finding in assets.fetch(options.profile, options.only):
        name = f"{finding.asset.name}/{finding.file.file}"
        if finding.state == assets.PRESENT:
            print(f"{name}: {finding.text}", flush=True)
        else:
            code = _fail(f"{name}: {finding.text}", FAILURE)
    return code


def _import(options: argparse.Namespace) -> int:
    from airlib.checkpoints.importing import describe, import_file

    path = import_file(options.file, options.out, options.force)
    for name, value in describe(path).items():
        print(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")
    print(f"file: {path}")
    return SUCCESS


def _doctor(options: argparse.Namespace) -> int:
    from airlib.doctor import examine
    from airlib.reproduce import find_notebooks

    found, problems = examine(options.out, options.profile)
    try:
        found["notebooks"] = ", ".join(path.stem for path in find_notebooks(options.notebooks))
    except AirlibError as error:
        found["notebooks"] = "none"
        problems.append(str(error))
    for name, value in found.items():
        print(f"{name}: {value}")
    for problem in problems:
        _fail(problem, FAILURE)
    return FAILURE if problems else SUCCESS


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage first."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(f"{message} (see `{self.prog} --help`)", USAGE))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    parser = _Parser(prog="airlib", description=SUMMARY, parents=[common])
    parser.add_argument("--version", action="version", version=f"airlib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(command=command, after_interrupt="nothing was left half written")
        return added

    _add_reproduce(add("reproduce", _reproduce, "run the notebooks and write report.html"))
    published = add("publish", _publish, "store the outputs of a run in the notebooks")
    published.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    _add_places(published)
    _add_train(add("train-tiny", _train_tiny, "train one network of the tiny world again"))
    check = add("check-tiny", _check_tiny, "measure again what the shipped weights claim")
    check.add_argument("--quick", action="store_true", help="leave out exam and truth gap")
    swept = add("sweep", _sweep, "adapt and score every table pair with every method and seed")
    _add_sweep(swept, Path("runs/sweep"), seeds=5)
    worded = add("sweep-templates", _sweep_templates, "adapt and score with every prompt template")
    _add_sweep(worded, Path("runs/templates"), seeds=3)
    _add_evaluate(add("evaluate", _evaluate, "score adaptations, or images from any tool"))
    chosen = add("choose-settings", _choose_settings, "repeat the sweep over development pairs")
    _add_runs(chosen, Path("runs/settings"))
    _add_fetch(add("fetch", _fetch, "download and verify published weights and data"))
    _add_import(add("import", _import, "say what a weight file is and convert it to safetensors"))
    doctor = add("doctor", _doctor, "say whether this machine can run airlib")
    doctor.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    _add_places(doctor)
    return parser


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="the same command continues with this notebook")
    parser.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NN", help="number or name; repeatable"
    )
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a notebook parameter; repeatable",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="run again what has finished")
    _add_places(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="--resume continues from the last checkpoint")
    parser.add_argument("name", metavar="NAME", help="clip, judge, judge_vit, ...")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=_count, default=None, help="other than the recipe's")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/train-tiny"), metavar="DIR",
        help="checkpoints, weights and record (default: runs/train-tiny)",
    )  # fmt: skip


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".pkl, .pt or CLIP archive")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="FILE", help="default: FILE.safetensors"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="the same command continues the download")
    parser.add_argument("--profile", default="paper", help="paper (default); tiny needs nothing")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="an asset or a group such as generators; repeatable",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list all assets, fetch nothing")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="the same command continues where it stopped")
    parser.add_argument(
        "what", type=Path, metavar="WHAT",
        help="an adaptation (.safetensors), a folder of them, or a folder of images",
    )  # fmt: skip
    parser.add_argument("--pair", help="what the target is; an adaptation says it itself")
    parser.add_argument("--references", type=Path, metavar="DIR", help="images of the target")
    parser.add_argument("--profile", help="tiny or paper (default: the adaptation's, or tiny)")
    parser.add_argument("--protocol", default="full", help="full (default), or quick as in sweeps")
    parser.add_argument("--samples", type=_count, metavar="N", help="images (default: profile's)")
    parser.add_argument("--resize", type=_count, metavar="N", help="cut images to N x N pixels")
    parser.add_argument("--save-images", type=Path, metavar="DIR", help="also write the images")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: runs/evaluate/NAME-PROTOCOL.json"
    )


def _add_sweep(parser: argparse.ArgumentParser, out: Path, seeds: int) -> None:
    parser.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    parser.add_argument(
        "--seeds", type=_count, default=seeds, help=f"seeds 0, 1, ... (default: {seeds})"
    )
    _add_runs(parser, out)


def _add_runs(parser: argparse.ArgumentParser, out: Path) -> None:
    parser.set_defaults(after_interrupt="the same command continues with the missing runs")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"default: {out}")
    parser.add_argument("--workers", type=_count, default=2, help="processes (default: 2)")


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="results (default: runs)"
    )
    parser.add_argument(
        "--notebooks", type=Path, default=None, metavar="DIR", help="another folder of notebooks"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _describe(error: Exception) -> str:
    if isinstance(error, AirlibError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("airlib"):
        return f"{error}; install everything with: pip install -e '.[notebooks]'"
    return f"{type(error).__name__}: {error} (unexpected; --debug shows where)"


def _fail(message: str, code: int) -> int:
    print("airlib: " + " ".join(message.split()), file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
