"""What every method is scored with: same latents, same references, same networks.

    reference = Reference.of(judges, encoder, batches_of_true_images, truth)
    seen = see(world.batches(adapted, 300), judges, encoder)

`see` sends each image through the judges and CLIP once; the measures of scoring.py are functions of
what it returns. Images come in batches, so a set may be larger than the memory. With `cache`, a
folder, the features of a batch are in a file there as soon as they are known: what was killed and
is started again computes only what is missing, and ends with the same bits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder
from airlib.errors import AirlibError
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
    """The part of `LABELS` that these metrics have values of."""
    names = {metric.name for metric in metrics}
    return {name: title for name, title in LABELS.items() if name in names}


class Judge(Protocol):
    """A frozen network that measures distances of images, e.g. `tinyworld.judge.ConvJudge`.

    config: JSON values; "network" is the name of what gives `features`, "maps" of what gives
    `maps` if that is another, "size" the only image size that it sees if there is one.
    title: what gives `features`, in words. layer_weights: of the channels of `maps`, see
    `PerceptualEmbedding`. map_size: `maps` are those of images scaled down to this size, if any.
    """

    config: dict
    title: Any
    layer_weights: Any
    map_size: Any

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, F], for distances of sets."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [-1, 1] -> maps [B, C_l, H_l, W_l], for distances of two images."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A target domain as the metrics see it."""

    judges: tuple[Judge, ...]  # the first also gives the perceptual distances
    encoder: ClipEncoder
    features: tuple[Tensor, ...]  # per judge, features [M, F] of true target images
    clip: Tensor  # CLIP embeddings [M, D] of the same
    truth: Tensor | None  # images [P, 3, H, W]: the true targets of the first P latents
    texts: Tensor | None  # CLIP embeddings [T, D] of sentences that describe the target
    without_judges: str  # why there are none

    @classmethod
    def of(
        cls, judges: Sequence[Judge], encoder: ClipEncoder, images: Iterable[Tensor],
        truth: Tensor | None = None, sentences: Sequence[str] = (), cache: Path | None = None,
        without_judges: str = NO_JUDGES,
    ) -> "Reference":  # fmt: skip
        """Embed true target images once; they come in batches [B, 3, H, W]. cache: see `see`."""
        seen = see(images, judges, encoder, 0, cache)
        texts = encoder.embed_text(sentences).cpu() if sentences else None
        known = tuple(judges), encoder, seen.features, seen.clip, truth, texts
        return cls(*known, without_judges)

    @property
    def perceptual(self) -> PerceptualEmbedding:
        """Distances by the maps of the first judge."""
        return PerceptualEmbedding(self.judges[0].maps, self.judges[0].layer_weights)

    @property
    def truth_embedding(self) -> Tensor:
        """`perceptual` of the true targets, [P, D]."""
        return _truth_embedding(self)


@lru_cache(maxsize=1)  # 50 MB in tiny, and a sweep takes one pair after the other
def _truth_embedding(reference: Reference) -> Tensor:
    assert reference.truth is not None  # what compares with it was left out otherwise
    return reference.perceptual(reference.truth)


@dataclass(frozen=True, eq=False)
class Seen:
    """A set of N images: features [N, F] per judge, CLIP embeddings [N, D], the first images."""

    features: tuple[Tensor, ...]
    clip: Tensor
    images: Tensor  # [at most `keep`, 3, H, W] as drawn, or scaled down to the judge's `map_size`


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
        known = path is not None and path.exists()
        if not known or count < keep:
            batch = _checked(make(), count)
        if count < keep:
            images.append(scaled_down(batch[: keep - count], size).cpu())
        look = _load(path, len(judges)) if path and known else _look(batch, judges, encoder)
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
    return (partial(_itself, batch) for batch in batches)


def _itself(batch: Tensor) -> Tensor:
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
