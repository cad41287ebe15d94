"""LPIPS of all pairs of 64 px images, compared with the loop of the package `lpips`.

    python benchmarks/intra_lpips.py

Both use the learnt weights of LPIPS v0.1 on the same random trunk (speed and rounding do not depend
on what it learnt), on the same seeded images, which are in memory already. In one process:

- peak memory  of `lpips_matrix` for 128 images with VGG, held to 128 MiB, half of what all
               embeddings would take; measured first (Linux only, as peaks are read from /proc)
- fast         `lpips_matrix` for 32, 64 and 128 images, with all the memory it wants
- loop         what the official code does: one call of the package for each pair. It would take
               10 minutes for 128 images with VGG, so PAIRS random pairs are timed and their mean
               is multiplied by the number of pairs, N (N - 1) / 2

Seconds are CPU seconds of one thread, so that other work on the machine hardly matters. `max_error`
is the largest difference between the matrix and the package over the timed pairs of both trunks,
also for the matrix made in little memory. The last line is one JSON object; `speedup_n128` is that
of VGG, which the papers use, and the smaller one.
"""

import json
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn

from airlib.evaluation.intra_lpips import intra_lpips
from airlib.evaluation.networks.lpips import Lpips, lpips_matrix
from airlib.seeding import rng

SIZES, PAIRS = (32, 64, 128), {"vgg": 60, "alex": 200}
MEMORY = 128 * 2**20


def images() -> Tensor:
    """Smooth images [128, 3, 64, 64] in 16 groups that look alike."""
    stream = rng(0, "intra-LPIPS benchmark")
    groups = torch.randn(16, 3, 8, 8, generator=stream).repeat_interleave(8, dim=0)
    coarse = groups + 0.5 * torch.randn(128, 3, 8, 8, generator=stream)
    return nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1)


def networks(net: str) -> tuple[lpips.LPIPS, Lpips]:
    """The package's network on a random trunk, and ours with the same weights."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision dislikes how the package calls it
        official = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    trunk = {f"features.{k.split('.', 1)[1]}": v for k, v in official.net.state_dict().items()}
    return official, Lpips(net, trunk)


def peak() -> int:
    """Bytes of memory that this process has held at most since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def reset_peak() -> int:
    """Bytes of memory held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


@torch.no_grad()
def loop(official: lpips.LPIPS, pictures: Tensor, pairs: Tensor) -> Tensor:
    """The distance of each pair of indices [P, 2], one call for each -> [P]."""
    return torch.cat([official(*pictures[pair, None]).flatten() for pair in pairs])


def main() -> None:
    torch.set_num_threads(1)
    pictures, errors, speedups = images(), [], {}
    print(f"{'':6}{'images':>8}{'fast s':>10}{'loop s':>10}{'ratio':>8}")
    for net, count in PAIRS.items():
        official, ours = networks(net)
        draws = torch.randint(128, (4 * count, 2), generator=rng(0, "pairs", net))
        pairs = draws[draws[:, 0] != draws[:, 1]][:count]
        lpips_matrix(pictures[:2], ours.embedding())  # what a first call sets up is not counted
        loop(official, pictures, pairs[:1])
        if net == "vgg":
            before = reset_peak()
            bounded = lpips_matrix(pictures, ours.embedding(), MEMORY)
            memory = peak() - before
        seconds, expected = timed(lambda: loop(official, pictures, pairs))  # noqa: B023
        for n in SIZES:
            fast, distances = timed(lambda: lpips_matrix(pictures[:n], ours.embedding()))  # noqa: B023
            slow = seconds / count * n * (n - 1) / 2
            speedups[net, n] = slow / fast
            print(f"{net:6}{n:8}{fast:10.2f}{slow:10.1f}{slow / fast:8.0f}")
        found = [distances] if net == "alex" else [distances, bounded]
        errors += [float((m[pairs[:, 0], pairs[:, 1]] - expected).abs().max()) for m in found]
        print(f"       intra-LPIPS (within, K = 10): {intra_lpips(distances).value:.6f}")
    result = {
        "max_error": float(f"{max(errors):.2g}"),
        "speedup_n128": round(speedups["vgg", 128]),
        "speedup_n128_alex": round(speedups["alex", 128]),
        "scaling": {str(n): round(speedups["vgg", n]) for n in SIZES},
        "peak_megabytes": round(memory / 2**20, 1),
        "memory_limit_megabytes": MEMORY / 2**20,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
