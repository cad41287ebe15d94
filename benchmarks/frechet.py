"""Frechet distances of 2,048 features, compared with scipy's matrix square root.

    python benchmarks/frechet.py

The features stand for those of Inception: correlated and non-negative, seeded. Three pairs of sets:

- full rank   5,000 and 5,000 samples, more than features
- low rank    1,000 and 1,000
- references  5,000 and 300, as with the face sketches of HyperDomainNet's table 1

The reference is what pytorch-fid and clean-fid do: means and covariances by numpy, the square root
of their product by scipy, from the same features in the same process. Seconds are CPU seconds of
one thread, so that other work on the machine hardly matters; ours are the best of three runs. The
errors are relative to the reference where both sets have full rank, and to torch-fidelity's
eigenvalues everywhere; below full rank the square root itself is inexact, by up to a few 1e-6. The
last line is one JSON object.
"""

import json
import os
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from airlib.evaluation.frechet import frechet_distance
from airlib.seeding import rng

FEATURES, FACTORS = 2048, 256
SETS = {"full_rank": (5000, 5000), "low_rank": (1000, 1000), "references": (5000, 300)}


def features(n: int, name: str, shift: float = 0.0) -> Tensor:
    """[n, FEATURES] in float32."""
    stream = rng(0, "frechet benchmark", name)
    mixing = torch.randn(FACTORS, FEATURES, generator=rng(0, "mixing")) / FACTORS**0.5
    signal = torch.randn(n, FACTORS, generator=stream) @ mixing
    noise = torch.randn(n, FEATURES, generator=stream)
    return torch.relu(0.3 * signal + 0.25 * noise + 0.1 + shift)


def by_square_root(x: Tensor, y: Tensor) -> float:
    x, y = x.double().numpy(), y.double().numpy()
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y).real
    gap = np.square(x.mean(0) - y.mean(0)).sum()
    return float(gap + covariance_x.trace() + covariance_y.trace() - 2 * root.trace())


def by_torch_fidelity(x: Tensor, y: Tensor) -> float:
    statistics = [fid_features_to_statistics(part.double()) for part in (x, y)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def timed(
    distance: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, runs: int = 1
) -> tuple[float, float]:
    """(CPU seconds of the fastest run, value)"""
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        value = distance(x, y)
        seconds.append(time.process_time() - started)
    return min(seconds), value


def main() -> None:
    torch.set_num_threads(1)
    result, errors = {}, []
    print(f"{'samples':14}{'airlib s':>10}{'sqrtm s':>10}{'ratio':>8}{'distance':>12}{'error':>10}")
    for name, (n, m) in SETS.items():
        x, y = features(n, f"{name} x"), features(m, f"{name} y", shift=0.02)
        seconds, value = timed(frechet_distance, x, y, runs=3)
        slow, square_root = timed(by_square_root, x, y)
        references = [by_torch_fidelity(x, y)]
        if min(n, m) > FEATURES:
            references.append(square_root)
        error = max(abs(value / reference - 1) for reference in references)
        errors.append(error)
        result[f"speedup_{name}"] = round(slow / seconds, 1)
        print(
            f"{n:,} x {m:,}".ljust(14)
            + f"{seconds:10.2f}{slow:10.2f}{slow / seconds:8.1f}{value:12.6f}{error:10.1e}"
        )
    print(json.dumps(result | {"max_relative_error": float(f"{max(errors):.2g}")}))


if __name__ == "__main__":
    main()
