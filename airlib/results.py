"""Results: what a notebook measured, in one `results.json` that tables and the report are made of.

A metric is never a bare number: `Metric` carries its sample size, interval and protocol (what was
compared with what, in which feature space), and the pair, method and seed it belongs to. A `Record`
collects the metrics, figures and tables of one notebook run and saves them whole or not at all;
`load_results` reads and checks such a file. Records travel between machines, so absolute paths and
host names are kept out; NaN and infinities are refused, because they are bugs and not results.
"""

import math
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.files import write_json

FILE_NAME = "results.json"
KEYS = {  # what results.json holds, and the JSON type of each entry
    "notebook": str,
    "profile": str,
    "parameters": dict,
    "seed": int,
    "versions": dict,
    "device": str,
    "seconds": float,
    "peak_gigabytes": float,
    "metrics": list,
    "figures": list,
    "tables": list,
}


@dataclass(frozen=True)
class Metric:
    """One measured value with everything needed to read it.

    `n` counts what was averaged (images, pairs of classes, seeds); `protocol` names how the value
    was made, for example "frechet/judge, 500 generated, 1000 true renders"; `interval` is a 95 %
    interval or None where none was computed. `pair`, `method` and `seed` are None where they do
    not apply.

    Raises AirlibError for NaN or infinite numbers, a negative n, or swapped interval ends.
    """

    name: str
    value: float
    n: int
    interval: tuple[float, float] | None
    protocol: str
    pair: str | None = None
    method: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(bool(self.name), "a metric needs a name")
        _require(bool(self.protocol), f"metric {self.name} needs a protocol: how was it measured?")
        object.__setattr__(self, "value", _finite(self.value, self.name))
        _require(_is_whole(self.n) and self.n >= 0, f"metric {self.name}: n must be a count >= 0")
        object.__setattr__(self, "n", int(self.n))
        if self.interval is not None:
            _require(len(self.interval) == 2, f"metric {self.name}: an interval has two ends")
            low, high = (_finite(end, f"{self.name} interval") for end in self.interval)
            _require(low <= high, f"metric {self.name}: interval ({low}, {high}) is reversed")
            object.__setattr__(self, "interval", (low, high))


class Record:
    """Collects one notebook run and writes `directory/results.json`.

    `parameters` are the notebook's parameters as JSON values, without directories and other
    absolute paths: a record must read the same on every machine. Raises AirlibError for parameters
    that hold such paths, NaN or infinities.
    """

    def __init__(
        self,
        directory: str | Path,
        notebook: str,
        profile: str,
        parameters: dict[str, Any],
        seed: int,
    ) -> None:
        self.directory = Path(directory)
        self.notebook, self.profile, self.seed = notebook, profile, seed
        self.parameters = _plain(parameters, "parameters")
        self.metrics: list[Metric] = []
        self._figures: dict[str, dict] = {}
        self._tables: list[dict] = []
        self._started = time.monotonic()

    def add(self, *metrics: Metric) -> None:
        """Append metrics to the record. Raises AirlibError for anything that is no `Metric`."""
        for metric in metrics:
            _require(isinstance(metric, Metric), f"{metric!r} is not a Metric")
        self.metrics.extend(metrics)

    def add_figure(self, file: str, alt: str, title: str = "") -> None:
        """Register an image already saved at `directory/file`; `alt` says what it shows.

        A second figure of the same file replaces the first (a cell was run twice). Raises
        AirlibError if there is no such file below `directory`, or no alt text.
        """
        _require(_is_relative(file), f"figure {file!r} must be a path relative to the results")
        _require(
            (self.directory / file).is_file(), f"figure {file} must be saved before it is added"
        )
        _require(bool(alt.strip()), f"figure {file} needs an alt text: say what it shows")
        self._figures[file] = {"file": file, "alt": alt, "title": title}

    def add_table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
        """Register a table of strings, numbers and None for the report.

        Raises AirlibError if a row has another number of cells than `columns`, or holds NaN,
        infinities, absolute paths or other objects.
        """
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        for row in table["rows"]:
            _require(
                len(row) == len(table["columns"]),
                f"table {title!r}: row {row} does not have {len(table['columns'])} cells",
            )
        self._tables.append(_plain(table, f"table {title!r}"))

    def save(self) -> Path:
        """Write results.json, whole or not at all, and return its path.

        Seconds since the record was made, peak memory, device and versions are added. May be called
        several times. Raises AirlibError for NaN, infinities and absolute paths in the record.
        """
        content = {
            "notebook": self.notebook,
            "profile": self.profile,
            "parameters": self.parameters,
            "seed": self.seed,
            "versions": versions(),
            "device": _device(),
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_gigabytes": round(_peak_memory() / 1e9, 2),
            "metrics": [asdict(metric) for metric in self.metrics],
            "figures": list(self._figures.values()),
            "tables": self._tables,
        }
        return write_json(self.directory / FILE_NAME, _plain(content, "results"))


def load_results(path: str | Path) -> dict[str, Any]:
    """Read and check one results.json; returns its content as plain JSON values.

    The keys are notebook, profile, parameters, seed, versions, device, seconds, peak_gigabytes,
    metrics, figures and tables.

    Raises AirlibError if the file is missing, is not JSON, or lacks what `Record.save` writes.
    """
    path = Path(path)
    content = read_json(path, "run its notebook again")
    _require(isinstance(content, dict), f"{path} is not a results file; run its notebook again")
    for key, kind in KEYS.items():
        accepted = (int, float) if kind is float else kind
        _require(
            isinstance(content.get(key), accepted),
            f"{path} has no valid {key!r}; run its notebook again",
        )
    try:
        for entry in content["metrics"]:
            Metric(**entry)
        for figure in content["figures"]:
            _require(_is_relative(figure["file"]), f"figure path {figure['file']} is not relative")
            texts = figure["alt"], figure.get("title", "")
            _require(_are(str, texts), f"figure {figure['file']} has no alt text or no title")
        for table in content["tables"]:
            title, columns, rows = table["title"], table["columns"], table["rows"]
            _require(isinstance(title, str), f"the title {title!r} of a table is no text")
            _require(_are(list, [columns, rows, *rows]), f"table {title!r} is no list of rows")
            _require({*map(len, rows)} <= {len(columns)}, f"table {title!r} is ragged")
    except (TypeError, KeyError, AttributeError, AirlibError) as error:
        raise AirlibError(f"{path} is damaged ({error}); run its notebook again") from error
    return content


def versions() -> dict[str, str]:
    """Versions that can change a number, by name; no host name, user name or path.

    The names are python, airlib, torch, open_clip, numpy and platform.
    """
    import airlib

    found = {"python": platform.python_version(), "airlib": airlib.__version__}
    for name, package in (("torch", "torch"), ("open_clip", "open_clip_torch"), ("numpy", "numpy")):
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "platform": f"{platform.system()} {platform.machine()}"}


def _device() -> str:
    torch = sys.modules.get("torch")  # a notebook that never imported it ran on the CPU
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu"


def _peak_memory() -> int:
    """The most memory in bytes that the GPU, or else the largest process of this run, has held."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(who).ru_maxrss for who in whose)
    return largest * (1 if sys.platform == "darwin" else 1024)


def _plain(value: Any, where: str) -> Any:
    """`value` as plain JSON types; refuses NaN, absolute paths and objects JSON does not know."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
        _require(not absolute, f"{where}: {value!r} is an absolute path; keep paths out of results")
        return value
    if isinstance(value, dict):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, where) for entry in value]
    if _is_whole(value):
        return int(value)
    return _finite(value, where)


def _finite(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise AirlibError(f"{where}: {value!r} is not a number") from error
    _require(math.isfinite(number), f"{where} is {number}: find out why instead of recording it")
    return number


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _is_relative(file: Any) -> bool:
    if not isinstance(file, str) or not file or PureWindowsPath(file).is_absolute():
        return False
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _are(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AirlibError(message)
