"""Intra-LPIPS: how different images of the same kind are, from the distances of all pairs.

    result = intra_lpips(lpips_matrix(images, Lpips("vgg").embedding()))

The images are put into K = 10 clusters. Papers and codes disagree on the rest, so there are three
named variants, and their values must not be compared with each other:

    within   K-medoids; mean distance of pairs inside a cluster, averaged over the clusters. What
             the text of AIR (section 5.1) and SVL describe.
    medoid   mean distance of an image to the medoid of its cluster, averaged over images. What the
             code of AIR computes. The medoids count with distance 0, and the clustering is a weaker
             one (`alternating_medoids`).
    centres  Clusters around K given images, mean as in `within`: Ojha et al. 2021, where the given
             images are those of the few-shot training set. All pairs count, not 50 drawn images.

Clusters of fewer than two images have no pairs, and are left out of the average of clusters.
"""

from dataclasses import dataclass

import kmedoids
import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.intervals import Interval

VARIANTS = ("within", "medoid", "centres")
MAX_ITERATIONS = 300


@dataclass(frozen=True)
class IntraLpips:
    """Intra-LPIPS of a set of images and of its clusters.

    value: the mean over clusters ("medoid": over images). per_cluster: the mean distance of pairs
    in each cluster ("medoid": the mean distance to the medoid), None for a cluster of fewer than
    two images. sizes: images in each cluster, the medoid included.
    """

    value: float
    per_cluster: tuple[float | None, ...]
    sizes: tuple[int, ...]


def intra_lpips(
    distances: Tensor, clusters: int = 10, variant: str = "within", centres: Tensor | None = None
) -> IntraLpips:
    """Intra-LPIPS of N images with distances [N, N], e.g. of `lpips_matrix`; deterministic.

    variant: "within" is the mean distance of pairs inside a cluster of K-medoids, averaged over the
    clusters (the text of AIR, section 5.1, and SVL); "medoid" the mean distance of an image to the
    medoid of its cluster (the code of AIR); "centres" is "within" for clusters around K given
    images (Ojha et al. 2021). Values of different variants must not be compared.
    centres: distances [N, K] to the K given images, for "centres" only; `clusters` is then ignored.
    Raises AirlibError for a matrix that is not one of distances, more clusters than images, or
    clusters without any pair.
    """
    distances = _checked(distances)
    if variant not in VARIANTS or (variant == "centres") is (centres is None):
        raise AirlibError(
            f"variant {variant!r}: choose from {', '.join(VARIANTS)}, and give the distances to "
            "the centres to the last one only"
        )
    if centres is not None:
        labels, clusters = _nearest(centres, len(distances)), centres.shape[1]
        return _within(distances, labels, clusters)
    if not 1 <= clusters <= len(distances):
        raise AirlibError(f"{clusters} clusters of {len(distances)} images; choose fewer clusters")
    if variant == "within":
        return _within(distances, faster_pam(distances, clusters), clusters)
    return _to_medoid(distances, alternating_medoids(distances, clusters))


def intra_lpips_interval(
    distances: Tensor, rng: torch.Generator, clusters: int = 10, variant: str = "within",
    centres: Tensor | None = None, draws: int = 100,
) -> Interval:  # fmt: skip
    """95 % interval of `intra_lpips` for other images of the same generator.

    The interval is value +- 1.96 standard deviations, cut at 0. The deviation is that of the values
    of `draws` random halves of the images, each clustered anew. It needs no rescaling: the variance
    of a mean of half the images, drawn without replacement, is that of the mean of all of them (the
    jackknife that deletes N / 2, Shao and Wu 1989). Drawing with replacement would not do, since
    repeated images have distance 0. Other arguments and errors: see `intra_lpips`.
    """
    value = intra_lpips(distances, clusters, variant, centres).value
    halves = []
    for _ in range(draws):
        chosen = torch.randperm(len(distances), generator=rng)[: (len(distances) + 1) // 2]
        part = distances[chosen][:, chosen]
        given = None if centres is None else centres[chosen]
        halves.append(intra_lpips(part, clusters, variant, given).value)
    half_width = 1.96 * float(torch.tensor(halves, dtype=torch.float64).std())
    return max(value - half_width, 0.0), value + half_width


# --- clusters ------------------------------------------------------------------------------------


def faster_pam(distances: Tensor, clusters: int) -> Tensor:
    """Cluster number [N] of each image, from distances [N, N] by K-medoids.

    The algorithm is FasterPAM (Schubert and Rousseeuw 2021) from the start "build".
    """
    found = kmedoids.fasterpam(distances.numpy(), clusters, init="build", n_cpu=1)
    return torch.from_numpy(found.labels.astype("int64"))


def alternating_medoids(distances: Tensor, clusters: int) -> Tensor:
    """Row numbers [K] of the medoids that AIR's code finds, from distances [N, N].

    AIR's code uses the "heuristic" start and the "alternate" steps of scikit-learn-extra: the
    search starts at the K images that are closest to all others, so at the middle of the set, and
    stops at the first local optimum, 3 to 5 % above that of FasterPAM on distances like LPIPS.
    """
    medoids = distances.sum(1).argsort(stable=True)[:clusters]
    for _ in range(MAX_ITERATIONS):
        labels = distances[:, medoids].argmin(1)
        moved = medoids.clone()
        for k in range(clusters):
            members = (labels == k).nonzero().flatten()
            costs = distances[members][:, members].sum(1)
            if len(members) and costs.min() < distances[members, medoids[k]].sum():
                moved[k] = members[costs.argmin()]
        if torch.equal(moved, medoids):
            break
        medoids = moved
    return medoids


def _nearest(centres: Tensor, n: int) -> Tensor:
    """[N, K] -> the nearest centre [N] of each image"""
    if centres.ndim != 2 or len(centres) != n or not centres.isfinite().all():
        raise AirlibError(f"centres: expected finite distances [{n}, K], got {list(centres.shape)}")
    return centres.detach().cpu().argmin(1)


# --- values of clusters --------------------------------------------------------------------------


def _within(distances: Tensor, labels: Tensor, clusters: int) -> IntraLpips:
    """Mean over pairs, then over clusters that have one."""
    means, sizes = [], []
    for k in range(clusters):
        inside = distances[labels == k][:, labels == k]
        n = len(inside)
        sizes.append(n)
        means.append(float(inside.sum()) / (n * (n - 1)) if n > 1 else None)
    with_pairs = [mean for mean in means if mean is not None]
    if not with_pairs:
        raise AirlibError(f"{len(distances)} images in {clusters} clusters: no cluster has a pair")
    return IntraLpips(sum(with_pairs) / len(with_pairs), tuple(means), tuple(sizes))


def _to_medoid(distances: Tensor, medoids: Tensor) -> IntraLpips:
    """Mean distance to the nearest medoid over all images, the medoids included with 0."""
    nearest, labels = distances[:, medoids].min(1)
    members = [nearest[labels == k] for k in range(len(medoids))]
    means = tuple(float(part.mean()) if len(part) > 1 else None for part in members)
    return IntraLpips(float(nearest.mean()), means, tuple(map(len, members)))


def _checked(distances: Tensor) -> Tensor:
    """Float64 distances [N, N] on the CPU."""
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise AirlibError(f"expected distances [N, N], got {list(distances.shape)}")
    distances = distances.detach().double().cpu()
    if not distances.isfinite().all():
        raise AirlibError("distances hold NaN or infinite values; check the images")
    tolerance = 1e-6 * float(distances.abs().max())
    if (distances - distances.T).abs().max() > tolerance:
        raise AirlibError("distances are not symmetric: d(i, j) must be d(j, i)")
    if distances.min() < -tolerance or distances.diagonal().abs().max() > tolerance:
        raise AirlibError("distances must not be negative, and d(i, i) must be 0")
    return distances.contiguous()
