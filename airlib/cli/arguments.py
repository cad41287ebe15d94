"""The arguments of the command line: one function per command that has some of its own.

    options = build_parser({"doctor": run_doctor, ...}).parse_args()
    code = options.command(options)

What the commands do is in cli.py.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from airlib import __version__
from airlib.errors import printable

SUMMARY = "Zero-shot generative model adaptation, reproduced in notebooks."
USAGE = 2  # the exit code for wrong arguments
Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage first."""

    def error(self, message: str) -> NoReturn:
        sys.exit(fail(f"{message} (see `{self.prog} --help`)", USAGE))


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of `airlib`; its namespace holds the `command` to call with it.

    commands: name -> function, for every name below.
    """
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    parser = _Parser(prog="airlib", description=SUMMARY, parents=[common])
    parser.add_argument("--version", action="version", version=f"airlib {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        added = parsers.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(command=commands[name], after_interrupt="nothing was left half written")
        return added

    _add_reproduce(add("reproduce", "run the notebooks and write report.html"))
    published = add("publish", "store the outputs of a run in the notebooks")
    published.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    _add_places(published)
    _add_train(add("train-tiny", "train one network of the tiny world again"))
    check = add("check-tiny", "measure again what the shipped weights claim")
    quick = "leave out exam, diffusion samples and truth gap"
    check.add_argument("--quick", action="store_true", help=quick)
    _add_sweep(add("sweep", "adapt and score pairs with every method, seed and option"))
    _add_evaluate(add("evaluate", "score adaptations, or images from any tool"))
    _add_fetch(add("fetch", "download and verify published weights and data"))
    _add_import(add("import", "say what a weight file is and convert it to safetensors"))
    doctor = add("doctor", "say whether this machine can run airlib")
    doctor.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    _add_places(doctor)
    return parser


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="the same command continues with what has not finished")
    parser.add_argument("--profile", default="tiny", help="tiny (default) or paper")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NN", help="number or name; repeatable"
    )
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a notebook parameter; repeatable",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="run again what has finished")
    parser.add_argument(
        "--jobs", type=_count, default=None, metavar="N",
        help="notebooks at a time (default: one per core, up to 4; one on a graphics card)",
    )  # fmt: skip
    _add_places(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(after_interrupt="--resume continues from the last checkpoint")
    parser.add_argument("name", metavar="NAME", help="clip, judge, judge_vit, ...")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=_count, default=None, help="other than the recipe's")
    parser.add_argument(
        "--out", type=_path, default=Path("runs/train-tiny"), metavar="DIR",
        help="checkpoints, weights and record (default: runs/train-tiny)",
    )  # fmt: skip


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=_path, metavar="FILE", help=".pkl, .pt, CLIP archive or state")
    parser.add_argument(
        "--out", type=_path, default=None, metavar="FILE", help="default: FILE.safetensors"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--class", type=int, dest="class_index", metavar="N",
        help="of a conditional StyleGAN2: the class to import (0, 1, ...)",
    )  # fmt: skip
    parser.add_argument(
        "--generator", type=_path, metavar="FILE",
        help="of a HyperDomainNet domain: the generator that it was made for",
    )  # fmt: skip
    parser.add_argument(
        "--activation", choices=["quick_gelu", "gelu"],
        help="of a CLIP (default: quick_gelu, of OpenCLIP's training files that of the run)",
    )  # fmt: skip


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
        "what", type=_path, metavar="WHAT",
        help="an adaptation (.safetensors), a folder of them, or a folder of images",
    )  # fmt: skip
    parser.add_argument("--pair", help="what the target is; an adaptation says it itself")
    parser.add_argument(
        "--references", type=_path, metavar="DIR",
        help="images of the target, or an .npz of their statistics (mu, sigma)",
    )  # fmt: skip
    parser.add_argument("--profile", help="tiny or paper (default: the adaptation's, or tiny)")
    parser.add_argument("--protocol", default="full", help="full (default), or quick as in sweeps")
    parser.add_argument("--samples", type=_count, metavar="N", help="images (default: profile's)")
    parser.add_argument("--resize", type=_count, metavar="N", help="cut images to N x N pixels")
    parser.add_argument("--save-images", type=_path, metavar="DIR", help="also write the images")
    parser.add_argument(
        "--out", type=_path, metavar="FILE", help="default: runs/evaluate/NAME-PROTOCOL.json"
    )


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    """Flags have no defaults: those that are given replace what the plan says."""
    parser.set_defaults(after_interrupt="the same command continues with the missing runs")
    parser.add_argument(
        "plan", nargs="?", type=_path, metavar="PLAN",
        help="TOML that says what to run, or the name of a shipped plan (--list)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the shipped plans, run nothing")
    parser.add_argument("--profile", help="tiny (default) or paper")
    parser.add_argument("--methods", nargs="+", help="default: nada air")
    parser.add_argument("--pairs", nargs="+", help="default: those of --role")
    parser.add_argument("--role", help="of the pairs (default: table)")
    parser.add_argument("--seeds", type=_count, help="seeds 0, 1, ... (default: 5)")
    parser.add_argument("--protocol", help="quick (default), text, shown, full or none")
    parser.add_argument(
        "--out", type=_path, metavar="DIR", help="default: runs/ and the name of the plan"
    )
    parser.add_argument("--workers", type=_count, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="of a Dask scheduler, such as tcp://10.0.0.5:8786, whose workers replace --workers",
    )  # fmt: skip


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=_path, default=Path("runs"), metavar="DIR", help="results (default: runs)"
    )
    parser.add_argument(
        "--notebooks", type=_path, default=None, metavar="DIR", help="another folder of notebooks"
    )


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def fail(message: str, code: int) -> int:
    """Say `message` in one line on stderr; returns `code`."""
    print("airlib: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)
    return code


def say(line: object) -> None:
    """Print one line of data, whatever characters a stranger's file has in its names."""
    print(printable(str(line)), flush=True)
