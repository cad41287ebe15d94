"""What a run takes in the tiny world: CPU seconds of each method and of scoring, and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/tiny_run.py [nada air ipl svl]

Each method adapts human-baby twice in this process, interleaved: with the layers as they are, and
with upsampling written as one 3x3 convolution with four times the outputs, as it was before
(`four_phases`). `largest_difference` is that of the metrics, as a share: the two round differently,
and adaptation amplifies it. Ratios above 1 say how much faster the layers as they are run.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.generators.stylegan2_layers import LOW_PASS, ModulatedConv
from airlib.worlds import World, open_world

PAIR, METHODS = "human-baby", ("nada", "air", "ipl", "svl")
TAPS = LOW_PASS.sum(dim=0) / 2  # of the filter along one axis
# Output pixel 2m + p of an upsampling convolution sees the input pixels m-1, m, m+1 through
# PHASES[p] @ kernel.
PHASES = torch.tensor(
    [[[TAPS[p + 4 - 2 * a - j] if 0 <= p + 4 - 2 * a - j <= 3 else 0.0 for j in range(3)]
      for a in range(3)] for p in range(2)]
)  # fmt: skip


def four_phases(self: ModulatedConv, x: Tensor, styles: Tensor, up: bool = False) -> Tensor:
    """`ModulatedConv.convolve` with one output channel for each phase of the doubled image."""
    weight = self.weight
    x = x * styles[:, :, None, None]
    if not up:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    outputs, inputs = weight.shape[:2]
    kernels = torch.einsum("paj,qbk,oijk->opqiab", PHASES, PHASES, weight)
    return F.pixel_shuffle(F.conv2d(x, kernels.reshape(4 * outputs, inputs, 3, 3), padding=1), 2)


@contextmanager
def written_as(convolve) -> Iterator[None]:
    kept = ModulatedConv.convolve
    ModulatedConv.convolve = convolve
    try:
        yield
    finally:
        ModulatedConv.convolve = kept


def measure(world: World, method: str) -> tuple[float, float, dict[str, float]]:
    """CPU seconds of an adaptation and of its score, and the metrics."""
    started = time.process_time()
    adapted = world.adapt(method, PAIR).apply(world.generator)
    between = time.process_time()
    batches = world.batches(adapted, world.profile.evaluation.samples)
    found = {metric.name: metric.value for metric in world.score(batches, PAIR, method, 0)}
    return between - started, time.process_time() - between, found


def main(methods: list[str]) -> None:
    world = open_world("tiny")
    world.reference(PAIR)
    for method in methods:
        now, scoring, found = measure(world, method)
        with written_as(four_phases):
            before, scoring_before, others = measure(world, method)
        apart = max(abs(found[name] / value - 1) for name, value in others.items())
        row = {
            "method": method, "seconds": round(now, 1), "before": round(before, 1),
            "ratio": round(before / now, 2), "scoring": round(scoring, 1),
            "scoring_before": round(scoring_before, 1), "largest_difference": round(apart, 4),
            "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(METHODS))
