"""The one loop: move a copy of a generator so that CLIP sees the text change, keep the rest.

    result = adapt(source, space, NADA(space, "human", "baby"), synthesis(), AdaptationConfig())
    images = result.apply(source)(latents)
    result.save("baby.safetensors")

The loop owns seeds, steps, optimiser, progress bar, log, snapshots, checkpoints and guards; the
objective owns the loss, regularizers add to it, the parameterization owns what may move. Step k
draws from streams of (seed, k), so a run that was killed and called again with the same `directory`
ends with the same bits as one that was not.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipSpace
from airlib.documents import parse_json, read_text, wrong_entry
from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors, write_text
from airlib.generators.base import Generator
from airlib.generators.identity import identity, is_source
from airlib.methods.step import Objective, Regularizer, Step
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.registry import current_name, parameterization_of
from airlib.progress import track
from airlib.seeding import rng
from airlib.training.guard import Guard
from airlib.training.state import pack, unpack

HEADER = {"parameterization": str, "parameterization_module": str, "labels": {}, "adaptation": {}}
LONGEST_LOG = 2**28  # bytes
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class AdaptationConfig:
    """Numbers of the loop; the optimiser's are those of StyleGAN-NADA's code."""

    steps: int = 300
    batch: int = 2
    learning_rate: float = 0.0016
    betas: tuple[float, float] = (0.0, 0.99**0.8)
    views: int = 0  # random views per image before CLIP; 0 is the image itself, as in the papers
    noise: Literal["shared", "independent", "none"] = "shared"  # "independent" is the official code
    truncation: float = 1.0
    mixing: float = 0.0  # probability that a step's w+ are composed of two latents, see `_latents`
    weights: dict[str, float] = field(default_factory=dict)  # of the loss terms; 1 where not named
    seed: int = 0
    checkpoint_every: int = 25

    def __post_init__(self) -> None:
        rate_is_positive = 0 < self.learning_rate < math.inf  # False for NaN
        if self.steps < 1 or self.batch < 1 or self.views < 0 or not rate_is_positive:
            raise AirlibError(
                "steps and batch must be at least 1, the learning rate above 0, views at least 0"
            )
        if self.noise not in ("shared", "independent", "none"):
            raise AirlibError(
                f"noise {self.noise!r} is unknown; choose shared, independent or none"
            )
        if not 0 <= self.mixing <= 1:
            raise AirlibError(f"mixing is a probability, between 0 and 1, not {self.mixing}")


class Snapshots:
    """`on_step` callback: the images of fixed latents every `every` steps and at the end."""

    def __init__(self, latents: Tensor, every: int):
        self.latents, self.every = latents, every
        self.images: dict[int, Tensor] = {}  # step -> [n, 3, H, W]

    def __call__(self, step: int, adapted: nn.Module) -> None:
        if step % self.every == 0:
            with torch.no_grad():
                self.images[step] = adapted(self.latents)


@dataclass(frozen=True)
class Adaptation:
    """What adaptation changed: the tensors that moved, how, and from which source.

    tensors: by their names in the adapted generator. config: JSON, with the `identity` of the
    source and the name of the parameterization. log: one entry per step, and events. made_by: the
    parameterization itself, which `adapt` leaves here; without it `apply` makes it by its name.
    """

    tensors: dict[str, Tensor]
    config: dict
    log: list[dict] = field(default_factory=list)
    made_by: Parameterization | None = field(default=None, compare=False, repr=False)

    @property
    def parameterization(self) -> Parameterization:
        """What moved. AirlibError if it is not registered here: see `register_parameterization`."""
        return self.made_by or parameterization_of(self.config, self.tensors)

    def apply(self, source: Generator) -> Generator:
        """The adapted generator: a frozen copy of `source`.

        Raises AirlibError for another source than it was made from (rounding aside), for a
        parameterization that is not registered, and for tensors that do not fit.
        """
        if not is_source(self.config["source"], source):
            raise AirlibError(
                "this adaptation was made from another source generator; open the world it names: "
                + json.dumps(self.config.get("labels", {}))
            )
        return self.parameterization.applied(source, self.tensors)

    def save(self, path: str | Path) -> Path:
        """One safetensors file, configuration in its header, and beside it the log, NAME.jsonl.

        Returns the path of the file: `path`, with .safetensors added to a name that lacks it.
        """
        path = Path(path)
        path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
        save_tensors(path, self.tensors, self.config)
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in self.log)
        write_text(path.with_name(path.name + ".jsonl"), text)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Adaptation":
        """Read what `save` wrote, bit for bit; the ending .safetensors may be left out.

        Raises AirlibError if there is no such file, or if it holds anything else.
        """
        path = Path(path)
        if not path.exists() and path.suffix != SUFFIX:
            path = path.with_name(path.name + SUFFIX)
        tensors, config = load_tensors(path)
        if wrong := wrong_entry(config, HEADER, "its configuration"):
            raise AirlibError(f"{path} is damaged ({wrong}); make it again")
        if "source" not in config:
            raise AirlibError(f"{path} holds no adaptation; it may be a weight file")
        if "kind" in config:  # what `airlib import` writes
            raise AirlibError(
                f"{path} holds no adaptation but an imported network ({config['kind']}); open it "
                "with airlib.checkpoints.importing.load_imported, or adapt it first"
            )
        return cls(tensors, config, read_log(path))


def adapt(
    source: Generator, space: ClipSpace, objective: Objective, parameterization: Parameterization,
    config: AdaptationConfig, directory: str | Path | None = None, labels: dict | None = None,
    on_step: Callable[[int, Generator], None] | None = None,
    regularizers: Sequence[Regularizer] = (),
) -> Adaptation:  # fmt: skip
    """Adapt a copy of `source` and return what changed.

    regularizers: terms that are added to the objective's. directory: where checkpoints go; calling
    again with the same arguments continues there. labels: anything JSON that should travel with the
    result (pair, method, profile). on_step(k, adapted): called before step k and at the end, e.g.
    to draw. Raises AirlibError if the loss stops being finite, the images leave their range, or the
    generator collapses.
    """
    run = _Run(source, space, objective, parameterization, config, labels or {}, regularizers)
    checkpoint = Path(directory) / "checkpoint.safetensors" if directory else None
    if checkpoint and checkpoint.exists():
        run.resume(checkpoint)
    else:
        run.objective.begin(source, run.adapted)
    for index in track(range(run.done, config.steps), "adapting"):
        if on_step:
            on_step(index, run.adapted)
        run.step(index)
        if checkpoint and (run.done % config.checkpoint_every == 0 or run.done == config.steps):
            run.save(checkpoint)
    run.check()
    if on_step:
        on_step(config.steps, run.adapted)
    return run.result()


class _Run:
    """State of one adaptation."""

    def __init__(
        self, source: Generator, space: ClipSpace, objective: Objective,
        parameterization: Parameterization, config: AdaptationConfig, labels: dict,
        regularizers: Sequence[Regularizer],
    ):  # fmt: skip
        self.source, self.space, self.objective = source, space, objective
        self.regularizers = regularizers
        if config.mixing and source.sample_latents(1, rng(0)).ndim != 3:
            raise AirlibError(
                "mixing composes the entries of w+, which this generator does not have; "
                "adapt it with mixing 0"
            )
        self.parameterization, self.config = parameterization, config
        self.adapted = source.copy_frozen()
        self.trainable = parameterization.attach(self.adapted)
        self.optimizer = torch.optim.Adam(
            self.trainable.values(), lr=config.learning_rate, betas=config.betas
        )
        self.log: list[dict] = []
        self.done, self.guard = 0, Guard()
        header = {
            "source": identity(source),
            "parameterization": parameterization.name,
            "parameterization_module": parameterization.module,
            "objective": objective.settings,
            "regularizers": [term.settings for term in regularizers],
            "adaptation": asdict(config),
            "labels": labels,
        }
        self.header: dict[str, Any] = json.loads(json.dumps(header))  # with lists, as in a file
        if not config.mixing:  # runs and results from before there was mixing are of this kind
            del self.header["adaptation"]["mixing"]

    def step(self, index: int) -> None:
        """One optimiser step."""
        config, step = self.config, self._step(index)
        self.parameterization.before_step(
            self.adapted, self.trainable, rng(config.seed, "adapt", index, "selection")
        )
        terms = self.objective(step) | {term.name: term(step) for term in self.regularizers}
        weights = config.weights | {term.name: term.weight for term in self.regularizers}
        total = torch.stack([weights.get(k, 1.0) * v for k, v in terms.items()]).sum()
        self.guard.check_loss(index, total)
        self.guard.check_images(index, step.adapted_images.detach(), step.source_images)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.log += self.objective.events()
        self.log.append({"step": index, **{k: round(v.item(), 6) for k, v in terms.items()}})
        self.done = index + 1

    @torch.no_grad()
    def check(self) -> None:
        """Raise AirlibError if the last step drove the images out of range."""
        step = self._step(self.done)
        self.guard.check_range(self.done, step.adapted_images, step.source_images)

    def _step(self, index: int) -> Step:
        config = self.config
        return Step(
            index, config.steps, config.seed, self.source, self.adapted, self.space,
            self._latents(index), config.views, config.noise,
        )  # fmt: skip

    def _latents(self, index: int) -> Tensor:
        """Those of step `index`; with probability `mixing` the fine entries of w+ are another's.

        StyleGAN-NADA's `--mixing`: one crossover in 1 .. num_ws - 1 for the batch. Its code draws
        it anew in each generator, so that source and adapted image are not of the same w+ (as with
        noise="independent" they are not of the same noise); here source, anchor and adapted share
        it.
        """
        config = self.config

        def sample(purpose: str) -> Tensor:
            stream = rng(config.seed, "adapt", index, purpose)
            return self.source.sample_latents(config.batch, stream, config.truncation)

        latents, draw = sample("latents"), rng(config.seed, "adapt", index, "mixing")
        if torch.rand((), generator=draw) >= config.mixing:
            return latents
        crossover = int(torch.randint(1, latents.shape[1], (), generator=draw))
        return torch.cat([latents[:, :crossover], sample("mixed in")[:, crossover:]], dim=1)

    # -- checkpoints and result ----------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Write everything that a resumed run needs."""
        states = {"trained": self._trained(), "objective": self.objective.state()}
        config = {**self.header, "done": self.done, "log": self.log}
        config["collapsed"] = self.guard.collapsed
        save_tensors(path, pack(states, self.optimizer), config)

    def resume(self, path: Path) -> None:
        """Continue from `path`; refuses a checkpoint of other settings."""
        tensors, config = load_tensors(path)
        saved = {**config, "parameterization": current_name(config.get("parameterization", ""))}
        saved["parameterization_module"] = self.parameterization.module  # it may have moved
        if is_source(saved.get("source"), self.source):
            saved["source"] = self.header["source"]  # but for rounding
        if any(saved.get(key) != value for key, value in self.header.items()):
            raise AirlibError(
                f"{path} belongs to other settings; delete it or choose another directory"
            )
        states = unpack(tensors, self.optimizer)
        trained, shapes = states.get("trained", {}), {k: p.shape for k, p in self.trainable.items()}
        if {name: value.shape for name, value in trained.items()} != shapes:
            raise AirlibError(f"{path} does not hold this generator's tensors; delete it")
        self.adapted.load_state_dict(trained, strict=False)
        self.objective.load_state(states.get("objective", {}), self.adapted)
        self.done, self.log = config["done"], config["log"]
        self.guard.collapsed = config["collapsed"]

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trainable.items()}

    def result(self) -> Adaptation:
        """The tensors that moved, with configuration and log."""
        terms = {name for entry in self.log for name in entry}
        if unused := [name for name in self.config.weights if name not in terms]:
            warnings.warn(f"weights name terms that this loss did not have: {unused}", stacklevel=3)
        return Adaptation(self._trained(), self.header, self.log, self.parameterization)


def log_file(path: Path) -> Path:
    """The file of the log of the adaptation in `path`: baby.safetensors.jsonl; or baby.jsonl, as
    earlier versions called it, where only that exists.
    """
    log, earlier = path.with_name(path.name + ".jsonl"), path.with_suffix(".jsonl")
    return earlier if earlier.exists() and not log.exists() else log


def read_log(path: Path) -> list[dict]:
    """The log of the adaptation in `path`, as `Adaptation.save` wrote it; [] without one."""
    file, advice = log_file(path), "delete it, or make the adaptation again"
    if not file.exists() or file.is_file() and file.stat().st_size == 0:
        return []
    try:
        log = [parse_json(line) for line in read_text(file, advice, LONGEST_LOG).splitlines()]
    except ValueError as error:
        raise AirlibError(f"{file} is no log of an adaptation ({error}); {advice}") from error
    if not all(isinstance(entry, dict) for entry in log):
        raise AirlibError(f"{file} is no log of an adaptation; {advice}")
    return log
