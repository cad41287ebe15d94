"""The one training loop of the tiny world: resumable, exact, and leaving a record of what was done.

Every network we ship is made by `airlib train-tiny NAME`: a `Task` supplies the loss, this module
supplies the rest. Step k draws its randomness from a stream of (seed, name, k), so a training that
was killed and resumed ends with the same bits as one that was not. The result is a half-precision
weight file and a JSON record beside it: command, seed, steps, minutes, loss curve, metrics,
versions.
"""

import platform
import time
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors, write_json
from airlib.progress import track
from airlib.seeding import rng
from airlib.training.state import pack, unpack

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
