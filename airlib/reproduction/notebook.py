"""What every notebook does first and last: `session = setup(...)`, `session.finish()`.

    session = setup("03_air", profile, seed, out_dir, overrides, dry_run)
    session.profile.methods.air.steps             # numbers
    session.record.add(metric)                    # measurements, see airlib.results
    session.show(figure, "pairs", alt="...")      # saved, recorded and displayed
    session.finish()                              # writes results.json

Everything goes to `<out_dir or ./runs>/<profile>/<notebook>/`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airlib.errors import AirlibError
from airlib.files import write_atomically
from airlib.profiles import Profile, load_profile
from airlib.results import Record, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_OUT = "runs"


class Session:
    """One run of one notebook, as `setup` returns it.

    `profile` holds the numbers to use, `record` (`airlib.results.Record`) collects what is
    measured, and `seed` is the seed of the run.
    """

    def __init__(self, profile: Profile, record: Record, seed: int) -> None:
        self.profile, self.record, self.seed = profile, record, seed

    @property
    def runs(self) -> Path:
        """The folder of adaptations, one for all notebooks with the same `out_dir` and profile:
        what one has made, another need not make again.
        """
        return self.record.directory.parent / "runs"

    def show(self, figure: "Figure", name: str, alt: str, title: str = "") -> None:
        """Save `figure` as `<name>.png`, record it, and display a small version of it.

        `alt` says in a sentence what the figure shows: for readers who cannot see it, and as the
        text of the output where pictures are not displayed. Raises AirlibError for a name with
        other characters than letters, digits, '_', '-' and '.', and for an empty `alt`.
        """
        from IPython import display, get_ipython

        from airlib.showing import figures

        _require_name(name, "figure")
        dry = ", dry run" * self.record.parameters["dry_run"]
        figures.stamp(figure, f"profile: {self.profile.name}{dry}")
        figures.save_figure(figure, self.record.directory / f"{name}.png", alt)
        self.record.add_figure(f"{name}.png", alt, title)
        text = f"{title or name}: {alt}"
        if get_ipython() is None:  # a plain script shows no pictures
            print(text)
            return
        bundle = {"image/png": figures.screen_png(figure), "text/plain": text}
        display.display(bundle, raw=True, metadata={"image/png": {"alt": alt}})

    def finish(self) -> None:
        """Write results.json and print the number of metrics: the last line of every notebook."""
        path = self.record.save()
        print(f"{len(self.record.metrics)} metrics saved to {path.name}")


def setup(
    notebook: str,
    profile: str,
    seed: int,
    out_dir: str = "",
    overrides: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Session:
    """Begin a notebook: check its parameters, print the versions, and open its results.

    notebook: its name, such as "03_air". profile: "tiny" or "paper". out_dir: where results go, to
    `<out_dir or ./runs>/<profile>/<notebook>/`. overrides: numbers of the profile to change, such
    as {"methods.air.steps": 30}. dry_run: use the smallest numbers that still touch everything.

    Raises AirlibError for a parameter that is wrong (the message lists what is allowed) and for a
    directory that cannot be written, before anything is computed.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise AirlibError(f"seed must be a whole number >= 0, not {seed!r}")
    if not isinstance(dry_run, bool):
        raise AirlibError(f"dry_run must be True or False, not {dry_run!r}")
    numbers = load_profile(profile, overrides, dry_run)
    directory = run_directory(out_dir, profile, notebook)
    parameters = {"overrides": dict(overrides or {}), "dry_run": dry_run}
    record = Record(directory, notebook, profile, parameters, seed)
    print(" · ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"notebook {notebook} · profile {profile} · seed {seed}" + " · dry run" * dry_run)
    return Session(numbers, record, seed)


def run_directory(out_dir: str | Path, profile: str, notebook: str) -> Path:
    """Create the folder `<out_dir or ./runs>/<profile>/<notebook>/` and return its path.

    Raises AirlibError if it cannot be written.
    """
    _require_name(notebook, "notebook")
    directory = Path(out_dir or DEFAULT_OUT) / profile / notebook
    write_atomically(directory / "writable", lambda path: path.touch()).unlink()
    return directory


def _require_name(name: str, what: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise AirlibError(f"{what} name {name!r} may hold letters, digits, '_', '-' and '.' only")
