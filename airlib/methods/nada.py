r"""StyleGAN-NADA (Gal et al. 2022): every image should move the way the text moves.

    dT = E_T(target) - E_T(source)                  averaged over prompt templates, once
    dI = E_I(G_t(w)) - E_I(G_S(w))                  per sample
    L_direction = 1 - cos(dI, dT)

Source: paper section 4.1; `criteria/clip_loss.py` of the official code for the template average.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss, text_direction
from airlib.clip_space.templates import templates_of
from airlib.methods.step import Step, WithoutMemory
from airlib.methods.task import Task


class Directional(WithoutMemory):
    """The directional loss towards one fixed direction, wherever that comes from.

    directions: unit vectors [D], one per CLIP model of `space`. settings: see `Objective`.
    """

    def __init__(self, space: ClipSpace, directions: list[Tensor], settings: dict):
        self.space, self.directions = space, directions
        clip = {"clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights}
        self.settings = {**settings, **clip}

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction": mean of 1 - cos(dI, dT) over the images of the step, a scalar}."""
        offsets = step.offsets_from(step.source_embeddings)
        return {"direction": self.space.weighted(directional_loss, offsets, self.directions)}


@dataclass(frozen=True)
class NADAConfig:
    """How the text direction is taken; defaults of StyleGAN-NADA.

    templates: a name of `clip_space.templates.TEMPLATES`, a sentence with one {}, or several.
    order: "mean_then_norm", or "norm_mean_norm" as in AIR's code; see `offsets.mean_direction`.
    """

    templates: str | Sequence[str] = "nada79"
    order: Order = "mean_then_norm"


class NADA(Directional):
    """StyleGAN-NADA: `Directional` along the text offset from `source_class` to `target_class`.

        NADA(space, "human", "baby")

    Raises AirlibError if the two classes have the same text features.
    """

    Config = NADAConfig

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        config: NADAConfig | None = None,
    ):  # fmt: skip
        config = config or NADAConfig()
        templates = templates_of(config.templates)
        directions = [
            text_direction(encoder, source_class, target_class, templates, config.order)
            for encoder in space.encoders
        ]
        classes = {"method": "nada", "source": source_class, "target": target_class}
        super().__init__(space, directions, {**classes, **asdict(config)})

    @classmethod
    def of(cls, task: Task, config: NADAConfig, seed: int) -> Self:
        return cls(task.space, task.source_class, task.target_class, config)
