"""What every method is scored with: same latents, same references, same networks.

    reference = Reference.of(judges, encoder, batches_of_true_images, truth)
    seen = see(world.batches(adapted, 300), judges, encoder)

`see` sends each image through the judges and CLIP once; `measures` holds functions of what it
returns. Images come in batches, so a set may be larger than the memory. With `cache`, a
folder, the features of a batch are in a file there as soon as they are known: what was killed and
is started again computes only what is missing, and ends with the same bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipEncoder
from airlib.errors import AirlibError
from airlib.evaluation.frechet import Gaussian
from airlib.evaluation.perceptual import PerceptualEmbedding, scaled_down
from airlib.files import load_tensors, save_tensors
from airlib.results import Metric

KEPT = 1000  # images of a set that stay at hand for perceptual distances, where there are judges
PAIRED = 200  # of them are compared with their true targets, and with each other for diversity

NO_JUDGES = "this profile has no judges"

LABELS = {  # metric -> column title, with the direction that is better
    "frechet": "Frechet distance (judge) ↓",
    "frechet_vit": "Frechet distance (second judge) ↓",
    "paired_feature": "paired feature distance ↓",
    "paired_l1": "paired L1 ↓",
    "paired_edge": "paired edge L1 ↓",
    "clip_distance": "CLIP distance ↓",
    "diversity": "diversity ↑",
    "kernel": "kernel distance (judge) ↓",
    "kernel_vit": "kernel distance (second judge) ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
    "intra_lpips": "intra-LPIPS ↑",
    "intra_lpips_medoid": "intra-LPIPS (to medoid) ↑",
    "text_quality": "Quality (CLIP) ↑",
    "clip_diversity": "Diversity (CLIP) ↑",
}


def labels_of(metrics: Iterable[Metric]) -> dict[str, str]:
    """Name -> column title of those metrics of `LABELS` that have a value in `metrics`."""
    names = {metric.name for metric in metrics}
    return {name: title for name, title in LABELS.items() if name in names}


class Judge(nn.Module, ABC):
    """A frozen network that measures distances of images, e.g. `tinyworld.judge.ConvJudge`.

    config: JSON values. "network" names what gives `features`, "maps" what gives `maps` if that is
        another network; "size" is the image size that the judge sees, if it sees one only.
    title: what gives `features`, in words; the protocols of recorded results contain it.
    layer_weights: a weight [C_l] per channel of `maps`, as `PerceptualEmbedding` takes them; None
        if all channels count the same.
    map_size: `maps` are those of images scaled down to this many pixels a side; None if they are
        those of the images themselves.
    """

    config: dict
    title: str
    layer_weights: Sequence[Tensor] | None = None
    map_size: int | None = None

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> features [B, F], for distances between sets."""

    @abstractmethod
    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1] -> maps [B, C_l, H_l, W_l], fine to coarse.

        Perceptual distances between two images are distances between their maps.
        """


@dataclass(frozen=True, eq=False)
class Reference:
    """A target domain as the metrics see it: M true target images, embedded once.

    judges: the networks that measure; the first also gives the perceptual distances.
    encoder: the CLIP that measures.
    features: features [M, F] of the true target images, one tensor per judge.
    clip: CLIP embeddings [M, D] of the true target images.
    truth: the true targets of the first P latents as images [P, 3, H, W]; None if unknown.
    texts: CLIP embeddings [T, D] of sentences that describe the target; None without sentences.
    without_judges: why `judges` is empty, for messages.
    gaussians: of references that are known by statistics alone, in the features of one judge: None
        for each other judge. Then `features` and `clip` are empty.
    """

    judges: tuple[Judge, ...]
    encoder: ClipEncoder
    features: tuple[Tensor, ...]
    clip: Tensor
    truth: Tensor | None
    texts: Tensor | None
    without_judges: str
    gaussians: tuple[Gaussian | None, ...] = ()

    @classmethod
    def of(
        cls, judges: Sequence[Judge], encoder: ClipEncoder, images: Iterable[Tensor],
        truth: Tensor | None = None, sentences: Sequence[str] = (), cache: Path | None = None,
        without_judges: str = NO_JUDGES,
    ) -> "Reference":  # fmt: skip
        """The reference for a target domain, from true target images in batches [B, 3, H, W].

        truth: the true targets of the first latents [P, 3, H, W], if known. sentences: what
        describes the target. cache: a folder for the features of this set under these networks;
        what is there is not computed again. without_judges: why `judges` is empty.
        Raises AirlibError for no images, bad pixels or shapes, and damaged files in the cache.
        """
        seen = see(images, judges, encoder, 0, cache)
        texts = encoder.embed_text(sentences).cpu() if sentences else None
        known = tuple(judges), encoder, seen.features, seen.clip, truth, texts
        return cls(*known, without_judges)

    @classmethod
    @torch.no_grad()
    def of_statistics(
        cls, judges: Sequence[Judge], encoder: ClipEncoder, statistics: Gaussian,
        truth: Tensor | None = None, sentences: Sequence[str] = (),
        without_judges: str = NO_JUDGES,
    ) -> "Reference":  # fmt: skip
        """The reference for a target domain of which mean and covariance of features are known.

        They belong to the first judge whose features have as many numbers. Other arguments: see
        `of`. Raises AirlibError if no judge fits.
        """
        sizes = [judge.config.get("size", 64) for judge in judges]
        blank = [torch.zeros(1, 3, size, size, device=encoder.device) for size in sizes]
        widths = [j.features(x).shape[1] for j, x in zip(judges, blank, strict=True)]
        width = len(statistics.mean)
        if width not in widths:
            seen = f"have {' and '.join(map(str, widths))}" if widths else f"({without_judges})"
            raise AirlibError(
                f"the statistics are of {width} features and those of this profile's judges "
                f"{seen}; give images of the target instead, or another profile"
            )
        fits = widths.index(width)
        gaussians = tuple(statistics if i == fits else None for i in range(len(widths)))
        texts = encoder.embed_text(sentences).cpu() if sentences else None
        known = tuple(judges), encoder, (), torch.empty(0, 0), truth, texts
        return cls(*known, without_judges, gaussians)

    @property
    def perceptual(self) -> PerceptualEmbedding:
        """The embedding whose squared distances are perceptual ones: the first judge's maps."""
        return PerceptualEmbedding(self.judges[0].maps, self.judges[0].layer_weights)

    @property
    def truth_embedding(self) -> Tensor:
        """Perceptual embeddings [P, D] of the true targets, which must be known."""
        return _truth_embedding(self)


@lru_cache(maxsize=1)  # 50 MB in tiny, and a sweep takes one pair after the other
def _truth_embedding(reference: Reference) -> Tensor:
    assert reference.truth is not None  # without it no measure compares with true targets
    return reference.perceptual(reference.truth)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the networks see in a set of N images.

    features: features [N, F], one tensor per judge.
    clip: CLIP embeddings [N, D].
    images: the first images [n, 3, H, W], as many as were to be kept; as drawn, or scaled down to
        the first judge's `map_size`.
    """

    features: tuple[Tensor, ...]
    clip: Tensor
    images: Tensor


@torch.no_grad()
def see(
    batches: Iterable[Tensor], judges: Sequence[Judge], encoder: ClipEncoder,
    keep: int = 0, cache: Path | None = None,
) -> Seen:  # fmt: skip
    """The features of all images of `batches`, [B, 3, H, W] each, and the first `keep` images.

    cache: a folder that belongs to this set and these networks. Of a sequence, batches that are
    known from there and hold none of the first `keep` images are not asked for.
    Raises AirlibError for NaN or infinite pixels, other shapes, and damaged files in the cache.
    """
    looks, images, count = [], [], 0
    size = judges[0].map_size if judges else None
    for number, make in enumerate(_makers(batches)):
        path = cache / f"{number:05}.safetensors" if cache else None
        known = path if path and path.exists() else None
        if not known or count < keep:
            batch = _checked(make(), count)
        if count < keep:
            images.append(scaled_down(batch[: keep - count], size).cpu())
        look = _load(known, len(judges)) if known else _look(batch, judges, encoder)
        if path and not known:
            save_tensors(path, look, {"images": len(batch)})
        looks.append(look)
        count += len(look["clip"])
    if not looks:
        raise AirlibError("there are no images to score")
    features = tuple(torch.cat([look[f"judge {i}"] for look in looks]) for i in range(len(judges)))
    clip = torch.cat([look["clip"] for look in looks])
    return Seen(features, clip, torch.cat(images) if images else torch.empty(0))


def _look(batch: Tensor, judges: Sequence[Judge], encoder: ClipEncoder) -> dict[str, Tensor]:
    images = batch.clamp(-1, 1).to(encoder.device)  # as in a saved picture
    look = {f"judge {i}": judge.features(images).cpu() for i, judge in enumerate(judges)}
    return {**look, "clip": encoder.embed_images(images).cpu()}


def _load(path: Path, judges: int) -> dict[str, Tensor]:
    try:
        look, _ = load_tensors(path)
        if look.keys() == {"clip", *(f"judge {i}" for i in range(judges))}:
            return look
    except AirlibError:
        pass
    raise AirlibError(f"the cached features {path} are damaged; delete the file")


def _makers(batches: Iterable[Tensor]) -> Iterator[Callable[[], Tensor]]:
    """A function per batch that returns it; a sequence is not asked for it before."""
    if isinstance(batches, Sequence):
        return (partial(batches.__getitem__, index) for index in range(len(batches)))
    return (partial(_given, batch) for batch in batches)


def _given(batch: Tensor) -> Tensor:
    return batch


def _checked(batch: Tensor, before: int) -> Tensor:
    if batch.ndim != 4 or batch.shape[1] != 3 or not len(batch):
        raise AirlibError(f"expected images [B, 3, H, W], got {list(batch.shape)}")
    bad = (~batch.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise AirlibError(
            f"image {before + bad[0]} holds NaN or infinite pixels; "
            "mend what drew it before scoring it"
        )
    return batch
