"""Precision, recall, density and coverage: how two sets overlap in feature space.

The ball of a point reaches to its k-th nearest neighbour in its own set; the balls of a set cover
its manifold.

    precision  share of generated images inside at least one ball of a reference
    recall     share of references inside at least one ball of a generated image
    density    mean over generated images of: number of reference balls around it, divided by k
    coverage   share of references with a generated image inside their ball

Precision and recall are those of Kynkaanniemi et al. 2019; one outlier with a large ball raises
them. Density and coverage (Naeem et al. 2020) use the balls of the references only and do not
suffer from it; density can exceed 1. All four depend on both sample sizes and on k.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.feature_sets import feature_pair

ROWS = 1024  # rows of a distance matrix in memory at a time
ROUNDING = 1e-9  # of a squared distance: closer to the surface is on it


@dataclass(frozen=True)
class Manifold:
    """Overlap of generated and reference features: four shares between 0 and 1, density aside.

    precision: of the generated images, inside at least one ball of a reference. recall: of the
    references, inside at least one ball of a generated image. coverage: of the references, with a
    generated image inside their ball. density: how many reference balls a generated image lies in
    on average, divided by k; about 1 for sets of one kind. The ball of a point reaches to its k-th
    nearest neighbour in its own set.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(generated: Tensor, references: Tensor, k: int = 3) -> Manifold:
    """Overlap of features [N, F] of generated images and [M, F] of references.

    A point on the surface of a ball is inside for precision and recall and outside for density and
    coverage, as in the code of their authors; a point is not its own neighbour.
    Raises AirlibError for other shapes, k outside 1 .. min(N, M) - 1, or NaN and infinite values.
    """
    x, y = feature_pair(generated, references, ("generated", "references"))
    smaller = min(len(x), len(y))
    if not 1 <= k < smaller:
        raise AirlibError(
            f"k = {k} neighbours need sets of more than k >= 1 images, the smaller has {smaller}"
        )
    origin = y.mean(0)  # distances do not depend on it, their rounding does
    x, y = x - origin, y - origin
    ball_x, ball_y = _ball_sizes(x, k), _ball_sizes(y, k)
    recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    covered, around, precise = recalled.clone(), [], []
    for rows, distances in _distances(x, y):
        precise.append((distances <= ball_y).any(1))
        inside = distances < ball_y * (1 - ROUNDING)
        around.append(inside.sum(1))
        covered |= inside.any(0)
        recalled |= (distances <= ball_x[rows, None]).any(0)
    balls = torch.cat(around).double()  # [N] reference balls around each generated image
    return Manifold(
        precision=float(torch.cat(precise).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.double().mean()),
    )


def _ball_sizes(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row of x [N, F] to its k-th nearest other row -> [N]."""
    sizes = []
    for rows, distances in _distances(x, x):
        own = torch.arange(rows.start, rows.stop, device=x.device)
        distances[own - rows.start, own] = torch.inf
        sizes.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(sizes)


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances [rows, M] of x [N, F] to y [M, F], a slice of rows at a time."""
    lengths = y.square().sum(1)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        distances = part.square().sum(1, keepdim=True) + lengths - 2 * part @ y.T
        yield slice(start, start + len(part)), distances.clamp_(min=0)
