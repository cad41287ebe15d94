"""A run of a sweep: its name, its files, and the records that tables are made of.

    run = Run("human-baby", "air", 0, Path("runs/sweep"), options=(("t_int", 0.1),))
    run.stem.name                     # "human-baby-air-0-t_int=0.1"
    run.value("frechet")              # once it is scored
    run.adaptation()                  # the adapted generator

Each run leaves STEM.safetensors (the adaptation) and, last, STEM.json, its record: `inputs`, what
it was made from, and `metrics`. `save_runs` puts the records of a sweep in one file, `load_runs`
reads it; those that are shipped are below.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airlib.adaptation import Adaptation, read_log
from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.experiments.inputs import same_adaptation, same_inputs
from airlib.files import write_json
from airlib.results import Metric

SHIPPED_RUNS = Path(__file__).parent / "shipped"
SHIPPED = SHIPPED_RUNS / "tiny_runs.json"  # the methods and AIR's ablations on the table's pairs
SHIPPED_ARMS = SHIPPED_RUNS / "tiny_arms.json"  # NADA and HyperDomainNet's arms on the same
SHIPPED_UNSEEN = SHIPPED_RUNS / "tiny_unseen.json"  # a domain vector for each unseen domain
SHIPPED_PREDICTED = SHIPPED_RUNS / "tiny_unseen_network.json"  # the hypernetwork on these domains
SHIPPED_DIFFUSION = SHIPPED_RUNS / "tiny_diffusion.json"  # NADA and AIR on a diffusion model
SHIPPED_LORA = SHIPPED_RUNS / "tiny_lora.json"  # NADA there, with other ranks and layers
SHIPPED_RATES = SHIPPED_RUNS / "tiny_diffusion_settings.json"  # both, with other rates and lengths
SHIPPED_KNOBS = SHIPPED_RUNS / "tiny_knobs.json"  # AIR with other thresholds and intervals
SHIPPED_TEMPLATES = SHIPPED_RUNS / "tiny_templates.json"  # NADA with one prompt template each
SHIPPED_ONE_SHOT = SHIPPED_RUNS / "tiny_one_shot.json"  # what is shown one picture of the target
SHIPPED_SETTINGS = SHIPPED_RUNS / "tiny_settings.json"  # what the tiny profile was chosen by
SHIPPED_HYPERNETWORK = SHIPPED_RUNS / "tiny_hypernetwork.json"  # trained with parts left out
SHIPPED_ADAPTATIONS = SHIPPED_RUNS / "adaptations"  # of some: small adaptations, and logs
RUN_AGAIN = "delete it and run the sweep again"
LONGEST_NAME = 200  # characters; file systems take 255 bytes, suffix included


@dataclass(frozen=True)
class Run:
    """One method on one pair with one seed, with some of its numbers changed; or one training.

    pair: "" for a training. train: the task of a training, as in `experiments.trainings`.
    """

    pair: str
    method: str
    seed: int
    directory: Path = Path()
    metrics: tuple[Metric, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()  # as `World.adapt` takes them, sorted by name
    train: str = ""

    @property
    def stem(self) -> Path:
        """Where the run is kept, without a suffix; every run has a name of its own."""
        named = "-".join(filter(None, (self.pair, self.method, str(self.seed))))
        options = "".join(f"-{k}={quote(_text(v), safe='[], ')}" for k, v in self.options)
        return self.directory / f"{named}{options}"

    def file(self, suffix: str) -> Path:
        """`stem` with a suffix behind it; a stem may have dots of its own, as in t_int=0.1."""
        return self.stem.with_name(self.stem.name + suffix)

    @property
    def label(self) -> str:
        """The method in the metrics."""
        return label_of(self.method, dict(self.options))

    @property
    def is_here(self) -> bool:
        """Whether it was run in this directory, or its metrics are known from elsewhere."""
        return self.file(".json").exists()

    def adaptation(self) -> Adaptation:
        """What the run changed."""
        return Adaptation.load(self.file(".safetensors"))

    @property
    def log(self) -> list[dict]:
        """The entries of its steps and events; [] where no log was kept."""
        return read_log(self.file(".safetensors"))

    def was_made_from(self, inputs: Mapping[str, Any]) -> bool:
        """Whether this directory holds its adaptation, made from these inputs."""
        record, tensors = self.file(".json"), self.file(".safetensors")
        if not (record.exists() and tensors.exists()):
            return False
        return same_adaptation(read_record(record).get("inputs", {}), inputs)

    def value(self, name: str) -> float:
        """The metric called `name` of the images under the run's own label."""
        return self.values[name]

    @property
    def values(self) -> dict[str, float]:
        """Every metric of the images under the run's own label: name -> value."""
        return {m.name: m.value for m in self.metrics if m.method == self.label}

    def with_metrics(self, entries: Iterable[Mapping[str, Any]]) -> "Run":
        """The run with the metrics of its record."""
        return replace(self, metrics=tuple(Metric(**entry) for entry in entries))


def label_of(method: str, options: Mapping[str, Any]) -> str:
    """A method with some of its numbers changed is another one, "air t_int=0.1" than "air"."""
    return " ".join([method, *(f"{key}={_text(options[key])}" for key in sorted(options))])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_names(runs: Sequence[Run]) -> None:
    """Each run has a file of its own, with a name that a file system takes; else AirlibError."""
    seen = set()
    for run in runs:
        if len(run.stem.name) > LONGEST_NAME:
            raise AirlibError(f"the name {run.stem.name!r} is too long; change fewer options")
        if run.stem in seen:
            raise AirlibError(f"the run {run.stem.name} is asked for twice; name everything once")
        seen.add(run.stem)


# -- records -----------------------------------------------------------------------------------
def save_runs(runs: Sequence[Run], path: str | Path, command: str) -> Path:
    """All finished runs in one file, each with the inputs that it was made from."""
    records = {run.stem.name: read_record(run.file(".json")) for run in runs}
    return write_json(path, {"command": command, "runs": records})


def load_runs(path: str | Path = SHIPPED) -> dict:
    """What `save_runs` wrote: {"human-baby-air-0": {"inputs": ..., "metrics": ...}}."""
    path = Path(path)
    runs = read_json(path, RUN_AGAIN)
    runs = runs.get("runs") if isinstance(runs, dict) else None
    if not isinstance(runs, dict) or not all(map(_is_record, runs.values())):
        raise AirlibError(f"{path} holds no records of a sweep; {RUN_AGAIN}")
    return runs


def largest_difference(runs: Sequence[Run], known: dict) -> float | None:
    """The largest difference of a metric between runs made here and the same runs in `known`
    (`load_runs`), as a share of its known value; None where no run with equal inputs is in both.
    """
    shares = []
    for run in runs:
        there = known.get(run.stem.name)
        if there and same_inputs(there["inputs"], read_record(run.file(".json"))["inputs"]):
            values = {(m["method"], m["name"]): m["value"] for m in there["metrics"]}
            own = {(m.method, m.name): m.value for m in run.metrics}
            shares += [
                abs(own[key] / value - 1) for key, value in values.items() if value and key in own
            ]
    return max(shares) if shares else None


def recorded(path: Path, inputs: dict, make: Callable[[], Iterable[Metric]]) -> list[dict]:
    """The metrics that `make` returns, as JSON values; read from `path` if they were made from the
    same inputs before, else made and written there beside them.
    """
    saved = read_record(path) if path.exists() else {}
    if not same_inputs(saved.get("inputs", {}), inputs):
        path.unlink(missing_ok=True)  # `make` may overwrite what the old record describes
        saved = {"inputs": inputs, "metrics": [asdict(metric) for metric in make()]}
        write_json(path, saved)
    return saved["metrics"]


def read_record(path: Path) -> dict:
    """The record of a run; AirlibError if it is missing or damaged."""
    record = read_json(path, RUN_AGAIN)
    if not _is_record(record):
        raise AirlibError(f"{path} is no record of a run; {RUN_AGAIN}")
    return record


def _is_record(record: Any) -> bool:
    """Whether it has the inputs and metrics of a run."""
    try:
        inputs = record["inputs"]
        tables = inputs, inputs.get("method", {}), inputs.get("world", {})
        for entry in record["metrics"]:
            Metric(**entry)
    except (TypeError, KeyError, AttributeError, AirlibError):
        return False
    return all(isinstance(table, dict) for table in tables)
