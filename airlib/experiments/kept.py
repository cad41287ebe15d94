"""What is shipped of some runs beside their metrics, so that a notebook can show them without
adapting again: four portraits, the log, and the adaptation where it is small.

    keep(run, world)                 # after a sweep, into `runs.SHIPPED_ADAPTATIONS`
    portraits(run, world)            # [4, 3, H, H], drawn if the run was made here, else read
"""

import shutil
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from airlib.adaptation import log_file
from airlib.errors import AirlibError
from airlib.experiments.runs import SHIPPED_ADAPTATIONS, Run
from airlib.files import write_atomically
from airlib.images.decoding import opened
from airlib.images.pictures import rgb, to_tensor
from airlib.showing.export import save_png
from airlib.worlds.base import World

PORTRAITS = 4  # of the first latents of the world
LARGEST = 1_000_000  # bytes of an adaptation that is kept


def keep(run: Run, world: World, directory: str | Path = SHIPPED_ADAPTATIONS) -> list[Path]:
    """Copy what is kept of a run that was made here to `directory`; returns the files."""
    directory = Path(directory)
    files = [save_png(portraits(run, world), directory / run.file(".png").name)]
    tensors = run.file(".safetensors")
    kept = {".jsonl": log_file(tensors), ".safetensors": tensors}
    if tensors.stat().st_size > LARGEST:
        del kept[".safetensors"]
    for suffix, file in kept.items():
        copy = partial(shutil.copyfile, file)
        files.append(write_atomically(directory / run.file(suffix).name, copy))
    return files


def portraits(run: Run, world: World) -> Tensor:
    """What the adapted generator draws of the first four latents, [4, 3, H, H] in [-1, 1].

    Of a known run (`sweep.known_of`) they are read from what is shipped, to 8 bits. AirlibError if
    they are not there.
    """
    if run.is_here:
        return world.draw(run.adaptation().apply(world.generator), PORTRAITS)
    path = run.file(".png")
    if not path.exists():
        raise AirlibError(f"no portraits of {run.stem.name} are shipped; adapt it here")
    with opened(path, path.name) as strip:
        return torch.stack(to_tensor(rgb(strip)).chunk(PORTRAITS, dim=2))
