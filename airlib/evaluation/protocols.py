"""Named protocols: what is measured of a set of images.

    scores = scores_of(batches, reference, "full", pair="human-baby", method="air", seed=0)
    scores.metrics        # list of Metric; each says how it was made, e.g. "fd300_judge: ..."
    scores.omitted        # {"overlap": "k = 3 neighbours need sets of ..."}

quick   What sweeps measure. Against the true target of the *same* latent, which only the tiny world
        can draw: paired feature distance (the headline), paired L1, and paired edge L1, in which
        colours that are right on average do not help. Against the whole target domain: Frechet
        distances in the features of two judges of different architecture, and CLIP distance. On
        the set alone: diversity, the mean perceptual distance between two of its images.
text    The same values and HyperDomainNet's Quality and Diversity in CLIP space.
shown   For methods that are shown a picture, and whose loss has the first judge in it: those of
        "text", and precision, recall, density and coverage by the last judge.
full    The same values, then the diversity terms of CLIP distance, kernel distance, precision,
        recall, density and coverage, intra-LPIPS, and HyperDomainNet's Quality and Diversity.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation import measures
from airlib.evaluation.features import KEPT, Reference, see
from airlib.results import Metric

Measure = Callable[[measures.Subject], list[measures.Entry]]

QUICK: dict[str, Measure] = {
    "Frechet distance": measures.frechet,
    "paired distances": measures.paired,
    "diversity": measures.diversity,
    "CLIP distance": measures.clip,
}
FULL: dict[str, Measure] = {
    **QUICK,
    "CLIP distance split": measures.clip_split,
    "kernel distance": measures.kernel,
    "overlap": measures.overlap,
    "intra-LPIPS": measures.intra_lpips_of_clusters,
    "text alignment": measures.text_alignment,
}
TEXT: dict[str, Measure] = {**QUICK, "text alignment": measures.text_alignment}
SHOWN: dict[str, Measure] = {**TEXT, "overlap": partial(measures.overlap, by=-1)}
SHOWN_OUTCOMES = ("frechet_vit", "paired_l1", "paired_edge", "clip_distance", "text_quality",
                  "clip_diversity", "precision", "recall")  # fmt: skip
"""What tables of "shown" tell: nothing by the first judge, which is part of the loss."""
PROTOCOLS: dict[str, dict[str, Measure]] = {
    "quick": QUICK,
    "text": TEXT,
    "shown": SHOWN,
    "full": FULL,
}
NEED_IMAGES = {"CLIP distance", "CLIP distance split", "kernel distance", "overlap"}  # references
WITHOUT_JUDGES = {"CLIP distance", "CLIP distance split", "text alignment"}


@dataclass(frozen=True)
class Scores:
    """What was measured of a set of images.

    metrics: the values. omitted: measure -> why it has no value.
    images: the first images [n, 3, H, W], as many as perceptual distances need.
    """

    metrics: list[Metric]
    omitted: dict[str, str]
    images: Tensor


def scores_of(
    batches: Iterable[Tensor], reference: Reference, protocol: str = "quick",
    cache: Path | None = None,
    pair: str | None = None, method: str | None = None, seed: int | None = None,
) -> Scores:  # fmt: skip
    """Measure a set of images, in batches [B, 3, H, W] in [-1, 1], by a named protocol.

    Where the reference knows true targets, the images must be those of the same latents in order.
    protocol: "quick", "text", "shown" or "full". cache: a folder for the features of this set under
    these networks; what is there is not computed again. pair, method, seed: what the metrics are
    labelled with. A measure that the reference has no networks, truth or sentences for is omitted,
    and so is one that fails, for example for want of images; but "quick" raises its AirlibError,
    since sweeps rely on the values. Raises AirlibError also for an unknown protocol, no images,
    other shapes, and NaN.
    """
    if protocol not in PROTOCOLS:
        raise AirlibError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    keep = KEPT if reference.judges else 0
    seen = see(batches, reference.judges, reference.encoder, keep, cache)
    subject = measures.Subject(seen, reference)
    metrics: list[Metric] = []
    omitted: dict[str, str] = {}
    for name, measure in PROTOCOLS[protocol].items():
        if reason := _not_applicable(name, reference):
            omitted[name] = reason
            continue
        try:
            metrics += [Metric(*entry, pair, method, seed) for entry in measure(subject)]
        except AirlibError as error:
            if protocol == "quick":
                raise
            omitted[name] = str(error)
    return Scores(metrics, omitted, seen.images)


def _not_applicable(name: str, reference: Reference) -> str | None:
    """Why the reference has nothing to measure this with."""
    if not reference.judges and name not in WITHOUT_JUDGES:
        return reference.without_judges
    if reference.gaussians and name in NEED_IMAGES:
        return "of the references only statistics are given, no images"
    if name == "paired distances" and reference.truth is None:
        return "the true targets of these images are not known"
    if name == "text alignment" and reference.texts is None:
        return "no pair was named, so there is no target text"
    return None
