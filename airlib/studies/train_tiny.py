"""Every network of the tiny world, trained again by its documented command.

train_tiny("clip", seed=0)          # the same as `airlib train-tiny clip`
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from airlib.errors import AirlibError
from airlib.files import write_atomically
from airlib.training.loop import Task, TrainingRun

TASKS = {  # name -> module and class; imported when asked for
    "clip": ("tinyworld.train_clip", "ClipTask"),
    "judge": ("tinyworld.train_judge", "JudgeTask"),
    "judge_vit": ("tinyworld.train_judge", "VitJudgeTask"),
    "stylegan2": ("tinyworld.train_generator", "GeneratorTask"),
    "stylegan2_narrow": ("tinyworld.train_generator", "NarrowGeneratorTask"),
    "diffusion": ("tinyworld.train_diffusion", "DiffusionTask"),
    "hypernetwork": ("studies.hypernetwork", "HypernetworkTask"),
    "encoder": ("tinyworld.train_inversion_encoder", "EncoderTask"),
}


def task_class(name: str) -> type[Task]:
    """The class of the task called `name`; AirlibError if there is none."""
    if name not in TASKS:
        raise AirlibError(f"nothing called {name!r} is trained; choose from {', '.join(TASKS)}")
    module, task = TASKS[name]
    return getattr(importlib.import_module(f"airlib.{module}"), task)


def make_task(name: str, seed: int, steps: int | None) -> Task:
    """The task called `name` with its own number of steps, or `steps` of them."""
    make: Callable[..., Task] = task_class(name)
    return make(seed=seed, steps=steps) if steps else make(seed=seed)


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
    directory). Raises AirlibError for an unknown name, and for a directory that cannot be written,
    before anything is computed.
    """
    task_class(name)
    run_directory = Path(directory) / f"{name}-{seed}"
    write_atomically(run_directory / "writable", lambda path: path.touch()).unlink()
    run = TrainingRun(make_task(name, seed, steps), run_directory, seed)
    if resume:
        run.resume()
    run.run()
    return run.publish(Path(weights) if weights else run_directory)
