"""The command line: reproduce, publish, sweep, evaluate, train-tiny, check-tiny, fetch, import,
doctor.

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

from airlib.cli.arguments import build_parser, fail, say
from airlib.errors import AirlibError

SUCCESS, FAILURE, INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser(COMMANDS).parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return fail(f"interrupted; {options.after_interrupt}", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if "debug" in options:
            traceback.print_exc()
        return fail(_describe(error), FAILURE)
    return code


def _reproduce(options: argparse.Namespace) -> int:
    from airlib.reproduction.runner import reproduce

    report = reproduce(
        profile=options.profile,
        only=options.only,
        out=options.out,
        parameters=options.parameter,
        fresh=options.fresh,
        notebooks=options.notebooks,
        jobs=options.jobs,
    )
    say(report)
    return SUCCESS


def _publish(options: argparse.Namespace) -> int:
    from airlib.reproduction.publish import publish

    for path in publish(options.profile, options.out, options.notebooks):
        say(path)
    return SUCCESS


def _train_tiny(options: argparse.Namespace) -> int:
    from airlib.studies.train_tiny import train_tiny

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
    from airlib.studies.check_tiny import check_tiny

    print(json.dumps(check_tiny(quick=options.quick), allow_nan=False))
    return SUCCESS


def _sweep(options: argparse.Namespace) -> int:
    from airlib.experiments.plan import listing, plan_of_flags, read_plan, run_plan

    if options.list:
        print("\n".join(listing()))
        return SUCCESS
    keys = ("profile", "methods", "pairs", "role", "seeds", "protocol")
    given = {key: value for key in keys if (value := getattr(options, key)) is not None}
    plan = read_plan(options.plan, given) if options.plan else plan_of_flags(given)
    out = options.out or Path("runs", options.plan.stem if options.plan else "sweep")
    path, errors = run_plan(plan, out, options.workers, options.scheduler)
    for name, error in errors.items():
        fail(f"{name}: {error}", FAILURE)
    say(path)
    return FAILURE if errors else SUCCESS


def _evaluate(options: argparse.Namespace) -> int:
    from airlib.experiments.evaluate import evaluate_path, results_file

    out = results_file(options.what, options.protocol, options.out)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _warn(str(message))
        report = evaluate_path(
            options.what, pair=options.pair, references=options.references, profile=options.profile,
            protocol=options.protocol, samples=options.samples, resize=options.resize,
            images_to=options.save_images,
        )  # fmt: skip
    path = report.save(out)
    print(report.table())
    say(f"file: {path}")
    return SUCCESS


def _warn(message: str) -> None:
    fail(message, SUCCESS)


def _fetch(options: argparse.Namespace) -> int:
    from airlib.assets import store
    from airlib.assets.manifests import listing, select

    if options.list:
        print("\n".join(listing(options.only)))
        return SUCCESS
    if not select(options.profile, options.only):
        print("airlib: the weights of this profile are in the package", file=sys.stderr)
    code = SUCCESS
    for finding in store.fetch(options.profile, options.only):
        name = f"{finding.asset.name}/{finding.file.file}"
        if finding.state == store.PRESENT:
            say(f"{name}: {finding.text}")
        else:
            code = fail(f"{name}: {finding.text}", FAILURE)
    return code


def _import(options: argparse.Namespace) -> int:
    from airlib.checkpoints.importing import describe, import_file

    path = import_file(
        options.file, options.out, options.force, options.class_index, options.generator,
        options.activation,
    )  # fmt: skip
    for name, value in describe(path).items():
        say(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")
    say(f"file: {path}")
    return SUCCESS


def _doctor(options: argparse.Namespace) -> int:
    from airlib.reproduction.doctor import examine
    from airlib.reproduction.plan import find_notebooks

    found, problems = examine(options.out, options.profile)
    try:
        found["notebooks"] = ", ".join(path.stem for path in find_notebooks(options.notebooks))
    except AirlibError as error:
        found["notebooks"] = "none"
        problems.append(str(error))
    for name, value in found.items():
        say(f"{name}: {value}")
    for problem in problems:
        fail(problem, FAILURE)
    return FAILURE if problems else SUCCESS


COMMANDS = {
    "reproduce": _reproduce,
    "publish": _publish,
    "train-tiny": _train_tiny,
    "check-tiny": _check_tiny,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "fetch": _fetch,
    "import": _import,
    "doctor": _doctor,
}


def _describe(error: Exception) -> str:
    if isinstance(error, AirlibError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("airlib"):
        return f"{error}; install everything with: pip install -e '.[notebooks]'"
    return f"{type(error).__name__}: {error} (unexpected; --debug shows where)"
