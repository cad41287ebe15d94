r"""MindTheGap (Zhu et al. 2022): adapt to the domain of one picture, and not to what it shows.

The reference I_B is inverted in the source generator: w_B, and I_A* = G_A(w_B), its counterpart in
the source domain. From I_A* to I_B the domain changes and the content does not. Four losses, with E
for CLIP's unit embedding and w for random latents:

    clip_across   1 - cos(E(G_B(w)) - E(G_A(w)), E(I_B) - E(I_A*))   all images move as I_A* did
    clip_within   1 - cos(E(G_B(w)) - E(I_B), E(G_A(w)) - E(I_A*))   and keep their places
    ref_clip      1 - cos(E(G_B(w_B)), E(I_B))                       w_B becomes the reference,
    ref_rec       MSE and perceptual distance of G_B(w_B) and I_B    in its pixels too

    w_b = invert(source, picture, perceptual, prior).latents
    adapt(source, space, MindTheGap(space, source, picture, w_b, perceptual), synthesis(), config)

Images are drawn with `editing.style_mixing`. Source: the official code, where HyperDomainNet, which
puts a domain vector in the place of the weights, differs in `ref_clip`.
"""

from dataclasses import asdict, dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.generators.base import Generator, Noise
from airlib.images.checks import checked_pictures, digest
from airlib.methods.step import Step, WithoutMemory
from airlib.methods.task import Embedding, Task


@dataclass(frozen=True)
class MindTheGapConfig:
    """Weights of the losses; the terms that the loop gets have them in already.

    ref_clip_over: "sum" over CLIP models, as in MindTheGap's code, or their "mean", as in that of
    HyperDomainNet for this loss alone: with two models half of the pull at the same weight.
    """

    clip_across: float = 1.0
    clip_within: float = 0.5
    ref_clip: float = 30.0
    ref_mse: float = 10.0
    ref_perceptual: float = 10.0
    ref_clip_over: Literal["sum", "mean"] = "sum"
    size: int = 256  # pixels a side in which ref_rec compares larger images

    def __post_init__(self) -> None:
        if self.ref_clip_over not in ("sum", "mean"):
            raise AirlibError(f'ref_clip_over={self.ref_clip_over!r} is unknown; use "sum", "mean"')


class MindTheGap(WithoutMemory):
    """MindTheGap's four losses.

    reference: I_B [1, 3, H, H] in [-1, 1], as large as the source draws. latent: w_B
    [1, num_ws, w_dim]. perceptual: LPIPS in the paper. I_A* is drawn and embedded once, without
    noise maps; the official code draws it anew in every step.
    Raises AirlibError for other shapes and ranges.
    """

    Config = MindTheGapConfig
    by_picture = True
    mixes_styles = True

    def __init__(
        self, space: ClipSpace, source: Generator, reference: Tensor, latent: Tensor,
        perceptual: Embedding, config: MindTheGapConfig | None = None,
    ):  # fmt: skip
        self.space, self.perceptual, self.config = space, perceptual, config or MindTheGapConfig()
        self.latent = latent.detach()
        reference = checked_pictures(reference, source.resolution).to(latent.device)
        if len(reference) != 1 or len(latent) != 1:
            raise AirlibError("MindTheGap takes one reference and its latent")
        self.pixels = shrunk(reference, self.config.size)
        self.phi = perceptual(self.pixels)
        with torch.no_grad():
            self.target = space.embed_images(reference)  # E(I_B), [1, D] per CLIP model
            self.start = space.embed_images(source(self.latent))  # E(I_A*)
        self.settings = {
            "method": "mind_the_gap", "reference": digest(reference, latent),
            **asdict(self.config),
            "clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights,
        }  # fmt: skip

    @classmethod
    def of(cls, task: Task, config: MindTheGapConfig, seed: int) -> Self:
        perceptual = task.perceptual()
        return cls(task.space, task.generator, task.picture(), task.latent(), perceptual, config)

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"clip_across", "clip_within", "ref_clip", "ref_rec"}, each with its weight."""
        weights = self.config
        drawn = step.adapted(self.latent, _first(step.noise("adapted")))  # G_B(w_B)
        return {
            "clip_across": weights.clip_across * self._across(step),
            "clip_within": weights.clip_within * self._within(step),
            "ref_clip": weights.ref_clip * self._ref_clip(step.embed(drawn, "reference")),
            "ref_rec": self._ref_rec(drawn),
        }

    def _across(self, step: Step) -> Tensor:
        offsets = step.offsets_from(step.source_embeddings)
        moved = [end - start for end, start in zip(self.target, self.start, strict=True)]
        return self.space.weighted(directional_loss, offsets, moved)

    def _within(self, step: Step) -> Tensor:
        adapted, source = step.adapted_embeddings, step.source_embeddings
        after = [x - target for x, target in zip(adapted, self.target, strict=True)]
        before = [x - start for x, start in zip(source, self.start, strict=True)]
        return self.space.weighted(directional_loss, after, before)

    def _ref_clip(self, drawn: list[Tensor]) -> Tensor:
        total = self.space.weighted(lambda x, end: (1 - x @ end[0]).mean(), drawn, self.target)
        return total if self.config.ref_clip_over == "sum" else total / sum(self.space.weights)

    def _ref_rec(self, drawn: Tensor) -> Tensor:
        drawn = shrunk(drawn, self.config.size)
        distance = (self.perceptual.embed(drawn) - self.phi).square().sum()
        mse = F.mse_loss(drawn, self.pixels)
        return self.config.ref_mse * mse + self.config.ref_perceptual * distance


def shrunk(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, H] at `size` pixels a side, if they are larger (bicubic, smoothed first)."""
    if images.shape[3] <= size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True)


def _first(noise: Noise) -> Noise:
    """The noise maps of the first image of a step."""
    return [maps[:1] for maps in noise] if isinstance(noise, list) else noise
