r"""AIR for one picture: MindTheGap's losses, and from t_thresh on the same pull from an anchor.

Ours; nobody published it. MindTheGap moves all images as I_A*, the source's counterpart of the
reference I_B, has to move. AIR says that such a direction fits better from a nearer starting point:
an anchor, the generator as it was a moment ago. A text needs a prompt for the anchor, a picture
does not: the anchor draws its own counterpart of the reference, G_A(w_B).

The steps t = 0 ... t_adapt - 1 (E: CLIP's unit embedding; w_B: the inverted reference):

    1   if t is a multiple of t_int whose anchor line 6 will use:
    2       G_A <- copy of G_t                                      the anchor
    3       dI_ref <- E(I_B) - E(G_A(w_B))
    4   L <- clip_across + clip_within + ref_clip + ref_rec         `mind_the_gap`
    5   if t >= t_thresh:
    6       dI_A <- E(G_t(w)) - E(G_A(w))
    7       L <- L + clip_adaptive * (1 - cos(dI_A, dI_ref))

Other than in AIR an anchor does not depend on the one before it, so none is taken that no later
step uses (`AnchorSchedule.used_anchor_steps`), and `chain_start` makes no difference where t_thresh
is a multiple of t_int.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.methods.anchors import AnchorSchedule, anchor_of, anchor_state
from airlib.methods.mind_the_gap import MindTheGap, MindTheGapConfig
from airlib.methods.step import Step
from airlib.methods.task import Embedding, Task


@dataclass(frozen=True)
class AirMindTheGapConfig(AnchorSchedule, MindTheGapConfig):
    """Numbers of AIR for one picture: those of `MindTheGapConfig` and of `AnchorSchedule`.

    clip_adaptive: weight of the loss from the anchor; 0 leaves MindTheGap alone. Raises AirlibError
    for a weight below 0 and for what the two others refuse.
    """

    clip_adaptive: float = 1.0

    def __post_init__(self) -> None:
        AnchorSchedule.__post_init__(self)
        MindTheGapConfig.__post_init__(self)
        if not 0 <= self.clip_adaptive < math.inf:
            raise AirlibError(f"clip_adaptive must be a weight from 0 up, not {self.clip_adaptive}")


class AirMindTheGap:
    """MindTheGap with AIR's anchors: the algorithm at the head of this module.

        world.adapt("air_mind_the_gap", "photo-sketch", t_int=0.2)

    reference: I_B [1, 3, H, H] in [-1, 1], as large as the source draws. latent: w_B
    [1, num_ws, w_dim]. perceptual: what compares pictures, LPIPS in the paper.
    Raises AirlibError for other shapes and ranges.
    """

    Config = AirMindTheGapConfig
    by_picture = True
    mixes_styles = True

    def __init__(
        self, space: ClipSpace, source: Generator, reference: Tensor, latent: Tensor,
        perceptual: Embedding, config: AirMindTheGapConfig | None = None,
    ):  # fmt: skip
        self.space, self.config = space, config or AirMindTheGapConfig()
        self.mind_the_gap = MindTheGap(space, source, reference, latent, perceptual, self.config)
        self.settings = {**self.mind_the_gap.settings, "method": "air_mind_the_gap"}
        self.anchor: Generator | None = None
        self.offsets: list[Tensor] = []  # dI_ref [1, D] per CLIP model
        self._events: list[dict] = []

    @classmethod
    def of(cls, task: Task, config: AirMindTheGapConfig, seed: int) -> Self:
        perceptual = task.perceptual()
        return cls(task.space, task.generator, task.picture(), task.latent(), perceptual, config)

    def begin(self, source: Generator, adapted: Generator) -> None:
        """Nothing comes before the first step."""

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"clip_across", "clip_within", "ref_clip", "ref_rec"} and, from t_thresh on,
        {"clip_adaptive"}: scalars, each with its weight.
        """
        t, t_adapt = step.index, step.total
        if t in self.config.used_anchor_steps(t_adapt):  # line 1
            G_A = self.anchor = step.adapted.copy_frozen()  # 2
            self.point_from(G_A)  # 3
            self._events.append(self.event(t))
        L = self.mind_the_gap(step)  # 4
        if self.anchor is not None and self.config.is_past_threshold(t, t_adapt):  # 5
            dI_A = step.offsets_from(step.embeddings_of(self.anchor, "anchor"))  # 6
            loss = self.space.weighted(directional_loss, dI_A, self.offsets)
            L["clip_adaptive"] = self.config.clip_adaptive * loss  # 7
        return L

    @torch.no_grad()
    def point_from(self, anchor: Generator) -> None:
        """dI_ref: from an anchor's counterpart of the reference, drawn without noise maps as I_A*
        is, to the reference.
        """
        starts = self.space.embed_images(anchor(self.mind_the_gap.latent))
        pairs = zip(self.mind_the_gap.target, starts, strict=True)
        self.offsets = [target - start for target, start in pairs]

    def event(self, step: int) -> dict:
        """An anchor for the log, one number per CLIP model: the length of dI_ref as a share of that
        of the first direction E(I_B) - E(I_A*), and the cosine of the two.
        """
        shares, cosines = [], []
        gap = self.mind_the_gap
        for offset, target, start in zip(self.offsets, gap.target, gap.start, strict=True):
            first = target - start
            shares.append(float(offset.norm() / first.norm()))
            cosines.append(float(F.cosine_similarity(offset, first)))
        return {
            "event": "anchor",
            "step": step,
            "length_left": [round(share, 6) for share in shares],
            "cos_with_first_direction": [round(cosine, 6) for cosine in cosines],
        }

    def events(self) -> list[dict]:
        """The anchors since the last call, for the log; see `event`."""
        events, self._events = self._events, []
        return events

    # -- checkpoints ---------------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """Tensors of the anchor; empty before the first anchor."""
        return {} if self.anchor is None else anchor_state(self.anchor)

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Restore what `state` returned; `adapted` supplies the anchor's architecture."""
        if state:
            self.anchor = anchor_of(state, adapted)
            self.point_from(self.anchor)
