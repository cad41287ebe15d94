r"""When to stop: NADA leaves the number of steps to the user, and a run that is too long collapses.

    curve = Curve(world.space, "baby", "human", world.sample(32), every=5)
    result = world.adapt("nada", "human-baby", on_step=curve)
    curve.advice()            # Advice(step=30, why='the probability of "baby" reaches 0.95, ...')
    curve.rows(result)        # per point: step, probability, diversity, loss

Two numbers of images of fixed latents are followed, both from CLIP embeddings x alone:

    p_k   zero-shot probability of the target: mean over x of softmax(s x . [t_target, t_source])_1
    d_k   mean over pairs of images of 1 - cos, as a share of the source's; so d_0 = 1

with t the mean text embedding over templates and s the scale that CLIP was trained with. With

    g_k = (p_k - p_0) / (max_j p_j - p_0)           the share of the way that is done after k steps
    reached = first k with g_k >= 0.95
    turned = first k with the largest g_k + d_k     later on diversity falls more than g rises
    stop = min(reached, turned)

This is a rule of thumb. The CLIP that judges is the one that is optimised, so p says that the loss
does its work, not that the images are good; a target may be less diverse than the source by nature;
g and d count the same only because something has to be decided; and a curve that ends early does
not know how far it could have risen. Look at the images around the step (`adaptation.Snapshots`).
In the tiny world it errs on the early side. NADA with seed 0, 60 to 80 steps, and the share of the
paired feature distance to the true targets that was left at the advice and at best:

    human-cat        .72 at step 75        .72 at step 80
    human-baby       .64 at step 30        .61 at step 55
    photo-cartoon    .60 at step 15        .40 at step 40, where diversity is half of the source's
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.adaptation import Adaptation
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import class_features
from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.errors import AirlibError
from airlib.evaluation.text_alignment import clip_diversity
from airlib.generators.base import Generator, images_at_once

REACHED = 0.95  # share of the way to the highest probability at which there is enough of it
LEAST_RISE = 0.05  # of the probability; with less there is no way of which to take a share
ALIKE = 1e-9  # mean of 1 - cos between images that differ by rounding only
LATE = 0.75  # share of the run; what is reached later may not be the end of the rise


@dataclass(frozen=True)
class Point:
    """One point of a `Curve`: the images of its fixed latents after `step` steps."""

    step: int
    probability: float  # of the target class, 0 .. 1
    diversity: float  # 1 is the source's


@dataclass(frozen=True)
class Advice:
    """When to stop a run: the step, None if the curve has no such step, and why, in one sentence.

    As text: "stop at step 30, the probability of ...".
    """

    step: int | None
    why: str

    def __str__(self) -> str:
        return f"{'no step' if self.step is None else f'stop at step {self.step}'}, {self.why}"


class Curve:
    """Follow an adaptation, as its `on_step` callback: every `every` steps the zero-shot
    probability of the target class and the diversity of the images, by the first model of `space`.

    latents: [n, ...] with n >= 2, as the adapted generator takes them. A run that begins anew
    begins a new curve. Raises AirlibError for fewer latents, and every < 1.
    """

    def __init__(
        self, space: ClipSpace, target_class: str, source_class: str, latents: Tensor,
        every: int = 5, templates: Sequence[str] = NADA_TEMPLATES,
    ):  # fmt: skip
        if every < 1 or len(latents) < 2:
            raise AirlibError("a curve needs at least 2 latents, and every >= 1")
        self.encoder, self.target_class = space.encoders[0], target_class
        self.latents, self.every = latents, every
        self.texts = class_embeddings(self.encoder, [target_class, source_class], templates)
        self._measured: dict[int, tuple[float, float]] = {}  # step -> probability, 1 - mean cos

    @torch.no_grad()
    def __call__(self, step: int, adapted: Generator) -> None:
        if step % self.every:
            return
        if step == 0:
            self._measured.clear()
        parts = self.latents.split(images_at_once(adapted))
        images = torch.cat([self.encoder.embed_images(adapted(part)) for part in parts])
        logits = self.encoder.model.logit_scale.exp() * images @ self.texts.T
        probability = float(logits.softmax(dim=1)[:, 0].mean())
        self._measured[step] = probability, clip_diversity(images)

    @property
    def points(self) -> list[Point]:
        """The curve so far, in order of steps.

        Raises AirlibError if it does not begin at the source (step 0), or if the source draws the
        same image for all latents.
        """
        first = min(self._measured, default=None)
        if first != 0:
            raise AirlibError(
                "the curve has not seen the source: pass it to a run as on_step"
                if first is None
                else f"the curve begins at step {first}, as the run was continued from a "
                "checkpoint; adapt in another directory to see all of it"
            )
        start = self._measured[0][1]
        if start < ALIKE:
            raise AirlibError("the source draws the same image for all latents of this curve")
        return [Point(step, p, spread / start) for step, (p, spread) in self._measured.items()]

    def advice(self) -> Advice:
        """When the run should have stopped; see the function `advice` for the rule.

        Raises AirlibError as `points` does.
        """
        return advice(self.points, self.target_class)

    def rows(self, result: Adaptation) -> list[dict]:
        """The points of the curve as rows: step, probability, diversity and loss.

        result: the run that the curve has followed. The loss is the objective's, its mean over the
        `every` steps from the point on; None at the end. Raises AirlibError as `points` does.
        """
        losses, rows = total_losses(result), []
        for point in self.points:
            here = [losses[k] for k in range(point.step, point.step + self.every) if k in losses]
            rows.append({**asdict(point), "loss": sum(here) / len(here) if here else None})
        return rows


def advice(points: Sequence[Point], target_class: str) -> Advice:
    """When to stop a run whose curve is `points`, from the source (step 0) on, in order of steps.

    The step is the earlier of two: where the probability has reached 95 % of its rise, and where
    rise and diversity, added, are largest. There is none if the probability rises by less than
    0.05.
    """
    start, best = points[0], max(points, key=lambda point: point.probability)
    rise, name = best.probability - start.probability, f'the probability of "{target_class}"'
    if rise < LEAST_RISE:
        return Advice(
            None,
            f"{name} has not risen ({start.probability:.2f} at first, {best.probability:.2f} at "
            "best); adapt for longer, or with other words",
        )

    def progress(point: Point) -> float:
        return (point.probability - start.probability) / rise

    reached = next(point for point in points if progress(point) >= REACHED)
    turned = max(points, key=lambda point: progress(point) + point.diversity)
    if turned.step < reached.step:
        return Advice(
            turned.step,
            f"after it diversity falls more than {name} rises: it is {turned.probability:.2f} here "
            f"and {best.probability:.2f} at best, diversity {turned.diversity:.0%} of the source's "
            f"here and {best.diversity:.0%} there",
        )
    late = reached.step > LATE * points[-1].step
    return Advice(
        reached.step,
        f"{name} reaches {reached.probability:.2f}, {progress(reached):.0%} of its rise from "
        f"{start.probability:.2f} to {best.probability:.2f}, with {reached.diversity:.0%} of the "
        "source's diversity" + ("; it may rise further in a longer run" if late else ""),
    )


def class_embeddings(
    encoder: ClipEncoder, classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Unit text embeddings [C, D]: per class the mean over templates (Radford et al. 3.1.4)."""
    means = [class_features(encoder, name, templates).mean(dim=0) for name in classes]
    return F.normalize(torch.stack(means), dim=1)


def total_losses(result: Adaptation) -> dict[int, float]:
    """{step: loss that was minimised} of a run: the terms of its log, with the run's weights."""
    weights = dict(result.config["adaptation"]["weights"])
    weights |= {term["name"]: term["weight"] for term in result.config["regularizers"]}
    steps = [entry for entry in result.log if "event" not in entry]
    return {
        entry["step"]: sum(weights.get(k, 1.0) * v for k, v in entry.items() if k != "step")
        for entry in steps
    }
