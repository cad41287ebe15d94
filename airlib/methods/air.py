r"""AIR, adaptation with iterative refinement: NADA plus anchors plus prompt learning.

The further apart two concepts are, the worse their image offset is aligned with their text offset
(study 1). So AIR keeps L_direction and adds the same loss from a nearer starting point: an anchor,
the generator as it was a moment ago, whose prompt is learnt because nobody has a word for it.

Algorithm 1, t = 0 ... t_adapt - 1 (p: progress, Y_S and Y_T: the labels, u(x) = x / |x|):

    1   if t is a multiple of t_int:
    2       G_A <- copy of G_t                                      the anchor
    3       P_A <- prompt learnt for G_A at p = t / t_adapt         Algorithm 2, `anchor_prompts`
    4       dT_A <- u(E_T(Y_T) - P_A)
    5   L <- L_direction                                            `nada`
    6   if t >= t_thresh:
    7       dI_A <- E_I(G_t(w)) - E_I(G_A(w))
    8       L <- L + L_adaptive,   L_adaptive = 1 - cos(dI_A, dT_A)

Counted from 1, as in the paper, line 6 is t > t_thresh. `learn_from` and `keep_direction` are the
variants of table 4, `chain_start` is where paper and official code differ (`AnchorSchedule`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss, mean_direction
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.methods.anchor_prompts import CHAINS, AnchorPrompts
from airlib.methods.anchors import AnchorSchedule, anchor_of, anchor_state
from airlib.methods.nada import NADA, NADAConfig
from airlib.methods.prompt_learning import Mixing, PromptConfig, Wording
from airlib.methods.step import Step
from airlib.methods.task import Task
from airlib.seeding import rng


@dataclass(frozen=True)
class AIRConfig(AnchorSchedule):
    """Numbers of AIR: those of `AnchorSchedule`, and of the prompts of the anchors (Algorithm 2);
    defaults of the paper (sections 4 and A.4).

    prompt_pairs: image pairs that a prompt is learnt from. prompt_steps, prompt_learning_rate: of
    Adam. prompt_tokens: learnt vectors, the words of "a photo of a". prompt_mixing: of the labels,
    see `prompt_learning`. prompt_truncation: psi of the pairs, 0.7 in the official code.
    first_text, target_text: what the first prompt is compared with, and where L_adaptive leads, as
    the sentence of the "label" or, as in the official code, in all "templates". learn_from: prompts
    are learnt from the "previous" anchor to the next (the paper's choice), from the "source" to the
    anchor, or from "images" of the anchor alone (table 4). keep_direction: False leaves L_adaptive
    alone once it starts. templates, order: of L_direction, see `NADAConfig`.
    """

    prompt_pairs: int = 1000
    prompt_steps: int = 200
    prompt_learning_rate: float = 0.002
    prompt_tokens: int = 4
    prompt_mixing: Mixing = "label"
    prompt_truncation: float = 1.0
    first_text: Wording = "label"
    target_text: Wording = "label"
    learn_from: Literal["previous", "source", "images"] = "previous"
    keep_direction: bool = True
    templates: str | Sequence[str] = "nada79"
    order: Order = "mean_then_norm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_from not in CHAINS:
            raise AirlibError(
                f"learn_from {self.learn_from!r} is unknown; choose from {', '.join(CHAINS)}"
            )
        for name in ("first_text", "target_text"):
            if (wording := getattr(self, name)) not in ("label", "templates"):
                raise AirlibError(f"{name} {wording!r} is unknown; choose label or templates")
        if not 0 < self.prompt_truncation <= 1:
            raise AirlibError(f"prompt_truncation {self.prompt_truncation} must lie in (0, 1]")

    @property
    def prompt(self) -> PromptConfig:
        """The numbers of Algorithm 2."""
        return PromptConfig(
            self.prompt_steps, self.prompt_learning_rate, self.prompt_tokens, self.prompt_mixing,
            self.first_text, self.target_text, self.templates, self.prompt_truncation,
        )  # fmt: skip


class AIR:
    """AIR's loss: Algorithm 1, with the anchor and its prompt as memory.

        AIR(space, "human", "baby", AIRConfig(t_int=0.2), seed=0)

    seed: of the latents that prompts are learnt from.
    Raises AirlibError if the two classes have the same text features.
    """

    Config = AIRConfig

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        config: AIRConfig | None = None, seed: int = 0,
    ):  # fmt: skip
        self.space, self.config = space, config or AIRConfig()
        wording = NADAConfig(self.config.templates, self.config.order)
        self.nada = NADA(space, source_class, target_class, wording)
        classes, pairs = (source_class, target_class), self.config.prompt_pairs
        kind = CHAINS[self.config.learn_from]
        self.chain: AnchorPrompts = kind(space, classes, self.config.prompt, pairs, seed)
        self.settings = {**self.nada.settings, "method": "air", "seed": seed, **asdict(self.config)}
        self.anchor: Generator | None = None
        self.directions: list[Tensor] = []  # dT_A [D] per CLIP model
        self._events: list[dict] = []

    @classmethod
    def of(cls, task: Task, config: AIRConfig, seed: int) -> Self:
        return cls(task.space, task.source_class, task.target_class, config, seed)

    def begin(self, source: Generator, adapted: Generator) -> None:
        """Nothing comes before the first step: G_t is the source, and its text is known. Raises
        AirlibError for a truncation of the pairs that the generator does not have.
        """
        source.sample_latents(1, rng(0), self.config.prompt_truncation)

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction"} and, from t_thresh on, {"adaptive"}, scalars: Algorithm 1 by its lines."""
        t, t_adapt = step.index, step.total
        if t in self.config.anchor_steps(t_adapt):  # line 1
            G_A = self.anchor = step.adapted.copy_frozen()  # 2
            P_A, losses = self.chain.learn(step.source, G_A, p=t / t_adapt)  # 3
            self.point_at_target(P_A)  # 4
            self._events.append(self.chain.event(t, losses, self.directions, self.nada.directions))
        L = self.nada(step)  # 5
        if self.anchor is not None and self.config.is_past_threshold(t, t_adapt):  # 6
            dI_A = step.offsets_from(step.embeddings_of(self.anchor, "anchor"))  # 7
            L["adaptive"] = self.space.weighted(directional_loss, dI_A, self.directions)  # 8
            if not self.config.keep_direction:
                del L["direction"]
        return L

    def point_at_target(self, prompts: list[Tensor]) -> None:
        """dT_A: from the prompts of an anchor, P_A [D] per CLIP model, to the target's text: one
        sentence, or the mean of the unit offsets to its templates.
        """
        self.directions = [
            F.normalize(target - prompt, dim=0)
            if target.ndim == 1
            else mean_direction(prompt, target, "norm_mean_norm")
            for target, prompt in zip(self.chain.targets, prompts, strict=True)
        ]

    def events(self) -> list[dict]:
        """The anchors since the last call, for the log; see `AnchorPrompts.event`."""
        events, self._events = self._events, []
        return events

    # -- checkpoints ---------------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """Tensors of the anchor, its prompts and the images they were learnt from; empty before the
        first anchor.
        """
        if self.anchor is None:
            return {}
        return anchor_state(self.anchor) | self.chain.state()

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Restore what `state` returned; `adapted` supplies the anchor's architecture."""
        if not state:
            return
        self.anchor = anchor_of(state, adapted)
        self.chain.load_state(state)
        self.point_at_target(self.chain.prompts)
