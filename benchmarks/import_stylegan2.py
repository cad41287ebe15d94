"""What importing a 30-million-parameter NVIDIA pickle costs in time and memory.

    python benchmarks/import_stylegan2.py

The file holds the 1024 px network of FFHQ (30.4 million parameters, seeded random weights) as
`G_ema` and as `G`, and nothing for the discriminator, written as stylegan2-ada-pytorch would. Each
measurement has a process of its own, which reports seconds and the growth of its peak memory
(Linux only, as the peak of a process is read from /proc):

- airlib       `read_nvlabs` on the pickle
- torch.load   torch's reader on a `torch.save` of the same tensors (both networks)
- G_ema alone  `read_nvlabs` on a pickle of `G_ema` only, the least a file can hold

Seconds are the best of REPEATS processes. The first import of a process is dearer than the second,
since torch then loads what its tensors without storage need (our network is built of them, to
compare shapes); the ratio to torch.load is that of the second. The last line is one JSON object.
"""

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from nvlabs_pickles import generator, nvidia_modules, pickled  # noqa: E402

REPEATS = 3
MEASURE = """
import json, re, sys, time
from pathlib import Path
import torch
from airlib.checkpoints.nvlabs import read_nvlabs

def peak():  # of this process; ru_maxrss would start with the peak of its parent
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

torch.zeros(1)
result, before = {}, peak()
for name in ("seconds", "again"):
    started = time.perf_counter()
    if sys.argv[1] == "airlib":
        read_nvlabs(sys.argv[2])
    else:
        torch.load(sys.argv[2], weights_only=True)
    result[name] = time.perf_counter() - started
print(json.dumps(result | {"bytes": peak() - before}))
"""


def measure(reader: str, path: Path) -> dict[str, float]:
    """The smallest of every figure over REPEATS processes."""
    runs = []
    for _ in range(REPEATS):
        command = [sys.executable, "-c", MEASURE, reader, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(run.stdout))
    return {key: min(run[key] for run in runs) for key in runs[0]}


def write_files(folder: Path) -> tuple[int, dict[str, Path]]:
    """(parameters of the network, files by the name of the measurement)."""
    torch.manual_seed(0)
    network = StyleGAN2(StyleGAN2Config(resolution=1024)).requires_grad_(False)
    state, config = network.state_dict(), network.config_dict()
    files = {name: folder / name for name in ("airlib", "torch.load", "G_ema alone")}
    files["airlib"].write_bytes(pickled(state, config))
    torch.save({"G_ema": state, "G": {k: v + 1 for k, v in state.items()}}, files["torch.load"])
    with nvidia_modules(), files["G_ema alone"].open("wb") as file:
        pickle.dump({"G_ema": generator(state, config, "ada")}, file, protocol=4)
    return sum(p.numel() for p in network.parameters()), files


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parameters, files = write_files(Path(folder))
        sizes = {name: path.stat().st_size for name, path in files.items()}
        figures = {
            name: measure("torch" if name == "torch.load" else "airlib", path)
            for name, path in files.items()
        }
    print(f"{parameters:,} parameters\n")
    print(f"{'':12}{'file MB':>10}{'seconds':>10}{'again':>10}{'peak MB':>10}{'peak/file':>11}")
    for name, f in figures.items():
        memory = f["bytes"] / sizes[name]
        print(
            f"{name:12}{sizes[name] / 1e6:10.1f}{f['seconds']:10.3f}{f['again']:10.3f}"
            f"{f['bytes'] / 1e6:10.1f}{memory:11.2f}"
        )
    ours, theirs, least = (figures[name] for name in files)
    result = {
        "parameters": parameters,
        "seconds": round(ours["seconds"], 3),
        "seconds_again": round(ours["again"], 3),
        "memory_over_file": round(ours["bytes"] / sizes["airlib"], 3),
        "memory_over_file_g_ema_alone": round(least["bytes"] / sizes["G_ema alone"], 3),
        "seconds_over_torch_load": round(ours["again"] / theirs["again"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
