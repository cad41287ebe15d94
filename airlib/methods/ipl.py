r"""IPL, image-specific prompt learning (Guo et al. 2023): every image has its own text direction.

A mapper turns each latent w into prompt vectors; E_T reads them before the source and before the
target label. The feature is a residual on that of a written sentence ("a photo of a ..."):

    t_X,b = u(delta_X,b + base_X)               X = source S or target T;  u(x) = x / |x|
    stage 1   L_contrastive + lambda_l (L_domain,T + lambda_src L_domain,S)     trains the mapper
              L_contrastive   image b and prompt t_S,b find each other in the batch
              L_domain,X      mean_b 1 - cos(t_X,b, mean over templates of E_T(template(X)))
    stage 2   mean_b 1 - cos(dI_b, u(t_T,b - t_S,b))                            adapts the generator

    adapt(source, space, IPL(space, "human", "baby"), synthesis(), AdaptationConfig())

Source: the official code, held to its recordings. The residual is not in the paper's equations, and
its sentence differs between the stages of the code: "a photo of a human." in stage 1, "a photo of
a", the same for both classes, in stage 2 (`residual="bare"`; "label" keeps stage 1's).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import class_features, directional_loss, text_direction
from airlib.clip_space.templates import templates_of
from airlib.errors import AirlibError
from airlib.generators.base import Generator
from airlib.methods.latent_mapper import LatentMapper, Sentence, codes_of
from airlib.methods.prompt_learning import CONTEXT, PromptConfig, in_context
from airlib.methods.samples import embed_samples
from airlib.methods.step import Step
from airlib.methods.task import Task
from airlib.seeding import rng

LOGIT_SCALE = 100.0  # of OpenAI's CLIP, exp(logit_scale)


def prompt_features(learnt: Tensor, written: Tensor) -> Tensor:
    """Unit features [B, D] of learnt prompts [B, D] on top of a written sentence [D] or [1, D].

    Neither is normalised before: the longer one decides more.
    """
    return F.normalize(learnt + written, dim=-1)


def contrastive_loss(images: Tensor, prompts: Tensor, logit_scale: float = LOGIT_SCALE) -> Tensor:
    """Symmetric cross-entropy of unit features [B, D]: image b belongs to prompt b (stage 1)."""
    logits = logit_scale * images @ prompts.T
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def domain_loss(prompts: Tensor, class_features: Tensor) -> Tensor:
    """Mean 1 - cos of prompts [B, D] and the mean of a class's unit features [K, D] (stage 1)."""
    return (1 - F.cosine_similarity(prompts, class_features.mean(dim=0), dim=-1)).mean()


def prompt_directions(source: Tensor, target: Tensor) -> Tensor:
    """Unit text directions [B, D], one per image, for `offsets.directional_loss` (stage 2)."""
    return F.normalize(target - source, dim=-1)


# --- the method ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class IPLConfig:
    """Numbers of IPL's first stage and of its prompts; defaults of the official code.

    mapper_steps, mapper_batch, mapper_learning_rate: of stage 1. prompt_tokens: vectors per prompt,
    the words of "a photo of a". domain_weight, source_weight: lambda_l and lambda_src. residual:
    the sentence of stage 2, "bare" or with the "label". templates: of the mean text features that
    stage 1 compares with, see `NADAConfig`.
    """

    mapper_steps: int = 300
    mapper_batch: int = 32
    mapper_learning_rate: float = 0.05
    prompt_tokens: int = 4
    domain_weight: float = 1.0
    source_weight: float = 0.0
    residual: Literal["bare", "label"] = "bare"
    templates: str | Sequence[str] = "nada79"

    def __post_init__(self) -> None:
        if self.residual not in ("bare", "label"):
            raise AirlibError(f"residual {self.residual!r} is unknown; choose bare or label")
        if self.mapper_batch < 2 or not 1 <= self.prompt_tokens <= len(CONTEXT.split()):
            raise AirlibError(
                f"a mapper needs batches of at least 2, not {self.mapper_batch}, and writes 1 to "
                f"{len(CONTEXT.split())} vectors, not {self.prompt_tokens}"
            )


class Texts:
    """The labels of source and target behind prompts of a mapper, for one CLIP model."""

    def __init__(self, encoder: ClipEncoder, labels: tuple[str, str], templates: Sequence[str]):
        self.encoder = encoder
        self.logit_scale = float(encoder.model.logit_scale.exp())
        self.width = encoder.model.token_embedding.weight.shape[1]
        self.sentences = [Sentence.labelled(encoder, label) for label in labels]
        self.classes = [class_features(encoder, label, templates) for label in labels]
        written = [f"{in_context(label)}." for label in labels]
        self.written = {"label": self._raw(written), "bare": self._raw([CONTEXT, CONTEXT])}

    def prompts(self, vectors: Tensor, residual: str) -> tuple[Tensor, Tensor]:
        """t_S and t_T [B, D] of the vectors [B, tokens, W]."""
        pairs = zip(self.sentences, self.written[residual], strict=True)
        source, target = (prompt_features(s.read(vectors), written) for s, written in pairs)
        return source, target

    @torch.no_grad()
    def _raw(self, texts: list[str]) -> Tensor:
        return self.encoder.prompt_features(*self.encoder.token_embeddings(texts))


class IPL:
    """IPL's loss: stage 2, with the mappers of stage 1, one per CLIP model, as memory.

        IPL(space, "human", "baby", IPLConfig(residual="label"), seed=0)

    seed: of the mappers' first weights and of the images they are taught.
    Raises AirlibError if the two classes have the same text features.
    """

    Config = IPLConfig

    def __init__(
        self, space: ClipSpace, source_class: str, target_class: str,
        config: IPLConfig | None = None, seed: int = 0,
    ):  # fmt: skip
        self.space, self.config, self.seed = space, config or IPLConfig(), seed
        self.settings = {
            "method": "ipl", "source": source_class, "target": target_class, "seed": seed,
            **asdict(self.config),
            "clip": [encoder.name for encoder in space.encoders], "clip_weights": space.weights,
        }  # fmt: skip
        labels, templates = (source_class, target_class), templates_of(self.config.templates)
        self.texts = [Texts(encoder, labels, templates) for encoder in space.encoders]
        self.directions = [text_direction(e, *labels, templates) for e in space.encoders]
        self.mappers: list[LatentMapper] = []
        self._events: list[dict] = []

    @classmethod
    def of(cls, task: Task, config: IPLConfig, seed: int) -> Self:
        return cls(task.space, task.source_class, task.target_class, config, seed)

    def begin(self, source: Generator, adapted: Generator) -> None:
        """Stage 1: learn the mappers on images of the source."""
        self.learn_mappers(source)

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """{"direction": mean of 1 - cos(dI_b, u(t_T,b - t_S,b)) over the images b, a scalar}."""
        offsets, codes = step.offsets_from(step.source_embeddings), codes_of(step.latents)
        views = max(step.views, 1)
        models = range(len(self.mappers))
        directions = [self.image_directions(m, codes).repeat(views, 1) for m in models]
        return {"direction": self.space.weighted(directional_loss, offsets, directions)}

    @torch.no_grad()
    def image_directions(self, m: int, codes: Tensor) -> Tensor:
        """Unit text direction [B, D] of each code [B, C] in CLIP model m."""
        vectors = self.mappers[m](codes)
        return prompt_directions(*self.texts[m].prompts(vectors, self.config.residual))

    # -- stage 1 -------------------------------------------------------------------------------
    def learn_mappers(self, source: Generator) -> None:
        """Teach new mappers the images of the source generator, and log what came out."""
        config = self.config
        channels = codes_of(source.sample_latents(1, rng(self.seed))).shape[1]
        self.mappers = [
            LatentMapper.random(channels, texts.width, config.prompt_tokens, self.seed).to(e.device)
            for texts, e in zip(self.texts, self.space.encoders, strict=True)
        ]
        numbers = [parameter for mapper in self.mappers for parameter in mapper.parameters()]
        optimizer = torch.optim.Adam(numbers, lr=config.mapper_learning_rate)
        for index in range(config.mapper_steps):
            latents, embeddings = self._images(source, index)
            terms = [self._stage_1(m, codes_of(latents), e) for m, e in enumerate(embeddings)]
            optimizer.zero_grad()
            torch.stack([self._weighted(term) for term in terms]).sum().backward()
            optimizer.step()
        for mapper in self.mappers:
            mapper.requires_grad_(False)
        self._log_mappers(source)

    def _images(self, source: Generator, index: int) -> tuple[Tensor, list[Tensor]]:
        n = self.config.mapper_batch
        return embed_samples(self.space, source, n, self.seed, "stage 1", index)

    def _stage_1(self, m: int, codes: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The terms of stage 1 for codes [B, C] and their unit image embeddings [B, D]."""
        texts = self.texts[m]
        source, target = texts.prompts(self.mappers[m](codes), "label")
        return {
            "contrastive": contrastive_loss(images, source, texts.logit_scale),
            "source": domain_loss(source, texts.classes[0]),
            "target": domain_loss(target, texts.classes[1]),
        }

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        domain = terms["target"] + self.config.source_weight * terms["source"]
        return terms["contrastive"] + self.config.domain_weight * domain

    @torch.no_grad()
    def _log_mappers(self, source: Generator) -> None:
        """Losses and directions on images that the mappers were not taught."""
        latents, embeddings = self._images(source, self.config.mapper_steps)
        event: dict[str, Any] = {"event": "mappers", "step": 0, "cos_with_text_direction": []}
        for m, images in enumerate(embeddings):
            for name, loss in self._stage_1(m, codes_of(latents), images).items():
                event.setdefault(f"{name}_loss", []).append(round(loss.item(), 6))
            cosines = self.image_directions(m, codes_of(latents)) @ self.directions[m]
            event["cos_with_text_direction"].append(round(cosines.mean().item(), 6))
        self._events.append(event)

    def events(self) -> list[dict]:
        """What stage 1 reached, for the log; once."""
        events, self._events = self._events, []
        return events

    # -- checkpoints ---------------------------------------------------------------------------
    def state(self) -> dict[str, Tensor]:
        """The mappers; empty before the first step."""
        return {
            f"mapper.{m}.{key}": value
            for m, mapper in enumerate(self.mappers)
            for key, value in mapper.state_dict().items()
        }

    def load_state(self, state: dict[str, Tensor], adapted: Generator) -> None:
        """Restore what `state` returned."""
        if not state:
            return
        self.mappers = []
        for m in range(len(self.space.encoders)):
            prefix = f"mapper.{m}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            self.mappers.append(LatentMapper.of_state(own, self.config.prompt_tokens))


def learn_image_prompt(
    encoder: ClipEncoder, prompt: tuple[Tensor, Tensor], codes: Tensor, images: Tensor,
    config: PromptConfig, seed: int,
) -> tuple[Tensor, float]:  # fmt: skip
    """Feature [D] of a set of images, the mean of the prompts that a mapper learns for each, and
    the contrastive loss it reached.

    prompt: token embeddings [1, L, W] and end-of-text index [1] of the words behind the vectors.
    codes [N, C], images [N, D]: latent codes and unit embeddings. This is how AIR could have learnt
    the prompts of its anchors (table 4, "I to T"); there is no code of it. Batch and learning rate
    are those of IPL, the number of steps is AIR's.
    """
    sentence, numbers = Sentence(encoder, *prompt), IPLConfig()
    mapper = LatentMapper.random(codes.shape[1], prompt[0].shape[2], config.tokens, seed)
    optimizer = torch.optim.Adam(
        mapper.to(codes.device).parameters(), lr=numbers.mapper_learning_rate
    )
    scale = float(encoder.model.logit_scale.exp())

    def features(rows: Tensor) -> Tensor:
        return F.normalize(sentence.read(mapper(codes[rows])), dim=1)

    for index in range(config.steps):
        rows = torch.randperm(len(codes), generator=rng(seed, "image prompt", index))
        rows = rows[: numbers.mapper_batch]
        optimizer.zero_grad()
        contrastive_loss(images[rows], features(rows), scale).backward()
        optimizer.step()
    with torch.no_grad():
        parts = [features(rows) for rows in torch.arange(len(codes)).split(numbers.mapper_batch)]
        loss = contrastive_loss(images[: numbers.mapper_batch], parts[0], scale)
    return F.normalize(torch.cat(parts).mean(dim=0), dim=0), loss.item()
