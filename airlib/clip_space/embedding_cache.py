"""Image embeddings of whole data sets, computed once and kept on disk.

    for label, rows in embed_classes(encoder, name, classes, cache): ...    # rows [n, D]

One file per class holds the embeddings of its images:

    CACHE/NAME/ENCODER/LIST.npy     float32 [n, D], memory-mapped, a unit row per item

ENCODER is a hash of the network, its weights and its preprocessing; LIST one of the items' keys and
of the sizes and times of their files. Whatever changes an embedding changes the name, so nothing is
ever stale. A file appears whole or not at all, and no batch holds images of two classes: a run that
was killed and started again repeats one class at most, and leaves the same bytes as one that was
not.

Images are decoded and preprocessed in worker processes; one that cannot be read is a row of NaN.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from airlib.clip_space.encoder import ClipEncoder
from airlib.errors import AirlibError
from airlib.files import write_atomically
from airlib.images.items import Item
from airlib.progress import track

FORMAT = 2  # raise it when reading or embedding an image gives other numbers
BATCH = 32  # images; part of the format, since it decides how sums are rounded
Batch = tuple[Tensor, Tensor]  # which images were readable, bool [B]; their pixels [b, 3, R, R]


def cache_directory() -> Path:
    """The folder of cached embeddings, `$AIRLIB_CACHE/embeddings`.

    Without that variable it is `~/.cache/airlib/embeddings`.
    """
    cache = Path(os.environ.get("AIRLIB_CACHE") or Path.home() / ".cache" / "airlib")
    return cache / "embeddings"


def embed_classes(
    encoder: ClipEncoder,
    name: str,
    classes: Mapping[str, Sequence[Item]],
    cache: Path | None = None,
    workers: int = 2,
) -> Iterator[tuple[str, np.ndarray]]:
    """Image embeddings of a data set, class by class: yields (label, float32 [n, D]).

    Classes come from the cache where it holds them. name: the name of the data set, a folder of the
    cache. classes: label -> images. cache: a folder such as `cache_directory()`; None keeps
    nothing. workers: processes that read images. Rows are unit vectors; those of unreadable images
    are NaN. Raises AirlibError for a class without a single readable image, and for a damaged cache
    file.
    """
    paths: dict[str, Path] = {}
    if cache is not None:
        folder = cache / name / encoder_hash(encoder)
        paths = {label: folder / f"{list_hash(items)}.npy" for label, items in classes.items()}
    kept = {label for label, path in paths.items() if path.exists()}
    missing = [items for label, items in classes.items() if label not in kept]
    computed = _compute(encoder, name, missing, workers)
    for label, items in classes.items():
        if label not in kept:
            rows = next(computed)
            if label in paths:
                write_atomically(paths[label], partial(np.save, arr=rows))
        yield label, _load(paths[label], len(items)) if label in paths else rows


def encoder_hash(encoder: ClipEncoder) -> str:
    """A hash that changes with CLIP's network, any of its weights, and its preprocessing."""
    digest = hashlib.sha256(repr((FORMAT, BATCH, encoder.preprocess, encoder.model)).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy())
    return digest.hexdigest()[:16]


def list_hash(items: Sequence[Item]) -> str:
    """A hash that changes with the items, their order, and the size or time of a file."""
    digest = hashlib.sha256()
    for item in items:
        try:
            state = os.stat(item.path)
            stamp = (state.st_size, state.st_mtime_ns)
        except OSError:
            stamp = None  # the file is gone: it will be an unreadable image
        digest.update(os.fsencode(f"{item.key}\0{stamp}\n"))
    return digest.hexdigest()[:32]


class _Images(Dataset):
    """Items as CLIP's image tower takes them, [3, R, R], or None where unreadable."""

    def __init__(self, items: list[Item], preprocess: Callable[[Tensor], Tensor]):
        self.items = items
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor | None:
        try:
            pixels = np.array(self.items[index].read())
        except AirlibError:
            return None
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
        return self.preprocess(image[None])[0]


def _collate(images: list[Tensor | None]) -> Batch:
    readable = [image for image in images if image is not None]
    pixels = torch.stack(readable) if readable else torch.empty(0)
    return torch.tensor([image is not None for image in images]), pixels


def _compute(
    encoder: ClipEncoder, name: str, classes: Sequence[Sequence[Item]], workers: int
) -> Iterator[np.ndarray]:
    """The rows of each class in turn. Workers start when the first is asked for."""
    items = [item for members in classes for item in members]
    batches: list[list[int]] = []
    start = 0
    for members in classes:
        end = start + len(members)
        batches += [list(range(i, min(i + BATCH, end))) for i in range(start, end, BATCH)]
        start = end
    loader = DataLoader(
        _Images(items, encoder.preprocess),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers if len(batches) > 1 else 0,
    )
    results = iter(track(loader, f"embedding {name}"))
    for members in classes:
        rows = _embed(encoder, [next(results) for _ in range(0, len(members), BATCH)])
        if rows is None:
            raise AirlibError(
                f"{name}: no image can be read of the class of {members[0].key}; "
                "replace its images or remove the class"
            )
        yield rows


@torch.no_grad()
def _embed(encoder: ClipEncoder, batches: list[Batch]) -> np.ndarray | None:
    """Rows of one class, NaN where unreadable; None if all are."""
    readable = torch.cat([mask for mask, _ in batches]).numpy()
    if not readable.any():
        return None
    embedded = [
        encoder.embed_pixels(pixels.to(encoder.device)).cpu()
        for _, pixels in batches
        if len(pixels)
    ]
    found = torch.cat(embedded).float().numpy()
    rows = np.full((len(readable), found.shape[1]), np.nan, np.float32)
    rows[readable] = found
    return rows


def _load(path: Path, count: int) -> np.ndarray:
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise AirlibError(f"the cached embeddings {path} are damaged; delete the file") from error
    if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != count:
        raise AirlibError(f"the cached embeddings {path} are of another kind; delete the file")
    return rows
