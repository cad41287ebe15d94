r"""StyleGAN-NADA (Gal et al. 2022): every image should move the way the text moves.

    dT = E_T(target) - E_T(source)                  averaged over prompt templates, once
    dI = E_I(G_t(w)) - E_I(G_S(w))                  per sample
    L_direction = 1 - cos(dI, dT)

Source: paper section 4.1; `criteria/clip_loss.py` of the official code for the template average.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss, text_direction
from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.methods.step import Step


class NADA:
    """The directional loss with one fixed text direction per CLIP model."""

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        templates: Sequence[str] = NADA_TEMPLATES, order: Order = "mean_then_norm",
    ):  # fmt: skip
        self.space = space
        self.settings = {
            "method": "nada", "source": source_class, "target": target_class,
            "templates": len(templates), "order": order,
            "clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights,
        }  # fmt: skip
        self.directions = [
            text_direction(encoder, source_class, target_class, templates, order)
            for encoder in space.encoders
        ]

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction": scalar}."""
        offsets = step.offsets_from(step.source_embeddings)
        return {
            "direction": self.space.weighted_sum(
                lambda m: directional_loss(offsets[m], self.directions[m])
            )
        }

    def events(self) -> list[dict]:
        """Nothing happens between steps."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Nothing changes during training."""
        return {}

    def load_state(self, state: dict[str, Tensor], adapted: nn.Module) -> None:
        """Nothing to restore."""
