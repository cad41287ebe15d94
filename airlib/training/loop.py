"""The one training loop of the tiny world: resumable, exact, and leaving a record of what was done.

Every network we ship is made by `airlib train-tiny NAME`: a `Task` supplies the loss, this module
supplies the rest. Step k draws its randomness from a stream of (seed, name, k), so a training that
was killed and resumed ends with the same bits as one that was not. The result is a half-precision
weight file and a JSON record beside it: command, seed, steps, minutes, loss curve, metrics,
versions.
"""

import hashlib
import importlib
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.checkpointing import pack, unpack
from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors, write_json
from airlib.progress import track
from airlib.seeding import rng

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINT_EVERY = 250
CURVE_POINTS = 200


class Task(Protocol):
    """What is trained: networks, their optimiser and loss, and how the result is measured."""

    name: str
    steps: int
    modules: dict[str, nn.Module]  # everything with state, averaged copies included
    optimizer: torch.optim.Optimizer

    def learning_rate(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1)."""

    def loss(self, step: int, rng: Rng) -> Tensor:
        """Scalar loss of one step on a batch drawn with `rng`."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step, e.g. to update a running average."""

    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out data."""

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and configuration of the network that is shipped."""


class TrainingRun:
    """One task in one directory: trains from the last checkpoint to the end."""

    def __init__(self, task: Task, directory: Path, seed: int):
        self.task, self.directory, self.seed = task, Path(directory), seed
        self.checkpoint = self.directory / "checkpoint.safetensors"
        self.done, self.seconds, self.curve = 0, 0.0, []

    def resume(self) -> None:
        """Continue from the checkpoint in the directory, if there is one."""
        if not self.checkpoint.exists():
            return
        tensors, config = load_tensors(self.checkpoint)
        if tuple(map(config.get, ("name", "seed", "steps"))) != self._identity():
            raise AirlibError(
                f"{self.checkpoint} is of another run (seed {config.get('seed')}, "
                f"{config.get('steps')} steps); "
                "train without --resume to start again"
            )
        states = unpack(tensors, self.task.optimizer)
        for name, module in self.task.modules.items():
            module.load_state_dict(states[name])
        self.done, self.seconds, self.curve = config["done"], config["seconds"], config["curve"]

    def run(self) -> None:
        """Train the remaining steps."""
        started, before = time.perf_counter(), self.seconds
        description = f"train-tiny {self.task.name}"
        for step in track(range(self.done, self.task.steps), description):
            value = self._step(step)
            if step % max(1, self.task.steps // CURVE_POINTS) == 0:
                self.curve.append([step, round(value, 5)])
            self.done, self.seconds = step + 1, before + time.perf_counter() - started
            if self.done % CHECKPOINT_EVERY == 0 or self.done == self.task.steps:
                self._save()

    def _step(self, step: int) -> float:
        task = self.task
        for group in task.optimizer.param_groups:
            group["lr"] = task.learning_rate(step / task.steps)
        loss = task.loss(step, rng(self.seed, "train-tiny", task.name, step))
        if not torch.isfinite(loss):
            raise AirlibError(
                f"the loss of {task.name} is {loss.item()} at step {step}; lower the learning rate"
            )
        task.optimizer.zero_grad()
        loss.backward()
        task.optimizer.step()
        task.after_step(step)
        return loss.item()

    def _identity(self) -> tuple[str, int, int]:
        return self.task.name, self.seed, self.task.steps

    def _save(self) -> None:
        name, seed, steps = self._identity()
        config = {"name": name, "seed": seed, "steps": steps, "done": self.done}
        config |= {"seconds": self.seconds, "curve": self.curve}
        states = {key: module.state_dict() for key, module in self.task.modules.items()}
        save_tensors(self.checkpoint, pack(states, self.task.optimizer), config)

    def publish(self, weights: Path) -> dict:
        """Write NAME.safetensors (half precision) and NAME.json; returns the record."""
        name, seed, steps = self._identity()
        tensors, config = self.task.export()
        half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        path = save_tensors(weights / f"{name}.safetensors", half, config)
        record = {
            "name": name,
            "command": f"airlib train-tiny {name} --seed {seed} --steps {steps}",
            "seed": seed,
            "steps": steps,
            "steps_done": self.done,
            "minutes": round(self.seconds / 60, 1),
            "threads": torch.get_num_threads(),
            "parameters": sum(t.numel() for t in tensors.values()),
            "bytes": path.stat().st_size,
            "metrics": {k: round(v, 4) for k, v in self.task.evaluate().items()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "curve": self.curve,
        }
        write_json(weights / f"{name}.json", record)
        return record


FOUNDATION = ("clip", "judge", "judge_vit", "stylegan2", "stylegan2_narrow")
"""What adaptations of the tiny StyleGAN2 and their scores depend on."""
DIFFUSION_FOUNDATION = ("clip", "judge", "judge_vit", "diffusion")
"""The same of the tiny diffusion model."""


def weights_fingerprint(directory: Path = WEIGHTS, names: Sequence[str] = FOUNDATION) -> str:
    """Hash of shipped weights: results of one set of weights are not mistaken for another's."""
    digest = hashlib.sha256()
    for name in sorted(f"{name}.safetensors" for name in names):
        digest.update(name.encode() + (directory / name).read_bytes())
    return digest.hexdigest()[:16]


TASKS = {  # name -> module and class; imported when asked for
    "clip": ("tinyworld.train_clip", "ClipTask"),
    "judge": ("tinyworld.train_judge", "JudgeTask"),
    "judge_vit": ("tinyworld.train_judge", "VitJudgeTask"),
    "stylegan2": ("tinyworld.train_generator", "GeneratorTask"),
    "stylegan2_narrow": ("tinyworld.train_generator", "NarrowGeneratorTask"),
    "diffusion": ("tinyworld.train_diffusion", "DiffusionTask"),
    "hypernetwork": ("studies.hypernetwork", "HypernetworkTask"),
    "encoder": ("tinyworld.train_encoder", "EncoderTask"),
}


def make_task(name: str, seed: int, steps: int | None) -> Task:
    """The task called `name` with its own number of steps, or `steps` of them."""
    if name not in TASKS:
        raise AirlibError(f"nothing called {name!r} is trained; choose from {', '.join(TASKS)}")
    module, task = TASKS[name]
    task_of = getattr(importlib.import_module(f"airlib.{module}"), task)
    return task_of(seed=seed, steps=steps) if steps else task_of(seed=seed)


def train_tiny(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    directory: str | Path = "runs/train-tiny",
    weights: str | Path | None = None,
) -> dict:
    """Train one network of the tiny world and publish it; returns its record.

    Checkpoints go to `directory`/NAME-SEED; weights and record to `weights` (default: that same
    directory).
    """
    run_directory = Path(directory) / f"{name}-{seed}"
    run = TrainingRun(make_task(name, seed, steps), run_directory, seed)
    if resume:
        run.resume()
    run.run()
    return run.publish(Path(weights) if weights else run_directory)
