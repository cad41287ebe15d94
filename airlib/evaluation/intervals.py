"""How sure a number is. Four questions, four tools:

- Would other samples from the same generator give the same value? Bootstrap: `mean_bootstrap` for
  means, `frechet_bootstrap` for Frechet distances.
- Would other training seeds? `mean_interval`, Student's t over the seeds.
- Is method A better than B on these pairs? `paired_difference`, with a sign-flip permutation test.
- How often does something happen, when it was seen k times in n? `wilson_interval`.

All intervals cover 95 %; of fewer than `FEWEST` images there is none. Randomness comes from the
`torch.Generator` passed in.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.frechet import Gaussian, frechet_distance

LEVEL = 0.95
FEWEST = 6  # with fewer values not even their range covers the median with 95 %
EXACT_FLIPS = 2**16  # up to this many sign patterns are enumerated, beyond it they are sampled

Interval = tuple[float, float]


def mean_bootstrap(values: Tensor, rng: torch.Generator, resamples: int = 2000) -> Interval | None:
    """95 % percentile bootstrap interval of the mean of `values` [N]; None for fewer than `FEWEST`.

    Raises AirlibError for no values, and for NaN or infinities.
    """
    values = _values(values, at_least=1)
    if len(values) < FEWEST:
        return None
    means = torch.stack([values[_resample(len(values), rng)].mean() for _ in range(resamples)])
    return percentiles(means)


def frechet_bootstrap(
    x: Tensor, y: Tensor | Gaussian, rng: torch.Generator, resamples: int = 50
) -> tuple[float, Interval | None]:
    """Frechet distance of features x [N, F] to y, features [M, F] or a Gaussian, and its 95 %
    interval; None instead of it for fewer than `FEWEST` rows.

    Sets are resampled, a Gaussian is taken as it is. Repeated rows shrink the effective sample size
    and so raise every resampled distance; their *spread* is right. The interval is therefore the
    distance of the full sets +- 1.96 standard deviations of the resampled ones, never their
    percentiles.
    """
    value = frechet_distance(x, y)
    if min(len(s) for s in (x, y) if isinstance(s, Tensor)) < FEWEST:
        return value, None

    def again(rows: Tensor | Gaussian) -> Any:
        return rows[_resample(len(rows), rng)] if isinstance(rows, Tensor) else rows

    draws = torch.tensor([frechet_distance(again(x), again(y)) for _ in range(resamples)])
    half_width = 1.96 * float(draws.std())
    return value, (max(value - half_width, 0.0), value + half_width)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % t interval of the mean of `values`, one per seed; None for a single seed.

    Raises AirlibError for NaN or infinities.
    """
    if len(values) < 2:
        return None
    known = _values(values)
    degrees = len(known) - 1
    half_width = student_quantile(degrees) * float(known.std()) / len(known) ** 0.5
    return float(known.mean()) - half_width, float(known.mean()) + half_width


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's 95 % score interval of a share, for independent trials; always within [0, 1].

    The interval holds all shares p from which the observed one is at most 1.96 standard errors (of
    p) away. Raises AirlibError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise AirlibError(f"{successes} of {trials} is not a share; count at least one trial")
    share, z2 = successes / trials, NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    middle = share + z2 / (2 * trials)
    half_width = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * trials)) / trials)
    scale = 1 + z2 / trials
    return max((middle - half_width) / scale, 0.0), min((middle + half_width) / scale, 1.0)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of (first - second) over `n` matched runs.

    `interval` is Student's 95 % interval (None for one run), `p_value` two-sided, by sign flips.
    """

    mean: float
    interval: Interval | None
    p_value: float
    n: int


def paired_difference(
    first: Mapping[Any, float], second: Mapping[Any, float], rng: torch.Generator
) -> PairedDifference:
    """Compare two methods run on the same keys, e.g. {("human-baby", seed): value, ...}.

    If the methods did not differ, each difference could as well have the other sign. The p-value is
    the share of sign patterns whose mean is at least as far from 0 as the one observed: exact up to
    2^16 patterns, by 2^16 random patterns beyond. It speaks about these pairs, not about others.
    Raises AirlibError if the keys differ: unmatched runs must not be compared as pairs.
    """
    if first.keys() != second.keys():
        unmatched = sorted(map(str, first.keys() ^ second.keys()))
        raise AirlibError(f"runs without a partner: {', '.join(unmatched[:5])}; compare equal runs")
    differences = _values([first[key] - second[key] for key in first], at_least=1)
    n = len(differences)
    if 2**n <= EXACT_FLIPS:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)), dtype=torch.float64)
        extra = 0
    else:  # the observed pattern counts as one of the samples, so p is never 0
        signs = torch.randint(0, 2, (EXACT_FLIPS, n), generator=rng).double() * 2 - 1
        extra = 1
    flipped = (signs @ differences).abs()
    observed = differences.sum().abs()
    as_far = int((flipped >= observed - 1e-12 * differences.abs().sum()).sum())
    return PairedDifference(
        mean=float(differences.mean()),
        interval=mean_interval(differences.tolist()),
        p_value=(as_far + extra) / (len(signs) + extra),
        n=n,
    )


def percentiles(draws: Tensor) -> Interval:
    """The middle 95 % of bootstrap draws [R] of a statistic."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=draws.dtype)
    low, high = draws.quantile(ends).tolist()
    return low, high


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """t with P(|T| <= t) = level for integer degrees of freedom, by bisection."""
    low, high = 0.0, 1.0
    while _student_two_sided(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if _student_two_sided(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return high


def _student_two_sided(t: float, degrees: int) -> float:
    """P(|T| <= t), a finite sum for integer degrees (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _resample(n: int, rng: torch.Generator) -> Tensor:
    return torch.randint(n, (n,), generator=rng)


def _values(values: Sequence[float] | Tensor, at_least: int = 2) -> Tensor:
    values = torch.as_tensor(values).detach().double().cpu()
    if values.ndim != 1 or len(values) < at_least:
        raise AirlibError(f"expected at least {at_least} values, got shape {list(values.shape)}")
    if not values.isfinite().all():
        raise AirlibError("values hold NaN or infinities; find out why before averaging them")
    return values
