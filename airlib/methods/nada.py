r"""StyleGAN-NADA (Gal et al. 2022): every image should move the way the text moves.

    dT = E_T(target) - E_T(source)                  averaged over prompt templates, once
    dI = E_I(G_t(w)) - E_I(G_S(w))                  per sample
    L_direction = 1 - cos(dI, dT)

Source: paper section 4.1; `criteria/clip_loss.py` of the official code for the template average.
"""

from collections.abc import Sequence

from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss, text_direction
from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.methods.step import Step, WithoutMemory


class Directional(WithoutMemory):
    """The directional loss with one fixed direction [D] per CLIP model, wherever it comes from."""

    def __init__(self, space: ClipSpace, directions: list[Tensor], settings: dict):
        self.space, self.directions = space, directions
        clip = {"clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights}
        self.settings = {**settings, **clip}

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction": scalar}."""
        offsets = step.offsets_from(step.source_embeddings)
        return {
            "direction": self.space.weighted_sum(
                lambda m: directional_loss(offsets[m], self.directions[m])
            )
        }


class NADA(Directional):
    """Its direction is that of the text."""

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        templates: Sequence[str] = NADA_TEMPLATES, order: Order = "mean_then_norm",
    ):  # fmt: skip
        settings = {
            "method": "nada", "source": source_class, "target": target_class,
            "templates": len(templates), "order": order,
        }  # fmt: skip
        directions = [
            text_direction(encoder, source_class, target_class, templates, order)
            for encoder in space.encoders
        ]
        super().__init__(space, directions, settings)
