"""Study 1: do image offsets and text offsets in CLIP space agree, and for which concepts?

StyleGAN-NADA assumes that the step from concept a to concept b has the same direction for images as
for texts. AIR (section 3.1) measures how wrong that is. With the mean image embedding I_a and the
text embedding T_a of each concept,

    M(a, b) = 1 - cos(I_b - I_a, T_b - T_a)          offset misalignment
    D(a, b) = 1 - cos(I_a, I_b)                      concept distance

and asks for the rank correlation rho of M with D over pairs of concepts. The paper finds rho > 0 on
real data and concludes that the direction should be corrected as the generator travels: AIR. The
sign is a property of the encoder and the data, not of the formulas, so it is computed here and
explained (`StudyResult.explain`), never assumed.

Pairs share concepts, so they are not independent: the interval resamples whole concepts, and the
null hypothesis shuffles the texts among the concepts (a Mantel test). Where M comes from can be
looked up pair by pair: `split_offsets` divides each image offset into the part along its text
offset and the part across it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.intervals import FEWEST
from airlib.studies.misalignment.concepts import ConceptEmbeddings


@dataclass(frozen=True)
class Misalignment:
    """Offset misalignment `M` (0 to 2) and concept distance `D` of all pairs of C concepts.

    Both are symmetric [C, C] in float64; their diagonals mean nothing.
    """

    M: Tensor
    D: Tensor

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """M and D of the C (C - 1) / 2 distinct pairs, each [P]."""
        first, second = _distinct_pairs(len(self.M))
        return self.M[first, second], self.D[first, second]

    def sample_pairs(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """M and D of n random pairs of different concepts, each [n]; the paper draws n = 5000.

        Drawn with replacement: with 100 concepts, 5000 pairs repeat most of the 4950 there are.
        """
        concepts = len(self.M)
        first = torch.randint(concepts, (n,), generator=rng)
        second = (first + torch.randint(1, concepts, (n,), generator=rng)) % concepts
        return self.M[first, second], self.D[first, second]


def misalignment(
    image_means: Tensor, texts: Tensor, labels: Sequence[str] | None = None
) -> Misalignment:
    """M and D of all pairs of concepts, from image_means [C, D] and texts [C, D] (AIR section 3.1).

    M(a, b) = 1 - cos(I_b - I_a, T_b - T_a), D(a, b) = 1 - cos(I_a, I_b) for rows a and b.
    One matrix product per Gram matrix instead of a loop over pairs: with S = I T^T, G = I I^T and
    H = T T^T, the product of the offsets is S_aa + S_bb - S_ab - S_ba and their squared lengths are
    G_aa + G_bb - 2 G_ab and H_aa + H_bb - 2 H_ab.
    labels: of the rows, for errors. Raises AirlibError if shapes differ, fewer than 3 rows, or two
    rows coincide (no direction).
    """
    agreement, image_squares, text_squares = _offset_products(image_means, texts, labels)
    images = image_means.detach().double()
    similarity = images @ images.T
    sizes = similarity.diagonal().sqrt()
    return Misalignment(
        M=1 - agreement / (image_squares * text_squares).sqrt(),
        D=1 - similarity / (sizes[:, None] * sizes),
    )


@dataclass(frozen=True)
class OffsetSplit:
    """Image offsets seen from their text offsets, for all distinct pairs, each [P].

    `text_length` is |T_b - T_a|. The image offset has length `along` in the direction of the text
    offset (negative: against it) and `across` at right angles to it, so that M follows from the
    two: 1 - M = along / sqrt(along^2 + across^2).
    """

    text_length: Tensor
    along: Tensor
    across: Tensor

    def explain(self, groups: int = 5) -> str:
        """A sentence with numbers: how the parts along and across the text grow from the shortest
        to the longest of `groups` groups of text offsets, and what that does to the misalignment.
        """
        _, along = binned_means(self.text_length, self.along, groups)
        _, across = binned_means(self.text_length, self.across, groups)
        if min(along[0], across[0]) <= 0:
            return "The shortest text offsets say nothing about the image offsets."
        growth, residual = float(along[-1] / along[0]), float(across[-1] / across[0])
        verdict = "falls" if growth > residual else "rises"
        return (
            f"From the shortest to the longest {1 / groups:.0%} of the text offsets, the part of "
            f"the image offset along the text grows {growth:.1f}-fold and the part across it "
            f"{residual:.1f}-fold, so misalignment {verdict} with the length of the offset."
        )


def split_offsets(
    image_means: Tensor, texts: Tensor, labels: Sequence[str] | None = None
) -> OffsetSplit:
    """Split the image offset of every pair of concepts into the parts along and across its text
    offset, from image_means [C, D] and texts [C, D].

    labels: of the rows, for errors. Raises AirlibError if shapes differ, fewer than 3 rows, or two
    rows coincide.
    """
    agreement, image_squares, text_squares = _offset_products(image_means, texts, labels)
    first, second = _distinct_pairs(len(agreement))
    text_length = text_squares[first, second].sqrt()
    along = agreement[first, second] / text_length
    across = (image_squares[first, second] - along.square()).clamp(min=0).sqrt()
    return OffsetSplit(text_length, along, across)


def binned_means(x: Tensor, y: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Means of x and y [P] in `bins` groups of equal size, by rising x: each [bins]."""
    order = x.argsort(stable=True)
    groups = order.tensor_split(bins)
    return torch.stack([x[g].mean() for g in groups]), torch.stack([y[g].mean() for g in groups])


def subset(embeddings: ConceptEmbeddings, keep: Callable[[str], bool]) -> ConceptEmbeddings:
    """The part of `embeddings` whose labels `keep` accepts."""
    rows = [row for row, label in enumerate(embeddings.labels) if keep(label)]
    labels = tuple(embeddings.labels[row] for row in rows)
    return ConceptEmbeddings(labels, embeddings.image_means[rows], embeddings.texts[rows])


def _distinct_pairs(concepts: int) -> Tensor:
    """Row and column of each of the P pairs of different concepts, [2, P]."""
    return torch.triu_indices(concepts, concepts, offset=1)


def _offset_products(
    image_means: Tensor, texts: Tensor, labels: Sequence[str] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of all offsets, [C, C] each: their products, squared image and squared text lengths."""
    images, texts = image_means.detach().double(), texts.detach().double()
    if images.ndim != 2 or images.shape != texts.shape or len(images) < 3:
        raise AirlibError(
            "expected one image mean and one text for each of at least 3 concepts, got "
            f"{list(images.shape)} and {list(texts.shape)}"
        )
    mixed = images @ texts.T
    agreement = mixed.diagonal()[:, None] + mixed.diagonal() - mixed - mixed.T
    image_squares = _squared_distances(images, "images", labels)
    return agreement, image_squares, _squared_distances(texts, "texts", labels)


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation of two vectors [P]; ties get their average rank."""
    return _correlation(_ranks(x), _ranks(y))


@dataclass(frozen=True)
class StudyResult:
    """Rank correlation `rho` of misalignment M and distance D over all pairs of concepts.

    interval: 95 % of rho, over concepts. null: [R], rho with shuffled texts. M, D: [C, C]. labels:
    names of their rows.
    """

    rho: float
    interval: tuple[float, float]
    null: Tensor
    M: Tensor
    D: Tensor
    labels: tuple[str, ...]

    @property
    def p_value(self) -> float:
        """Two-sided p-value of rho: how often shuffled texts give a |rho| at least as large."""
        as_large = int((self.null.abs() >= abs(self.rho)).sum())
        return (as_large + 1) / (len(self.null) + 1)

    def explain(self) -> str:
        """The finding in words, with rho, its interval and its p-value, whatever the sign."""
        low, high = self.interval
        numbers = f"rho = {self.rho:+.2f} [{low:+.2f}, {high:+.2f}], p = {self.p_value:.3f}"
        if low <= 0 <= high or self.p_value > 0.05:
            return f"{numbers}: here misalignment does not depend on concept distance."
        if self.rho > 0:
            return (
                f"{numbers}: the farther apart two concepts are, the worse text and image offsets "
                "agree, as AIR reports for CLIP on real images."
            )
        return (
            f"{numbers}: the farther apart two concepts are, the better text and image offsets "
            "agree. This is the opposite of what AIR reports for CLIP on real images. It is to be "
            "expected where images and texts share the factors that tell concepts apart: distant "
            "pairs differ in more of them, and the same noise turns a longer offset less."
        )


def study(embeddings: ConceptEmbeddings, rng: torch.Generator, resamples: int = 500) -> StudyResult:
    """Correlate misalignment M with distance D over all pairs of concepts (AIR section 3.1).

    resamples: of the concepts, for the interval, and of the texts' order, for the null hypothesis.
    Raises AirlibError for fewer than 3 concepts, and for two with the same images or text.
    """
    images, texts = embeddings.image_means, embeddings.texts
    result = misalignment(images, texts, embeddings.labels)
    first, second = _distinct_pairs(len(result.M))
    rank_d = _ranks(result.D[first, second])
    null = []
    for _ in range(resamples):
        shuffled = texts[torch.randperm(len(texts), generator=rng)]
        null.append(_correlation(_ranks(misalignment(images, shuffled).M[first, second]), rank_d))
    return StudyResult(
        rho=spearman(*result.all_pairs()),
        interval=_concept_bootstrap(result, rng, resamples),
        null=torch.tensor(null, dtype=torch.float64),
        M=result.M,
        D=result.D,
        labels=embeddings.labels,
    )


def _concept_bootstrap(
    result: Misalignment, rng: torch.Generator, resamples: int
) -> tuple[float, float]:
    """Percentile interval of rho over concepts drawn with replacement, without pairs of equals.

    Of fewer than `FEWEST` concepts it is all there is, -1 to 1: their draws repeat themselves.
    """
    concepts = len(result.M)
    if concepts < FEWEST:
        return -1.0, 1.0
    first, second = _distinct_pairs(concepts)
    draws = []
    for _ in range(resamples):
        chosen = torch.randint(concepts, (concepts,), generator=rng)
        a, b = chosen[first], chosen[second]
        a, b = a[a != b], b[a != b]
        if len(a) > 1:
            draws.append(spearman(result.M[a, b], result.D[a, b]))
    drawn = torch.tensor(draws, dtype=torch.float64)
    low, high = drawn[drawn.isfinite()].quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def _squared_distances(rows: Tensor, what: str, labels: Sequence[str] | None) -> Tensor:
    """|row_a - row_b|^2 as [C, C], with ones on the diagonal; refuses coinciding rows."""
    gram = rows @ rows.T
    squared = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    squared.fill_diagonal_(1.0)
    if squared.min() < 1e-12:
        a, b = divmod(int(squared.argmin()), len(rows))
        first, second = (repr(labels[row]) if labels else row for row in (a, b))
        raise AirlibError(
            f"concepts {first} and {second} have the same {what}, so no direction leads from one "
            "to the other; merge them or give them different texts"
        )
    return squared


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 in float64; equal values share the mean of their ranks."""
    _, group, sizes = values.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    return (last - (sizes.double() - 1) / 2)[group]


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x.norm() * y.norm()))
