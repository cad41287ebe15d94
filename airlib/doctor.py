"""What the machine offers and whether it is enough: for `airlib doctor`, and before a long run."""

import importlib.util
import os
import shutil
from pathlib import Path

from airlib.errors import AirlibError
from airlib.files import load_tensors
from airlib.results import versions

GIGABYTE = 10**9
NEEDED_DISK, NEEDED_MEMORY = GIGABYTE // 2, 2 * GIGABYTE  # bytes
WEIGHTS = ("clip", "judge", "judge_vit", "stylegan2")  # what the tiny world ships
WEIGHTS_DIRECTORY = Path(__file__).parent / "tinyworld" / "weights"
NOTEBOOK_PACKAGES = ("ipykernel", "matplotlib", "papermill")


def check_machine(directory: Path) -> None:
    """Raise AirlibError unless there is room in `directory` and enough free memory for a run."""
    disk, memory = shutil.disk_usage(directory).free, available_memory()
    if disk < NEEDED_DISK:
        raise AirlibError(
            f"only {_gigabytes(disk)} of disk is free for {directory}, a run needs "
            f"{_gigabytes(NEEDED_DISK)}; delete something or choose another --out"
        )
    if memory is not None and memory < NEEDED_MEMORY:
        raise AirlibError(
            f"only {_gigabytes(memory)} of memory is available, a run needs "
            f"{_gigabytes(NEEDED_MEMORY)}; close other programs"
        )


def available_memory() -> int | None:
    """Bytes a new program could use without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def examine(out: Path) -> tuple[dict[str, str], list[str]]:
    """(what was found, what is wrong) on this machine; nothing is wrong if the list is empty."""
    found, problems = dict(versions()), []
    found["device"] = _device()
    memory = available_memory()
    found["free memory"] = "unknown" if memory is None else _gigabytes(memory)
    existing = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    found["free disk"] = _gigabytes(shutil.disk_usage(existing).free)
    try:
        check_machine(existing)
    except AirlibError as error:
        problems.append(str(error))
    for name in WEIGHTS:
        found[f"weights {name}"], problem = _examine_weights(WEIGHTS_DIRECTORY / name)
        problems += problem
    missing = [name for name in NOTEBOOK_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}; pip install 'airlib[notebooks]'")
    return found, problems


def _examine_weights(stem: Path) -> tuple[str, list[str]]:
    try:
        tensors, _ = load_tensors(stem.with_suffix(".safetensors"))
    except AirlibError as error:
        return "missing or damaged", [str(error)]
    damaged = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if damaged:
        return "damaged", [f"{stem.name}.safetensors holds NaN in {damaged[0]}; train it again"]
    count = sum(tensor.numel() for tensor in tensors.values())
    return f"valid, {count / 1e6:.1f} million numbers", []


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"
