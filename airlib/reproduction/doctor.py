"""What the machine offers and whether it is enough: for `airlib doctor`, and before a long run.

    found, problems = examine(Path("runs"), "paper")

The tiny profile needs what is in the package and little of the machine. For the paper profile
`NEEDS` holds what each notebook asks of the machine, and the manifests which files it needs; their
absence is a problem of that profile only.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airlib.assets.manifests import megabytes, select
from airlib.assets.store import CORRUPT, MISSING, PRESENT, Finding, asset_directory
from airlib.assets.store import examine as examine_asset
from airlib.errors import AirlibError
from airlib.files import load_tensors
from airlib.results import versions

GIGABYTE = 10**9
NEEDED_DISK, NEEDED_MEMORY = GIGABYTE // 2, 2 * GIGABYTE  # bytes
WEIGHTS = ("clip", "judge", "judge_vit", "stylegan2")  # what the tiny world ships
WEIGHTS_DIRECTORY = Path(__file__).parents[1] / "tinyworld" / "weights"
NOTEBOOK_PACKAGES = ("ipykernel", "matplotlib", "papermill")


@dataclass(frozen=True)
class Need:
    """What a notebook asks of the machine with the paper profile, in bytes, beside its assets.

    `memory` is on the graphics card, or main memory where the processor has to do it; `disk` is
    what the results take.
    """

    memory: int
    disk: int


# Estimates, until a run with real weights has been measured. "Kept" is what autograd keeps for one
# step, counted on tensors without data; the rest is copies of networks, optimiser and workspace.
NEEDS = {
    "00": Need(10 * GIGABYTE, 1 * GIGABYTE),  # as 03
    "01": Need(8 * GIGABYTE, 15 * GIGABYTE),  # all annotations of a data set; 2 KB per embedding
    "02": Need(10 * GIGABYTE, 2 * GIGABYTE),  # as 03
    "03": Need(10 * GIGABYTE, 2 * GIGABYTE),  # 5.2 GB kept: 2 images of 1024 px, ViT-B/32
    "04": Need(12 * GIGABYTE, 2 * GIGABYTE),  # 3.8 GB kept: 2 images of 256 px, one step of ten
    "05": Need(36 * GIGABYTE, 2 * GIGABYTE),  # 27.8 GB kept: 12 images of 1024 px, ViT-B/32
    "06": Need(8 * GIGABYTE, 5 * GIGABYTE),  # LPIPS features of 250 images in 16 bits: 4 GB
    "07": Need(6 * GIGABYTE, 1 * GIGABYTE),  # encoder and generator, no gradient
    "90": Need(NEEDED_MEMORY, NEEDED_DISK),  # the tiny world in every profile
}


def check_machine(directory: Path) -> None:
    """Raise AirlibError unless 0.5 GB of disk is free for `directory`, and 2 GB of memory."""
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


def examine(out: Path, profile: str = "tiny") -> tuple[dict[str, str], list[str]]:
    """Examine the machine: (what was found, by name; what is wrong, in sentences, if anything).

    out: the folder that a run would write to, which need not exist. Versions, device, memory, disk,
    the weights of the tiny world and the packages of the notebooks are looked at. With profile
    "paper" also each asset and each notebook: files that are missing or corrupt, and memory or disk
    that are too small, are then problems. Raises AirlibError for an unknown profile.
    """
    chosen = select(profile)  # a wrong profile is the first thing to say
    found, problems = dict(versions()), []
    found["device"] = _device()
    memory = available_memory()
    found["free memory"] = _gigabytes(memory)
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
    if profile == "tiny":
        found["paper assets"] = _count_assets()
        return found, problems
    found["asset directory"] = str(asset_directory())
    findings = [finding for asset in chosen for finding in examine_asset(asset)]
    for examined in (_examine_assets(findings), _examine_needs(findings, existing)):
        found |= examined[0]
        problems += examined[1]
    return found, problems


def _count_assets() -> str:
    """How many files of the paper profile are there, without reading them."""
    files = [asset_directory() / a.name / f.file for a in select("paper") for f in a.files]
    return (
        f"{sum(path.is_file() for path in files)} of {len(files)} files; `airlib fetch --profile "
        "paper` gets them, `airlib doctor --profile paper` checks them"
    )


def _examine_assets(findings: Sequence[Finding]) -> tuple[dict[str, str], list[str]]:
    """A row per asset, and what is wrong with them."""
    found, problems = {}, []
    width = max(len(finding.asset.name) for finding in findings)
    for asset in dict.fromkeys(finding.asset for finding in findings):
        states = [finding.state for finding in findings if finding.asset is asset]
        worst = next(state for state in (CORRUPT, MISSING, PRESENT) if state in states)
        there = f"{states.count(PRESENT)} of {len(states)}" if len(states) > 1 else ""
        size = ("" if all(file.bytes for file in asset.files) else "about ") + megabytes(asset.size)
        notebooks = " ".join(asset.notebooks)
        row = f"{worst:8} {there:7} {size:>14}  notebooks {notebooks}"
        found[f"asset {asset.name}"] = " " * (width - len(asset.name)) + row
    problems += [f"{f.asset.name}: {f.text}" for f in findings if f.state == CORRUPT]
    missing = [finding for finding in findings if finding.state == MISSING]
    by_hand = dict.fromkeys(f.asset.name for f in missing if f.file.url is None)
    fetched = dict.fromkeys(f.asset.name for f in missing if f.file.url is not None)
    if fetched:
        problems.append(f"missing: {', '.join(fetched)}; get them with `airlib fetch`")
    if by_hand:
        problems.append(
            f"missing: {', '.join(by_hand)}; they need a manual step, `airlib fetch` says which"
        )
    return found, problems


def _examine_needs(findings: Sequence[Finding], out: Path) -> tuple[dict[str, str], list[str]]:
    """A row per notebook: its assets, and memory and disk against what it needs."""
    found, problems = {}, []
    card, main, disk = _card_memory(), available_memory(), shutil.disk_usage(out).free
    for number, need in NEEDS.items():
        states = [finding.state for finding in findings if number in finding.asset.notebooks]
        where = "the graphics card" if card >= need.memory else "the main memory (slow)"
        fits = card >= need.memory or main is None or main >= need.memory
        place = f"fits {where}" if fits else f"too much for this machine ({_gigabytes(main)} free)"
        room = "fits" if disk >= need.disk else f"too much ({_gigabytes(disk)} free)"
        found[f"notebook {number}"] = (
            f"{states.count(PRESENT)} of {len(states)} files; memory about "
            f"{_gigabytes(need.memory)} (estimate): {place}; "
            f"disk about {_gigabytes(need.disk)} (estimate): {room}"
        )
        if not fits or disk < need.disk:
            problems.append(f"notebook {number} may not fit this machine: see its row")
    return found, problems


def _card_memory() -> int:
    """Free bytes on the graphics card, 0 without one."""
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


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


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GIGABYTE:.1f} GB"
