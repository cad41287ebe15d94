"""Study 2: does the wording around the class name decide how well an adaptation goes?

NADA follows the direction from one text to another, and any sentence can carry the two class names.
AIR (section 3.2) adapts with one template at a time and compares, over templates, how well the
adaptation went with the offset misalignment of the prompt

    M(S, T; template) = 1 - cos(I_T - I_S, E_T(template(T)) - E_T(template(S)))

where I_S and I_T are the mean image embeddings of the source and of the target domain. If NADA's
premise matters, templates with a small M adapt well: the association of M with the Frechet distance
is positive. Whether it is, `associate` measures:

    found = associate(M, frechet, spearman, rng(0))        # M and frechet [pairs, templates]
    print(found, found.verdict)

The runs that it needs are made by `airlib sweep templates`; see `airlib.studies.template_runs`.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.clip_space.offsets import SMALLEST_OFFSET
from airlib.errors import AirlibError
from airlib.evaluation.intervals import Interval, percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DATA = tomllib.loads(
    resources.files(__package__).joinpath("prompt_templates.toml").read_text(encoding="utf-8")
)
TEMPLATES: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in _DATA["templates"].items()}
"""Kind -> templates. Ours: the texts of the paper's Table 5 are not among our sources."""

PAPER: dict = _DATA["paper"]
"""What the paper reports and is known to us, with its place; see the comments of the file."""

ENSEMBLE = "nada79"
"""NADA's own mean over 79 templates, for comparison."""

KINDS: dict[str, str] = {template: kind for kind, found in TEMPLATES.items() for template in found}
"""Template -> its kind, in order."""

KIND_STYLES = {  # as in showing.figures: told apart with any colour vision, and by the marker
    "plain": ("#000000", "o"),
    "camera": ("#0072B2", "s"),
    "style": ("#E69F00", "^"),
    "odd": ("#009E73", "D"),
    "misleading": ("#D55E00", "X"),
}

FEWEST_TEMPLATES = 3

Correlation = Callable[[Tensor, Tensor], float]


def offset_misalignment(image_offset: Tensor, text_offsets: Tensor) -> Tensor:
    """1 - cos between an image offset [D] and each of K text offsets [K, D]: [K] in float64, from 0
    (same direction) to 2 (opposite). AIR section 3.2.

    Raises AirlibError if an offset is zero and has no direction.
    """
    image, texts = image_offset.detach().double(), text_offsets.detach().double()
    for name, offsets in (("image", image[None]), ("text", texts)):
        if not (offsets.norm(dim=1) > SMALLEST_OFFSET).all():
            raise AirlibError(
                f"an {name} offset is zero or not a number: source and target have the same "
                "embedding, and no direction leads from one to the other"
            )
    return 1 - F.cosine_similarity(texts, image[None])


@dataclass(frozen=True)
class Association:
    """A correlation over `templates` templates, with its 95 % interval and two-sided p-value.

    As text: "+0.53 [+0.20, +0.74], p = 0.004".
    """

    value: float
    interval: Interval
    p_value: float
    templates: int

    @property
    def is_positive(self) -> bool:
        """Whether AIR's finding holds: value and interval above 0, and p <= 0.05."""
        return self.value > 0 and self._is_sure

    @property
    def _is_sure(self) -> bool:
        low, high = self.interval
        return not low <= 0 <= high and self.p_value <= 0.05

    @property
    def verdict(self) -> str:
        """Whether AIR's finding held, for a table: "held", "not held: the opposite", or "not held:
        no sure association".
        """
        if self.is_positive:
            return "held"
        return "not held: the opposite" if self._is_sure else "not held: no sure association"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:+.2f} [{low:+.2f}, {high:+.2f}], p = {self.p_value:.3f}"


def associate(
    x: Tensor, y: Tensor, correlation: Correlation, rng: torch.Generator, resamples: int = 1000
) -> Association:
    """Correlate x with y, both [P, K]: P pairs, K templates; the mean over pairs is taken.

    Pairs differ in scale, so a correlation is taken within each. Templates are what was sampled:
    the bootstrap draws templates, the same ones for all pairs, and the null hypothesis exchanges
    the outcomes of the templates, in the same way for all pairs.
    Raises AirlibError for unequal shapes, fewer than 3 templates, and values that do not vary.
    """
    x, y = x.detach().double(), y.detach().double()
    if x.ndim != 2 or x.shape != y.shape or x.shape[1] < FEWEST_TEMPLATES:
        raise AirlibError(
            f"expected two values for each pair and each of at least {FEWEST_TEMPLATES} templates, "
            f"got {list(x.shape)} and {list(y.shape)}"
        )
    if (x == x[:, :1]).all(1).any() or (y == y[:, :1]).all(1).any():
        raise AirlibError("a value is the same for all templates, so nothing can go with it")

    def over_pairs(a: Tensor, b: Tensor) -> float:
        return sum(correlation(*rows) for rows in zip(a, b, strict=True)) / len(a)

    value, templates = over_pairs(x, y), x.shape[1]
    draws, null = [], []
    for _ in range(resamples):
        chosen = torch.randint(templates, (templates,), generator=rng)
        draws.append(over_pairs(x[:, chosen], y[:, chosen]))
        null.append(over_pairs(x, y[:, torch.randperm(templates, generator=rng)]))
    drawn = torch.tensor(draws, dtype=torch.float64)  # NaN where one template was drawn only
    as_large = sum(abs(other) >= abs(value) - 1e-12 for other in null)
    return Association(
        value, percentiles(drawn[drawn.isfinite()]), (as_large + 1) / (resamples + 1), templates
    )


def pearson(x: Tensor, y: Tensor) -> float:
    """Linear correlation of two vectors [K]; NaN if one of them does not vary."""
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def spread(values: Tensor, count: int) -> list[int]:
    """Indices of `count` of the values [K], evenly spread over their order from the smallest to the
    largest; all K if there are fewer.
    """
    order = values.argsort(stable=True)
    places = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return order[places].tolist()


def draw_by_kind(
    axes: "Axes", templates: Sequence[str], x: Tensor, y: Sequence[Sequence[float]]
) -> None:
    """Draw a point per template at (x, mean of its y) and a line through its y, one per seed.

    templates: K texts of `KINDS`; their kind decides colour and marker. x: [K], the misalignments.
    y: K lists of values.
    """
    for template, place, values in zip(templates, x.tolist(), y, strict=True):
        color, marker = KIND_STYLES[KINDS[template]]
        axes.plot([place] * len(values), values, "-", color=color, linewidth=1)
        axes.plot(place, sum(values) / len(values), marker, color=color)
    for kind, (color, marker) in KIND_STYLES.items():
        axes.plot([], [], marker, color=color, label=kind)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    label_misalignment(axes)


def label_misalignment(axes: "Axes") -> None:
    """Label the x-axis "offset misalignment M", logarithmic, its ticks being plain numbers."""
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", xlabel="offset misalignment M")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
