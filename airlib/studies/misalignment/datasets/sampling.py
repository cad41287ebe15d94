"""A data set is a stream of (label, item); its classes are a sample of that stream.

The stream may be far larger than memory (Open Images has 14.6 million boxes). Per class, the sample
keeps the items whose hash with the seed is smallest: a uniform draw without replacement that needs
one pass, remembers no more than it returns, does not depend on the order of the stream, and changes
by one image where one image is added.
"""

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from airlib.errors import AirlibError
from airlib.images.items import Item
from airlib.progress import track

FEWEST_CLASSES = 3  # offsets between two concepts alone have no ranks to correlate


Stream = Iterator[tuple[str, Item]]


@dataclass(frozen=True)
class ConceptDataset:
    """A data set of labelled images, read as a stream.

    name: for messages and caches. stream: starts a new pass over all (label, item).
    """

    name: str
    stream: Callable[[], Stream]

    def only(self, keep: Callable[[str], bool]) -> "ConceptDataset":
        """The part of the data set whose labels `keep` accepts."""
        return replace(self, stream=lambda: (pair for pair in self.stream() if keep(pair[0])))

    def sample(
        self, images_per_class: int, seed: int = 0, fewest_images: int = 1
    ) -> dict[str, list[Item]]:
        """A random sample of each class: {label: at most `images_per_class` items}, labels and
        items in alphabetical order. The same `seed` draws the same items.

        Classes with fewer than `fewest_images` are left out, which Visual Genome needs: most of its
        labels were written once. Raises AirlibError for a class
        without a name, and if fewer than 3 classes remain.
        """
        if min(images_per_class, fewest_images) < 1:
            raise AirlibError("images_per_class and fewest_images must be at least 1")
        kept: dict[str, list[tuple[int, int, Item]]] = {}
        seen: Counter[str] = Counter()
        numbers = count()
        for label, item in track(self.stream(), f"listing {self.name}"):
            if not isinstance(label, str) or not label.strip():
                raise AirlibError(f"{self.name} has a class called {label!r}; give it a name")
            seen[label] += 1
            entry = (-_rank(seed, item.key), next(numbers), item)
            heap = kept.setdefault(label, [])
            if len(heap) < images_per_class:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
        labels = sorted(label for label in kept if seen[label] >= fewest_images)
        self._check(labels, fewest_images)
        return {label: _in_order(kept[label]) for label in labels}

    def _check(self, labels: list[str], fewest_images: int) -> None:
        if len(labels) < FEWEST_CLASSES:
            raise AirlibError(
                f"{self.name} has {len(labels)} classes with {fewest_images} or more usable "
                f"images; offsets between classes need at least {FEWEST_CLASSES}"
            )


def _rank(seed: int, key: str) -> int:
    digest = hashlib.blake2b(os.fsencode(f"{seed}/{key}"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _in_order(heap: list[tuple[int, int, Item]]) -> list[Item]:
    return sorted((item for _, _, item in heap), key=lambda item: item.key)
