"""The loop that trains networks from nothing: resumable, exact, and recording what was done.

A `Task` supplies networks, optimiser and loss, `TrainingRun` the rest. Step k draws its randomness
from a stream of (seed, name, k), so a training that was killed and resumed ends with the same bits
as one that was not. The result is a half-precision weight file and a JSON record beside it:
command, seed, steps, minutes, loss curve, metrics, versions.
"""

import json
import platform
import time
from pathlib import Path
from typing import Any, Protocol

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
    """What a `TrainingRun` trains: networks, optimiser and loss, and how the result is measured.

    `name` names the files that are written, `steps` counts the optimiser's steps. `modules` are all
    networks with state, averaged copies included; a checkpoint holds these and the optimiser. A
    task that can be made in several ways has `numbers`, JSON values that tell them apart.
    """

    name: str
    steps: int
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer

    def learning_rate(self, progress: float) -> float:
        """The learning rate when the fraction `progress`, in [0, 1), of the steps is done."""

    def loss(self, step: int, rng: Rng) -> Tensor:
        """The scalar loss of one step, counted from 0, on a batch drawn with `rng`."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step, for example to update a running average."""

    def evaluate(self) -> dict[str, float]:
        """Measure the networks on held-out data: name of the metric -> value."""

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """(tensors by name, configuration as JSON values) of the network that is kept."""


class TrainingRun:
    """One training of a `Task`, with its checkpoint in a directory.

        run = TrainingRun(task, Path("runs/line"), seed=0)
        run.resume()                          # leave this out to start again
        run.run()
        record = run.publish(Path("weights"))

    `done` counts the steps so far, `seconds` the time they took; `curve` is the list of
    [step, loss], about 200 points over the whole training.
    """

    def __init__(self, task: Task, directory: Path, seed: int):
        self.task, self.directory, self.seed = task, Path(directory), seed
        self.checkpoint = self.directory / "checkpoint.safetensors"
        self.done, self.seconds = 0, 0.0
        self.curve: list[list[float]] = []

    def fits(self) -> bool:
        """Whether the directory holds a checkpoint of this very training."""
        try:
            return self._is_of_this_run(load_tensors(self.checkpoint)[1])
        except AirlibError:
            return False

    def resume(self) -> None:
        """Continue from the checkpoint in the directory, if there is one.

        Raises AirlibError if the checkpoint is damaged or belongs to another task, seed, number of
        steps, or other numbers of the task.
        """
        if not self.checkpoint.exists():
            return
        tensors, config = load_tensors(self.checkpoint)
        if not self._is_of_this_run(config):
            raise AirlibError(
                f"{self.checkpoint} is of another run (seed {config.get('seed')}, "
                f"{config.get('steps')} steps, numbers {config.get('numbers', {})}); "
                "train without --resume to start again"
            )
        states = unpack(tensors, self.task.optimizer)
        for name, module in self.task.modules.items():
            module.load_state_dict(states[name])
        self.done, self.seconds, self.curve = config["done"], config["seconds"], config["curve"]

    def run(self) -> None:
        """Train the remaining steps; a checkpoint is saved every 250 steps and at the end.

        Raises AirlibError if the loss becomes NaN or infinite.
        """
        started, before = time.perf_counter(), self.seconds
        for step in track(range(self.done, self.task.steps), f"training {self.task.name}"):
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

    def _identity(self) -> dict[str, Any]:
        """What makes a training this one, as JSON values."""
        numbers = json.loads(json.dumps(getattr(self.task, "numbers", {})))
        return {
            "name": self.task.name, "seed": self.seed, "steps": self.task.steps, "numbers": numbers,
        }  # fmt: skip

    def _is_of_this_run(self, config: dict) -> bool:
        identity = self._identity()
        return {key: config.get(key, {}) for key in identity} == identity

    def _save(self) -> None:
        config = {**self._identity(), "done": self.done}
        config |= {"seconds": self.seconds, "curve": self.curve}
        states = {key: module.state_dict() for key, module in self.task.modules.items()}
        save_tensors(self.checkpoint, pack(states, self.task.optimizer), config)

    def publish(self, weights: Path) -> dict:
        """Write NAME.safetensors (half precision) and NAME.json to `weights`; returns the record.

        The record holds the command `airlib train-tiny NAME`, seed, steps, minutes, number of
        parameters, the metrics of the task, versions and the loss curve.
        """
        name, seed, steps = self.task.name, self.seed, self.task.steps
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
