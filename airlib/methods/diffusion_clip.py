r"""DiffusionCLIP (Kim et al. 2022): tune a diffusion model on its way back to inverted pictures.

    cos         of E_I(G_t(x)) - E_I(x_0) and E_T(target) - E_T(source)
    direction   -log((1 + cos) / 2)          NADA's loss 1 - cos, on a scale that has no upper end
    l1          mean |x_0 - G_t(x)|
    identity    1 - <F(x_0), F(G_t(x))>      F: a face recognition network, where one is given

x_0 is a real picture, x its latent at t0 (`generators.ddim`) and G_t six DDIM steps of the model
that is tuned, with the gradient of all six. Nothing else is new, so the loop is the usual one:

    source = picture_generator(world.generator, pictures)                # inverted once
    loss = DiffusionCLIP(space, "human", "zombie", source.pictures)
    config = AdaptationConfig(250, batch=1, learning_rate=8e-6, betas=(0.9, 0.999))
    adapted = adapt(source, space, loss, full(), config).apply(world.generator)
    found = edit(ByDdim(world.generator, source.schedule), adapted, others)

Weights and schedule are those of the official code and of the example in its README: 50 pictures,
5 passes, t0 = 500. Two things differ. Pictures are drawn for each step instead of taken in turn,
and the learning rate stays; the code multiplies it by 1.3 after each pass. The "efficient" variant
of the code, with a step of the optimiser after each DDIM step, is left out: here `checkpointing` of
the source saves memory, and keeps the gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import Order, directional_loss
from airlib.errors import AirlibError
from airlib.generators.ddim import DdimGenerator, DdimSchedule, InvertedImages
from airlib.generators.diffusion import DiffusionGenerator
from airlib.images.checks import checked_pictures, digest
from airlib.methods.nada import NADA, NADAConfig
from airlib.methods.step import Step, WithoutMemory
from airlib.methods.task import Task

TUNING = DdimSchedule(t0=500, inversion_steps=40, steps=6)


@dataclass(frozen=True)
class DiffusionCLIPConfig:
    """Numbers of DiffusionCLIP; defaults of the example in the README of the code.

    direction, l1, identity: weights of the losses, which the terms that the loop gets have already;
    identity is that of faces, for which the code has a network and its example the weight 0.
    pictures: how many are inverted and tuned on. t0, inversion_steps, training_steps: return time
    and DDIM steps of the way up and of the way down. templates, order: see `NADAConfig`.
    """

    direction: float = 3.0
    l1: float = 1.0
    identity: float = 0.0
    pictures: int = 50
    t0: int = TUNING.t0
    inversion_steps: int = TUNING.inversion_steps
    training_steps: int = TUNING.steps
    templates: str | Sequence[str] = "nada79"
    order: Order = "mean_then_norm"


class DiffusionCLIP(WithoutMemory):
    """DiffusionCLIP's losses, for a generator of inverted pictures (`picture_generator`).

    pictures: whose latents the generator draws. Without them x_0 is the source's own image, which
    exists for every generator and leaves the error of the inversion out of the loss.
    identity: images [B, 3, H, W] in [-1, 1] -> unit features [B, D] of the faces in them.
    """

    Config = DiffusionCLIPConfig

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        pictures: InvertedImages | None = None, config: DiffusionCLIPConfig | None = None,
        identity: Callable[[Tensor], Tensor] | None = None,
    ):  # fmt: skip
        self.weights = weights = config or DiffusionCLIPConfig()
        wording = NADAConfig(weights.templates, weights.order)
        nada = NADA(space, source_class, target_class, wording)
        self.space, self.directions = space, nada.directions
        self.pictures, self.identity = pictures, identity
        if (weights.identity > 0) != (identity is not None):
            raise AirlibError(
                "the identity of faces needs both a weight above 0 and a network; give both or none"
            )
        shown = None if pictures is None else digest(pictures.images, pictures.latents)
        own = {"method": "diffusion_clip", **asdict(weights), "shown": shown}
        self.settings = {**nada.settings, **own}

    @classmethod
    def of(cls, task: Task, config: DiffusionCLIPConfig, seed: int) -> Self:
        """Inverts pictures of the source; the result is to be adapted in its `generator`."""
        if not isinstance(task.generator, DiffusionGenerator):
            raise AirlibError(
                "DiffusionCLIP tunes a diffusion model; open a source whose generator is one"
            )
        schedule = DdimSchedule(config.t0, config.inversion_steps, config.training_steps)
        pictures = task.source_pictures(config.pictures)
        generator = picture_generator(task.generator, pictures, schedule)
        classes = task.source_class, task.target_class
        objective = cls(task.space, *classes, generator.pictures, config)
        objective.generator = generator
        return objective

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction", "l1"} and, with a network, "identity", each with its weight."""
        if self.pictures is None:
            originals, reference = step.source_images, step.source_embeddings
        else:
            originals = self.pictures.images_of(step.latents)
            with torch.no_grad():
                reference = step.embed(originals, "source")
        terms = {
            "direction": self.weights.direction * self._direction(step.offsets_from(reference)),
            "l1": self.weights.l1 * (originals - step.adapted_images).abs().mean(),
        }
        if self.identity is not None:
            with torch.no_grad():
                faces = self.identity(originals)
            cosines = (faces * self.identity(step.adapted_images)).sum(dim=1)
            terms["identity"] = self.weights.identity * (1 - cosines).mean()
        return terms

    def _direction(self, offsets: list[Tensor]) -> Tensor:
        return self.space.weighted(
            lambda offset, direction: -torch.log(1 - directional_loss(offset, direction) / 2),
            offsets, self.directions,
        )  # fmt: skip


def picture_generator(
    source: DiffusionGenerator, pictures: Tensor, schedule: DdimSchedule = TUNING
) -> DdimGenerator:
    """`source` as a generator of pictures [n, 3, H, H] in [-1, 1], which are inverted here, once.

    It inverts in many steps and draws in few, because the gradient follows all of those.
    Raises AirlibError for pictures of other shapes, sizes and ranges, and for NaN.
    """
    images = checked_pictures(pictures, source.resolution).to(source.unet.device)
    latents = DdimGenerator(source.unet, schedule).invert(images)
    return DdimGenerator(
        source.unet, schedule, InvertedImages(images, latents), source.checkpointing
    )
