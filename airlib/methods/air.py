r"""AIR, adaptation with iterative refinement: NADA plus anchors plus prompt learning.

The further apart two concepts are, the worse their image offset is aligned with their text offset
(study 1). So AIR keeps L_direction and adds the same loss from a nearer starting point: an anchor,
the generator as it was a moment ago, whose prompt is learnt because nobody has a word for it.

Algorithm 1, with t_adapt steps in all:

    every t_int:        G_A <- copy of G_t;  learn its prompt P_A (Algorithm 2);
                        dT_A = E_T(target) - E_T(P_A)
    every step:         L = L_direction
    from t_thresh on:   L = L_direction + L_adaptive,
                        L_adaptive = 1 - cos(E_I(G_t(w)) - E_I(G_A(w)), dT_A)

Kept from repeating work: the image pairs of Algorithm 2 share their latents and noise, so each
anchor's embeddings are the next one's "previous" ones; text features are encoded once; the adapted
image is embedded once per step. `chain_start="t_thresh"` is the official code's choice: no anchors
before t_thresh, the first one follows the source. `learn_from` are the ways to a prompt that the
paper compares (table 4): "previous" anchor to anchor, its choice; "source" to anchor; "images" of
the anchor, by a mapper as IPL's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss
from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.errors import AirlibError
from airlib.methods.ipl import learn_image_prompt
from airlib.methods.latent_mapper import codes_of
from airlib.methods.nada import NADA
from airlib.methods.prompt_learning import (
    CONTEXT,
    PromptConfig,
    interpolated_prompt,
    learn_prompt,
    mean_direction_of,
)
from airlib.methods.samples import embed_samples
from airlib.methods.step import Step

LearnFrom = Literal["previous", "source", "images"]


@dataclass(frozen=True)
class AIRConfig:
    """Numbers of Algorithm 1; defaults of the paper (sections 4 and A.4)."""

    t_thresh: float = 0.6  # share of t_adapt before L_adaptive starts
    t_int: float = 0.1  # share of t_adapt between anchors
    prompt_pairs: int = 1000  # image pairs per anchor
    prompt: PromptConfig = field(default_factory=PromptConfig)
    chain_start: Literal["t_int", "t_thresh"] = "t_int"
    learn_from: LearnFrom = "previous"
    keep_direction: bool = True  # False: from t_thresh on L_adaptive alone

    def __post_init__(self) -> None:
        if self.learn_from not in (known := get_args(LearnFrom)):
            raise AirlibError(
                f"learn_from {self.learn_from!r} is unknown; choose from {', '.join(known)}"
            )
        if not (0 < self.t_int <= 1 and 0 <= self.t_thresh <= 1):
            raise AirlibError(
                f"t_int {self.t_int} must lie in (0, 1], t_thresh {self.t_thresh} in [0, 1]"
            )

    def anchor_steps(self, total: int) -> list[int]:
        """The steps before which an anchor is taken; only anchors that a later step uses."""
        first = self.t_int if self.chain_start == "t_int" else self.t_thresh
        count = 1 + int((1 - first) / self.t_int + 1e-9)
        steps = [round((first + i * self.t_int) * total) for i in range(count)]
        return sorted({step for step in steps if 0 < step < total})


class AIR:
    """Algorithm 1 as a loss with memory."""

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        config: AIRConfig | None = None,
        templates: Sequence[str] = NADA_TEMPLATES, order: Order = "mean_then_norm", seed: int = 0,
    ):  # fmt: skip
        self.nada = NADA(space, source_class, target_class, templates, order)
        self.space, self.config, self.seed = space, config or AIRConfig(), seed
        self.settings = {**self.nada.settings, "method": "air", "seed": seed, **asdict(self.config)}
        self.classes = source_class, target_class
        source, target = (
            space.embed_text([f"{CONTEXT} {source_class}"]),
            space.embed_text([f"{CONTEXT} {target_class}"]),
        )
        # Per CLIP model: E_T(source), P of the last anchor, E_T(target), and embeddings [N, D] of
        # the last anchor's images, and of the source's where they are needed again.
        self.sources = [feature[0] for feature in source]
        self.prompts: list[Tensor] = list(self.sources)
        self.targets: list[Tensor] = [feature[0] for feature in target]
        self.pairs: list[Tensor] | None = None
        self._source_pairs: list[Tensor] = []
        self.anchor: nn.Module | None = None
        self.directions: list[Tensor] = []
        self._events: list[dict] = []

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction": ...} and, from t_thresh on, {"adaptive": ...}, or that alone."""
        if step.index in self.config.anchor_steps(step.total):
            self.take_anchor(step)
        losses = self.nada(step)
        if self.anchor is not None and step.index >= round(self.config.t_thresh * step.total):
            offsets = step.offsets_from(step.embeddings_of(self.anchor, "anchor"))
            losses["adaptive"] = self.space.weighted_sum(
                lambda m: directional_loss(offsets[m], self.directions[m])
            )
            if not self.config.keep_direction:
                del losses["direction"]
        return losses

    def take_anchor(self, step: Step) -> None:
        """Freeze a copy of the adapted generator and learn its prompt for every CLIP model."""
        before = self._before(step)
        self.anchor = step.adapted.copy_frozen()
        latents, self.pairs = self._embed(self.anchor)
        progress, losses = step.index / step.total, []
        for m in range(len(self.prompts)):
            self.prompts[m], loss = self._learn_prompt(m, progress, before, codes_of(latents))
            losses.append(loss)
        self._point_at_target()
        self._log_anchor(step.index, losses)

    def _before(self, step: Step) -> tuple[list[Tensor], list[Tensor]]:
        """Pair embeddings and prompts that those of the next anchor are compared with."""
        if self.config.learn_from == "previous":
            return self.pairs or self.embed_pairs(step.source), self.prompts
        if self.config.learn_from == "source" and not self._source_pairs:
            self._source_pairs = self.embed_pairs(step.source)
        return self._source_pairs, self.sources

    def _learn_prompt(
        self, m: int, progress: float, before: tuple[list[Tensor], list[Tensor]], codes: Tensor
    ) -> tuple[Tensor, float]:
        encoder, config = self.space.encoders[m], self.config.prompt
        if self.config.learn_from == "images":
            prompt = interpolated_prompt(encoder, *self.classes, progress, config.mixing)
            return learn_image_prompt(encoder, prompt, codes, self.pairs[m], config, self.seed)
        embeddings, prompts = before
        direction = mean_direction_of(self.pairs[m], embeddings[m])
        return learn_prompt(encoder, *self.classes, progress, direction, prompts[m], config)

    def _point_at_target(self) -> None:
        pairs = zip(self.targets, self.prompts, strict=True)
        self.directions = [F.normalize(target - prompt, dim=0) for target, prompt in pairs]

    def embed_pairs(self, generator: nn.Module) -> list[Tensor]:
        """Embeddings [prompt_pairs, D] per CLIP model, at the same latents and noise each time."""
        return self._embed(generator)[1]

    def _embed(self, generator: nn.Module) -> tuple[Tensor, list[Tensor]]:
        n = self.config.prompt_pairs
        return embed_samples(self.space, generator, n, self.seed, "prompt pairs")

    def _log_anchor(self, step: int, losses: list[float]) -> None:
        self._events.append(
            {
                "event": "anchor",
                "step": step,
                "prompt_loss": [round(loss, 6) for loss in losses],
                "cos_with_text_direction": [
                    round(float(a @ b), 6)
                    for a, b in zip(self.directions, self.nada.directions, strict=True)
                ],
                "image_mean": [
                    [round(v, 6) for v in pairs.mean(dim=0).tolist()] for pairs in self.pairs
                ],
                "prompt": [[round(v, 6) for v in prompt.tolist()] for prompt in self.prompts],
            }
        )

    def events(self) -> list[dict]:
        """What happened since the last call: anchors with their prompt, loss and mean image
        embedding.
        """
        events, self._events = self._events, []
        return events

    # -- checkpoints ---------------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """Anchor weights, prompts and pair embeddings; empty before the first anchor."""
        if self.anchor is None:
            return {}
        state = {f"anchor.{key}": value for key, value in self.anchor.state_dict().items()}
        for m in range(len(self.prompts)):
            state |= {f"prompt.{m}": self.prompts[m], f"pairs.{m}": self.pairs[m]}
        return state

    def load_state(self, state: dict[str, Tensor], adapted: nn.Module) -> None:
        """Restore what `state` returned; `adapted` supplies the anchor's architecture."""
        if not state:
            return
        models = range(len(self.prompts))
        self.prompts = [state[f"prompt.{m}"] for m in models]
        self.pairs = [state[f"pairs.{m}"] for m in models]
        self.anchor = adapted.copy_frozen()
        prefix = "anchor."
        self.anchor.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        self._point_at_target()
