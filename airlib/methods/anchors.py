"""When AIR takes its anchors (Algorithm 1), and how a run keeps the last one."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from airlib.errors import AirlibError
from airlib.generators.base import Generator

PREFIX = "anchor."


@dataclass(frozen=True)
class AnchorSchedule:
    """Shares of t_adapt, the number of steps; defaults of the paper (section 4).

    t_thresh: from here on L_adaptive is part of the loss. t_int: between two anchors. chain_start:
    where the first anchor is taken, at "t_int" as in the paper or at "t_thresh" as in the code.
    """

    t_thresh: float = 0.6
    t_int: float = 0.1
    chain_start: Literal["t_int", "t_thresh"] = "t_int"

    def __post_init__(self) -> None:
        if not (0 < self.t_int <= 1 and 0 <= self.t_thresh <= 1):
            raise AirlibError(
                f"t_int {self.t_int} must lie in (0, 1], t_thresh {self.t_thresh} in [0, 1]"
            )
        if self.chain_start not in ("t_int", "t_thresh"):
            raise AirlibError(
                f"chain_start {self.chain_start!r} is unknown; choose t_int or t_thresh"
            )

    def anchor_steps(self, total: int) -> list[int]:
        """The steps before which an anchor is taken; only anchors that a later step uses."""
        first = self.t_int if self.chain_start == "t_int" else self.t_thresh
        count = 1 + int((1 - first) / self.t_int + 1e-9)
        steps = [round((first + i * self.t_int) * total) for i in range(count)]
        return sorted({step for step in steps if 0 < step < total})

    def used_anchor_steps(self, total: int) -> list[int]:
        """The steps of `anchor_steps` whose anchor L_adaptive uses: the last one up to t_thresh,
        and all later ones.
        """
        steps = self.anchor_steps(total)
        spans = pairwise([*steps, total])
        return [step for step, end in spans if self.is_past_threshold(end - 1, total)]

    def is_past_threshold(self, index: int, total: int) -> bool:
        """Whether L_adaptive is part of step `index` of 0 .. total - 1."""
        return index >= round(self.t_thresh * total)


def anchor_state(anchor: Generator) -> dict[str, Tensor]:
    """All tensors of an anchor, for a checkpoint."""
    return {f"{PREFIX}{key}": value for key, value in anchor.state_dict().items()}


def anchor_of(state: dict[str, Tensor], adapted: Generator) -> Generator:
    """The anchor in a checkpoint's tensors; `adapted` supplies the architecture."""
    anchor = adapted.copy_frozen()
    own = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    anchor.load_state_dict(own)
    return anchor
