"""What the gradient through ten solver steps costs in memory and time, and what saves it.

    python benchmarks/diffusion_memory.py          # the tiny network, 32 px, 2.7 million parameters
    python benchmarks/diffusion_memory.py --full   # also ADM at 256 px, 93.6 million, as P2's
    python benchmarks/diffusion_memory.py --full --device cuda

One step of an adaptation without its loss: images of a batch, a scalar, the gradient of rank-4 LoRA
on convolutions and attention. Random weights, one thread, and a process of its own for each way:

- all           gradient through all ten calls of the UNet
- checkpointed  the same gradient, each call computed again when needed
- last k        gradient through the last k calls only

`kept` are the bytes that autograd keeps for the backward pass in its worst moment, weights left
out: counted on tensors without memory, so that counting needs none. `peak` is the growth of the
peak memory beyond the network, measured: on the CPU that of the process (Linux), the allocator's
waste included, and on a GPU what PyTorch allocated. Seconds are those of the processor on the CPU
and of the clock on a GPU. At 256 px only what will fit in half of the free memory is measured. The
last line is one JSON object; ratios are to "all".
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from airlib.generators.diffusion import DiffusionGenerator
from airlib.parameterizations.lora import lora
from airlib.seeding import rng
from airlib.tinyworld.train_diffusion import CONFIG as TINY

ROOT = Path(__file__).parents[1]
ADM = ROOT / "tests" / "golden" / "adm_p2_ffhq256_diffusers_config.json"
WAYS = {
    "all": {},
    "checkpointed": {"checkpointing": True},
    "last 4": {"gradient_steps": 4},
    "last 2": {"gradient_steps": 2},
    "last 1": {"gradient_steps": 1},
}
BATCH = {"tiny": 4, "adm": 1}
REPEATS = {"tiny": 3, "adm": 2}


def network(size: str, **way) -> DiffusionGenerator:
    """The generator on the default device, its adapters trainable."""
    config = TINY if size == "tiny" else json.loads(ADM.read_text(encoding="utf-8"))
    generator = DiffusionGenerator(UNet2DModel(**config), **way)
    lora(4).attach(generator)
    return generator


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps, each storage once, parameters left out."""

    def __init__(self, generator: nn.Module):
        self.weights = {p.untyped_storage()._cdata for p in generator.parameters()}
        self.storages: dict[int, Tensor] = {}  # the tensors too, or an address might be used again
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in self.weights:
            self.storages[address] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self.storages.values())


def kept_bytes(size: str, way: dict) -> int:
    """What is kept when the backward pass begins, and for the call that it computes again."""
    with torch.device("meta"):
        generators = [network(size, **way)]
        generators += [network(size, steps=1)] if way.get("checkpointing") else []
        latents = torch.empty(BATCH[size], 3, *[generators[0].resolution] * 2)
    total = 0
    for generator in generators:
        kept = Kept(generator)
        with kept:
            generator(latents)
        total += kept.bytes
    return total


def peak(device: str) -> int:
    """Of this process in bytes; ru_maxrss would start with the peak of its parent."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def now(device: str) -> float:
    """Seconds of the processor, or of the clock when a GPU has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(size: str, name: str, device: str) -> dict[str, float]:
    """Seconds of one step, and by how many bytes it raises the peak."""
    torch.set_num_threads(1)
    generator = network(size, **WAYS[name]).to(device)
    latents = generator.sample_latents(BATCH[size], rng(0, "latents"))
    with torch.no_grad():
        generator.unet(latents[:, :, :32, :32], 0)  # loads kernels
    before, seconds = peak(device), []
    for _ in range(REPEATS[size]):
        started = now(device)
        generator(latents).square().mean().backward()
        seconds.append(now(device) - started)
    return {"seconds": min(seconds), "peak": peak(device) - before}


def measured(size: str, name: str, device: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", size, name, "--device", device]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def available(device: str) -> int:
    """Bytes of memory that are free."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    text = Path("/proc/meminfo").read_text()
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1])


def compare(size: str, device: str) -> dict[str, float]:
    """Prints a table and returns its figures."""
    figures: dict[str, float] = {}
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    print(f"{size}, batch {BATCH[size]}, {where}")
    print(f"{'':14}{'kept MB':>10}{'peak MB':>10}{'seconds':>10}")
    for name, way in WAYS.items():
        row = {"kept": kept_bytes(size, way)}
        if size == "tiny" or row["kept"] < 0.5 * available(device):
            row |= measured(size, name, device)
        cells = [row.get("kept", 0) / 1e6, row.get("peak", 0) / 1e6, row.get("seconds", 0)]
        text = "".join(f"{cell:10,.{2 if i == 2 else 0}f}" if cell else f"{'-':>10}"
                       for i, cell in enumerate(cells))  # fmt: skip
        print(f"{name:14}{text}", flush=True)
        figures |= {f"{size}_{name}_{key}": value for key, value in row.items()}
    for key, value in list(figures.items()):
        name, what = key.removeprefix(f"{size}_").rsplit("_", 1)
        whole = figures.get(f"{size}_all_{what}")
        if name != "all" and whole:
            figures[f"{size}_{name}_{what}_ratio"] = round(value / whole, 4)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="also ADM at 256 px")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--measure", nargs=2, metavar=("SIZE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments.device)))
        return
    sizes = ["tiny", "adm"] if arguments.full else ["tiny"]
    tables = [compare(size, arguments.device) for size in sizes]
    figures = {key: value for table in tables for key, value in table.items()}
    print(json.dumps({key.replace(" ", "_"): value for key, value in figures.items()}))


if __name__ == "__main__":
    main()
