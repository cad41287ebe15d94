"""The measures of the protocols: from features of a set to values, their intervals, and how.

    measures.kernel(Subject(seen, reference))  # [("kernel", 0.31, 300, (0.28, 0.34), "kd300_...")]

A measure returns the first five entries of a `Metric`. Intervals cover 95 % and answer "what would
other images of the same generator give?". Where repeated images do no harm they are bootstrapped;
elsewhere they come from the spread over random halves of the sets, drawn without replacement, which
estimates the standard error of the whole (the jackknife that deletes half, Shao and Wu 1989).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.clip_distance import clip_distance
from airlib.evaluation.features import PAIRED, Judge, Reference, Seen
from airlib.evaluation.intervals import FEWEST, Interval, frechet_bootstrap, mean_bootstrap
from airlib.evaluation.intra_lpips import intra_lpips, intra_lpips_interval
from airlib.evaluation.kernel_distance import kernel_distance
from airlib.evaluation.manifold import Manifold, manifold
from airlib.evaluation.networks.lpips import lpips_matrix
from airlib.evaluation.perceptual import mean_pairwise_distance, paired_edge_l1, paired_l1
from airlib.evaluation.text_alignment import clip_diversity, text_quality
from airlib.seeding import rng

HALVES = 50  # random halves per interval
NEIGHBOURS = 3  # k of precision and recall (Kynkaanniemi et al. 2019)
CLUSTERS = 10  # K of intra-LPIPS (AIR, section 5.1)
PART = 2**28  # bytes of embeddings that are summed in float64 at a time

T = TypeVar("T")
Entry = tuple[str, float, int, Interval | None, str]  # name, value, n, interval, protocol


@dataclass(frozen=True, eq=False)
class Subject:
    """A set of images and what it is compared with: the argument of every measure."""

    seen: Seen
    reference: Reference

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.seen.clip)

    @property
    def judge(self) -> str:
        """The name of the network that gives perceptual distances."""
        config = self.reference.judges[0].config
        return config.get("maps", config["network"])

    @property
    def encoder(self) -> str:
        """The name of the CLIP that measures."""
        return self.reference.encoder.name

    @property
    def compared(self) -> Tensor:
        """The images [P, 3, H, W] in [-1, 1] that are compared one by one: the first of the set."""
        truth = self.reference.truth
        return self.seen.images[: PAIRED if truth is None else len(truth)].clamp(-1, 1)

    @cached_property
    def embedded(self) -> Tensor:
        """Perceptual embeddings [P, D] of the images that are compared one by one."""
        return self.reference.perceptual(self.compared)

    def protocol(self, short: str, network: str, what: str) -> str:
        """How a value was made, e.g. "fd300_judge: Judge features; 300 generated, ..."."""
        m, network = len(self.reference.clip), network.split()[0]
        images = f"{self.n} generated, {m} reference images"
        if self.reference.gaussians:
            images = f"{self.n} generated images, statistics of the references"
        return f"{short}{self.n}_{network}: {what}; {images}"


# --- against the target domain -------------------------------------------------------------------


def frechet(subject: Subject) -> list[Entry]:
    """Frechet distance to the references in the features of each judge; FID for Inception's.

    Of statistics: in the features of the judge that they fit.
    """
    found: list[Entry] = []
    known = subject.reference.gaussians or subject.reference.features
    for name, judge, generated, references in _judged(subject, "frechet", known):
        if references is None:
            continue
        value, interval = frechet_bootstrap(generated, references, _stream(name))
        how = _features_of(judge, subject, "fd", "fid")
        found.append((name, value, subject.n, interval, how))
    return found


def kernel(subject: Subject) -> list[Entry]:
    """Kernel distance to the references in the features of each judge; KID for Inception's."""
    found = []
    references_of = subject.reference.features
    for name, judge, generated, references in _judged(subject, "kernel", references_of):
        [(value, interval)] = _by_halves(
            lambda x, y: [kernel_distance(x, y)], generated, references, name, least=-math.inf
        )
        how = _features_of(judge, subject, "kd", "kid")
        found.append((name, value, subject.n, interval, how))
    return found


def overlap(subject: Subject, by: int = 0) -> list[Entry]:
    """Precision, recall, density and coverage, in the features of the judge of index `by`."""
    generated, references = subject.seen.features[by], subject.reference.features[by]
    found = _by_halves(
        lambda x, y: astuple(manifold(x, y, NEIGHBOURS)), generated, references, "overlap",
        most=[1.0, 1.0, math.inf, 1.0],
    )  # fmt: skip
    judge = subject.reference.judges[by]
    how = f"{judge.title} features, k = {NEIGHBOURS} neighbours"
    how = subject.protocol("overlap", f"k{NEIGHBOURS}_{judge.config['network']}", how)
    names = [field.name for field in fields(Manifold)]
    return [
        (name, value, subject.n, interval, how)
        for name, (value, interval) in zip(names, found, strict=True)
    ]


def clip(subject: Subject) -> list[Entry]:
    """CLIP distance to the references, and its gap: the term that is a distance."""
    distance = clip_distance(subject.seen.clip, subject.reference.clip)
    (gap, interval), *_ = _clip_terms(subject)
    how = subject.protocol("clip", subject.encoder, f"CLIP {subject.encoder}")
    half = "half squared distance of the mean CLIP embeddings"
    half = subject.protocol("clipgap", subject.encoder, half)
    return [
        _mean("clip_distance", distance.per_image, how),
        ("clip_gap", gap, subject.n, interval, half),
    ]


def clip_split(subject: Subject) -> list[Entry]:
    """The two diversity terms of CLIP distance, of the images and of the references."""
    if min(subject.n, len(subject.reference.clip)) < 2:
        raise AirlibError("diversity is about two images or more, and here is one")
    found = []
    sides = ("generated", "reference")
    for side, (value, interval) in zip(sides, _clip_terms(subject)[1:], strict=True):
        what = f"half mean squared deviation of the {side} CLIP embeddings"
        how = subject.protocol(f"clip{side}", subject.encoder, what)
        found.append((f"clip_{side}_diversity", value, subject.n, interval, how))
    return found


def _clip_terms(subject: Subject) -> list[tuple[float, Interval | None]]:
    """Gap, diversity of the images, diversity of the references."""

    def terms(x: Tensor, y: Tensor) -> Sequence[float]:
        found = clip_distance(x, y)
        return found.gap, found.generated_diversity, found.reference_diversity

    return _by_halves(terms, subject.seen.clip, subject.reference.clip, "clip_gap")


def _features_of(judge: Judge, subject: Subject, short: str, in_inception: str) -> str:
    """The protocol of a distance in a judge's features; in Inception's it has a name of its own."""
    network = judge.config["network"]
    short = in_inception if network == "inception" else short
    return subject.protocol(short, network, f"{judge.title} features")


def _judged(
    subject: Subject, name: str, references: Sequence[T]
) -> Iterator[tuple[str, Judge, Tensor, T]]:
    """Per judge: name of the metric, judge, features of the images, and what is known of the
    references.
    """
    judges, features = subject.reference.judges, subject.seen.features
    # Fewer judges than names: a world may have one.
    yield from zip((name, f"{name}_vit"), judges, features, references)  # noqa: B905


# --- against the true target of the same latent --------------------------------------------------


def paired(subject: Subject) -> list[Entry]:
    """Feature distance, L1 and edge L1 to the true targets of the same latents.

    L1 distances are shares of the pixel range. The reference must know the true targets.
    """
    reference, images, truth = subject.reference, subject.compared, subject.reference.truth
    assert truth is not None  # `scores_of` omits the measure otherwise
    same = f"to the true target of the same {len(truth)} latents"
    half, p = "share of the pixel range", f"paired{len(truth)}"
    features = (subject.embedded - reference.truth_embedding).square().sum(dim=1)
    edges = paired_edge_l1(images, truth) / 2
    return [
        _mean("paired_feature", features, f"{p}_{subject.judge}: judge maps, {same}"),
        _mean("paired_l1", paired_l1(images, truth) / 2, f"{p}_l1: {half}, {same}"),
        _mean("paired_edge", edges, f"{p}_edge: pixel differences, {half}, {same}"),
    ]


# --- of the set alone ----------------------------------------------------------------------------


def diversity(subject: Subject) -> list[Entry]:
    """Mean perceptual distance between two images of the set."""
    phi, p = subject.embedded, len(subject.embedded)
    parts = phi.split(max(1, PART // phi[0].nbytes))
    value, squares = mean_pairwise_distance(parts), phi.square().sum(1)
    interval = _interval_of_pairs(value, squares + squares.mean() - 2 * phi @ phi.mean(0))
    how = f"pairwise{p}_{subject.judge}: mean pairwise judge-map distance of {p} images"
    return [("diversity", value, p, interval, how)]


def intra_lpips_of_clusters(subject: Subject) -> list[Entry]:
    """Intra-LPIPS as AIR's text describes it, and as AIR's code computes it."""
    distances = lpips_matrix(subject.seen.images, subject.reference.perceptual)
    found = []
    for name, variant in (("intra_lpips", "within"), ("intra_lpips_medoid", "medoid")):
        value = intra_lpips(distances, CLUSTERS, variant).value
        try:
            interval = intra_lpips_interval(
                distances, _stream(name), CLUSTERS, variant, draws=HALVES
            )
        except AirlibError:  # half of the images are too few
            interval = None
        short = f"intralpips{len(distances)}_k{CLUSTERS}_{variant}_{subject.judge}"
        how = f"{short}: judge-map distances, {CLUSTERS} clusters, variant {variant}"
        found.append((name, value, len(distances), interval, how))
    return found


def text_alignment(subject: Subject) -> list[Entry]:
    """Quality and Diversity of HyperDomainNet (appendix A.3.3), by the CLIP that measures.

    The reference must have sentences about the target.
    """
    embeddings, texts, n = subject.seen.clip, subject.reference.texts, subject.n
    assert texts is not None  # `scores_of` omits the measure otherwise
    quality, spread = text_quality(embeddings, texts), clip_diversity(embeddings)
    interval = _interval_of_pairs(spread, 1 - embeddings @ embeddings.mean(0))
    network, what = subject.encoder.split()[0], f"CLIP {subject.encoder}, {n} images"
    sentences = f"mean cosine to {len(texts)} sentences on the target"
    return [
        _mean("text_quality", quality.per_image, f"quality{n}_{network}: {what}, {sentences}"),
        (
            "clip_diversity", spread, n, interval,
            f"diversity{n}_{network}: {what}, mean of 1 - cosine over pairs",
        ),
    ]  # fmt: skip


# --- how sure ------------------------------------------------------------------------------------


def _mean(name: str, values: Tensor, protocol: str) -> Entry:
    interval = mean_bootstrap(values, _stream(name))
    return name, float(values.mean()), len(values), interval, protocol


def _interval_of_pairs(value: float, per_image: Tensor) -> Interval | None:
    """Of a mean over pairs of images, whose variance is 4 times that of a mean over images.

    per_image [N]: mean of an image over its partners (Hoeffding 1948). None for too few images.
    """
    if len(per_image) < FEWEST:
        return None
    half_width = 1.96 * 2 * float(per_image.double().std()) / len(per_image) ** 0.5
    return max(value - half_width, 0.0), value + half_width


def _by_halves(
    statistic: Callable[[Tensor, Tensor], Sequence[float]], x: Tensor, y: Tensor, name: str,
    least: float = 0.0, most: float | Sequence[float] = math.inf,
) -> list[tuple[float, Interval | None]]:  # fmt: skip
    """The values of `statistic`, and 95 % intervals from its spread over random halves of x and y.

    Intervals are cut at `least` and `most`, and None where there are too few images to halve, and
    where all halves give the same value, which says nothing about other images.
    """
    values = torch.tensor(statistic(x, y), dtype=torch.float64)
    if min(len(x), len(y)) < FEWEST:
        return [(value, None) for value in values.tolist()]
    stream, draws = _stream(name), []
    try:
        for _ in range(HALVES):
            draws.append(statistic(_half(x, stream), _half(y, stream)))
    except AirlibError:
        return [(value, None) for value in values.tolist()]
    half_width = 1.96 * torch.tensor(draws, dtype=torch.float64).std(0)
    low = (values - half_width).clamp(min=least)
    high = torch.minimum(values + half_width, torch.as_tensor(most, dtype=torch.float64))
    ends = zip(low.tolist(), torch.maximum(low, high).tolist(), half_width.tolist(), strict=True)
    intervals = [(first, last) if width > 0 else None for first, last, width in ends]
    return list(zip(values.tolist(), intervals, strict=True))


def _half(x: Tensor, stream: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=stream)[: (len(x) + 1) // 2]]


def _stream(name: str) -> torch.Generator:
    return rng(0, "evaluation bootstrap", name)
