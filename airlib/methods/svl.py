"""SVL, semantic variations (Jeon et al. 2023): many target texts, and three brakes.

One target text pulls every image to one place. So K variations of its embedding t are learnt, close
to t and unlike each other, and images are moved as a set: their offsets get the mean and the second
moments of the K + 1 text offsets.

    stage 1   v_i = t + |t| z_i / |z_i|;   L_S1 = mean_i 1 - cos(t, v_i)
                                                  + lambda_div mean_i<j |cos(z_i, z_j)|
    stage 2   L_moments = 1 - cos(mu_I, mu_T) + lambda_cov |S_I - S_T|      S_X = X^T X
              L_ewc = sum_l F_l (theta_l - theta_source,l)^2                what mattered stays
              L_relation = KL(softmax(M_source) || softmax(M))              M = images x images

    adapt(source, space, SVL(space, "human", "baby"), synthesis(), AdaptationConfig(batch=4))

At the optimum of stage 1 the z_i are orthogonal and equally near t: cos(t, z_i) = 1 / sqrt(K), so
cos(t, v_i) = sqrt((1 + 1 / sqrt(K)) / 2), which is 0.8391 for the paper's K = 6.

There is no official code. Left open by the paper (sections 3.1 to 3.3), and chosen here:
- E_T(text) is the mean of its unit features over the templates, as in StyleGAN-NADA.
- All offsets are unit vectors, as in StyleGAN-NADA: else the lengths of image and text offsets,
  which mean different things, decide the second moments.
- S is a plain sum, as printed: for N images and K + 1 texts the two cannot be equal in size.
- F is the mean square of the gradient of cos(E_I(G(w)), E_T(source)) over `fisher_samples` images.
- The Kullback-Leibler divergence is a mean over images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import class_features, text_direction
from airlib.clip_space.templates import templates_of
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.methods.step import Step
from airlib.methods.task import Task
from airlib.seeding import rng

BETAS = (0.0, 0.99)  # of Adam in stage 1


@dataclass(frozen=True)
class SVLConfig:
    """Numbers of SVL; defaults of the paper (sections 3.2, 3.3 and 4), but for `fisher_samples`,
    which it does not state.

    variations: K. variation_steps, variation_learning_rate, diversity: of stage 1, diversity being
    lambda_div. covariance, ewc, relation: lambda_cov, lambda_EWC and lambda_rel. fisher_samples:
    images that F is a mean over. templates: of E_T(text), see `NADAConfig`.
    """

    variations: int = 6
    variation_steps: int = 2000
    variation_learning_rate: float = 0.002
    diversity: float = 1.0
    covariance: float = 1e3
    ewc: float = 1e7
    relation: float = 1e2
    fisher_samples: int = 50
    templates: str | Sequence[str] = "nada79"

    def __post_init__(self) -> None:
        if self.variations < 2 or self.fisher_samples < 1:
            raise AirlibError(
                f"SVL needs at least 2 variations and 1 Fisher sample, not {self.variations} and "
                f"{self.fisher_samples}"
            )


# --- stage 1 -------------------------------------------------------------------------------------


def variations_of(target: Tensor, z: Tensor) -> Tensor:
    """v [K, D] of a target embedding [D] and steps z [K, D], whose length does not count."""
    return target + target.norm() * F.normalize(z, dim=1)


def diversity_loss(z: Tensor) -> Tensor:
    """Mean absolute cosine of two of the steps [K, D]."""
    unit = F.normalize(z, dim=1)
    first, second = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    return (unit[first] * unit[second]).sum(dim=1).abs().mean()


def learn_variations(target: Tensor, config: SVLConfig, stream: torch.Generator) -> Tensor:
    """Semantic variations [K, D] of a target embedding [D]."""
    z = torch.randn(config.variations, len(target), generator=stream).to(target.device)
    z.requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=config.variation_learning_rate, betas=BETAS)
    for _ in range(config.variation_steps):
        consistency = 1 - F.cosine_similarity(variations_of(target, z), target, dim=1)
        optimizer.zero_grad()
        (consistency.mean() + config.diversity * diversity_loss(z)).backward()
        optimizer.step()
    return variations_of(target, z.detach())


# --- stage 2 -------------------------------------------------------------------------------------


def moment_loss(images: Tensor, texts: Tensor, covariance: float, views: int = 1) -> Tensor:
    """L_moments of unit offsets: images [views * N, D] and texts [K + 1, D].

    views: rows per image, which together count once.
    """
    mean = 1 - F.cosine_similarity(images.mean(dim=0), texts.mean(dim=0), dim=0)
    second = images.T @ images / views - texts.T @ texts
    return mean + covariance * second.norm()


def relation_loss(source: Tensor, adapted: Tensor) -> Tensor:
    """KL of how the images of a batch relate, unit embeddings [B, D]; none reaches `source`."""
    before = (source @ source.T).detach().log_softmax(dim=1)
    after = (adapted @ adapted.T).log_softmax(dim=1)
    return F.kl_div(after, before, log_target=True, reduction="batchmean")


def fisher_information(
    generator: Generator, space: ClipSpace, sources: list[Tensor], n: int, seed: int
) -> dict[str, Tensor]:
    """Mean square over n images of the gradient of their cosine with the source text, by parameter.

    sources: the source text [D] per CLIP model. What images do not depend on is left out.
    """
    copy = generator.copy_frozen().requires_grad_(True)
    named = dict(copy.named_parameters())
    squares: dict[str, Tensor] = {}
    for index in range(n):
        stream = rng(seed, "fisher", index)
        latents = copy.sample_latents(1, stream)
        embeddings = space.embed_images(copy(latents, copy.sample_noise(1, stream)))
        cosine = space.weighted(_first_cosine, embeddings, sources)
        gradients = torch.autograd.grad(cosine, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                before = squares.get(name, torch.zeros_like(gradient))
                squares[name] = before + gradient.square() / n
    return squares


def _first_cosine(embeddings: Tensor, text: Tensor) -> Tensor:
    return F.cosine_similarity(embeddings[0], text, dim=0)


# --- the method ----------------------------------------------------------------------------------


class SVL:
    """SVL's loss: stage 2, with the variations of stage 1 and what matters in the source as memory.

        SVL(space, "human", "baby", SVLConfig(covariance=10.0), seed=0)

    The terms that the loop gets have their weights in them already. seed: of the variations' start
    and of the images of F. Raises AirlibError if the two classes have the same text features.
    """

    Config = SVLConfig

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        config: SVLConfig | None = None, seed: int = 0,
    ):  # fmt: skip
        self.space, self.config, self.seed = space, config or SVLConfig(), seed
        self.settings = {
            "method": "svl", "source": source_class, "target": target_class, "seed": seed,
            **asdict(self.config),
            "clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights,
        }  # fmt: skip
        templates = templates_of(self.config.templates)
        self.sources, self.targets = (
            [class_features(e, label, templates).mean(dim=0) for e in space.encoders]
            for label in (source_class, target_class)
        )
        self.directions = [
            text_direction(encoder, source_class, target_class, templates)
            for encoder in space.encoders
        ]
        self.variations: list[Tensor] = []  # [K, D] per CLIP model, of stage 1
        # Of each parameter that images depend on: its information, and its value in the source.
        self.fisher: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self._events: list[dict] = []

    @classmethod
    def of(cls, task: Task, config: SVLConfig, seed: int) -> Self:
        return cls(task.space, task.source_class, task.target_class, config, seed)

    def begin(self, source: Generator, adapted: Generator) -> None:
        """Stage 1, the variations of the target text; then what matters in the source."""
        self.variations = [
            learn_variations(target, self.config, rng(self.seed, "variations", m))
            for m, target in enumerate(self.targets)
        ]
        self.measure_source(adapted)

    def texts(self) -> list[Tensor]:
        """T: unit text offsets [K + 1, D] per CLIP model, the target's first."""
        parts = zip(self.directions, self.variations, self.sources, strict=True)
        return [torch.cat([d[None], F.normalize(v - s, dim=1)]) for d, v, s in parts]

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"moments", "ewc", "relation"}: scalars, each with its weight."""
        offsets, views = step.offsets_from(step.source_embeddings), max(step.views, 1)
        offsets = [F.normalize(offset, dim=1) for offset in offsets]
        before, after, weights = step.source_embeddings, step.adapted_embeddings, self.config
        return {
            "moments": self.space.weighted(
                lambda images, texts: moment_loss(images, texts, weights.covariance, views),
                offsets, self.texts(),
            ),
            "ewc": weights.ewc * self.distance_from_source(step.adapted),
            "relation": weights.relation * self.space.weighted(relation_loss, before, after),
        }  # fmt: skip

    def distance_from_source(self, adapted: Generator) -> Tensor:
        """L_ewc over the parameters of `adapted` that may move, a scalar without its weight."""
        moved = [
            (self.fisher[name] * (parameter - self.start[name]).square()).sum()
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad and name in self.fisher
        ]
        return torch.stack(moved).sum()

    def measure_source(self, adapted: Generator) -> None:
        """What matters in the generator, which has not moved yet; and a note for the log."""
        n = self.config.fisher_samples
        self.fisher = fisher_information(adapted, self.space, self.sources, n, self.seed)
        values = dict(adapted.named_parameters())
        self.start = {name: values[name].detach().clone() for name in self.fisher}
        pairs = zip(self.variations, self.targets, strict=True)
        cosines = [float(F.cosine_similarity(v, t, dim=1).mean()) for v, t in pairs]
        largest = max(float(information.max()) for information in self.fisher.values())
        self._events.append(
            {
                "event": "variations",
                "step": 0,
                "cos_with_target": [round(cosine, 6) for cosine in cosines],
                "largest_information": largest,
            }
        )

    def events(self) -> list[dict]:
        """What stage 1 reached, for the log; once."""
        events, self._events = self._events, []
        return events

    # -- checkpoints ---------------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """The variations, and information and values of the source; empty before `begin`."""
        variations = {str(m): v for m, v in enumerate(self.variations)}
        kept = {"variations": variations, "fisher": self.fisher, "start": self.start}
        return {f"{kind}.{name}": v for kind, of in kept.items() for name, v in of.items()}

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Restore what `state` returned."""
        models = range(len(self.targets)) if state else ()
        self.variations = [state[f"variations.{m}"] for m in models]
        for kind, of in (("fisher.", self.fisher), ("start.", self.start)):
            of.update({k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)})
