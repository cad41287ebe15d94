r"""AIR's Algorithm 2: learn the prompt that describes an anchor, a generator part-way to the
target.

    P_A  = [V_1 ... V_M][Y],   Y = (1 - p) Y_S + p Y_T     label token mixed by progress p
    dI   = E_I(anchor) - E_I(previous anchor)              mean of unit offsets over pairs
    dP   = E_T(P_A) - E_T(P_previous)
    V    = argmin 1 - cos(dI, dP),   from "a photo of a", by Adam

Labels with different numbers of tokens: the shorter one repeats its last token, so that the
end-of-text tokens coincide. The official code mixes the end-of-text token with words instead
("all_positions"), which corrupts the position the feature is read from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.templates import SINGLE, sentences_of

CONTEXT = "a photo of a"
Wording = Literal["label", "templates"]
Mixing = Literal["label", "all_positions"]


@dataclass(frozen=True)
class PromptConfig:
    """Numbers of Algorithm 2; defaults of the paper (section A.4).

    first_text, target_text: the text that the first offset starts from and the one that the anchor
    is led to, as "a photo of a [label]" or as the label in all `templates`. truncation: psi of the
    image pairs.
    """

    steps: int = 200
    learning_rate: float = 0.002
    tokens: int = 4  # M, the words of "a photo of a"
    mixing: Mixing = "label"
    first_text: Wording = "label"
    target_text: Wording = "label"
    templates: str | Sequence[str] = "nada79"
    truncation: float = 1.0


def in_context(label: str) -> str:
    """ "a photo of a" and the label; AirlibError for a label without a word."""
    return sentences_of(SINGLE, label)[0]


def mean_direction_of(embeddings: Tensor, previous: Tensor) -> Tensor:
    """Unit mean [D] of the unit offsets of image pairs [N, D]; identical pairs have no direction
    and are left out.
    """
    offsets = embeddings - previous
    return F.normalize(F.normalize(offsets, dim=1).mean(dim=0), dim=0)


def interpolated_prompt(
    encoder: ClipEncoder, source_class: str, target_class: str, progress: float, mixing: Mixing
) -> tuple[Tensor, Tensor]:
    """Token embeddings [1, L, W] of "a photo of a [label]" and their end-of-text index [1]."""
    sentences = [in_context(source_class), in_context(target_class)]
    embeddings, ends = encoder.token_embeddings(sentences)
    if mixing == "label":
        length = int(ends.max())
        embeddings = torch.stack(
            [_stretch(e, int(i), length) for e, i in zip(embeddings, ends, strict=True)]
        )
        ends = ends.new_full([2], length)
    source, target = embeddings
    return ((1 - progress) * source + progress * target)[None], ends[1:]


def _stretch(embedding: Tensor, end: int, length: int) -> Tensor:
    """Repeat the last label token of [L, W] until the end-of-text token sits at `length`."""
    repeats = embedding[end - 1 : end].expand(length - end, -1)
    return torch.cat([embedding[:end], repeats, embedding[end : end + 1]])


def learn_prompt(
    encoder: ClipEncoder, source_class: str, target_class: str, progress: float,
    image_direction: Tensor, previous_text: Tensor, config: PromptConfig,
) -> tuple[Tensor, float]:  # fmt: skip
    """Feature [D] of the learnt anchor prompt and the loss it reached.

    image_direction [D]: unit direction from the previous anchor's images to this anchor's.
    previous_text: unit feature [D] of the previous anchor's prompt; or unit features [K, D], from
    which the text's direction is the mean of the K unit offsets.
    """
    prompt, end = interpolated_prompt(encoder, source_class, target_class, progress, config.mixing)
    start, context, rest = prompt.split(
        [1, config.tokens, prompt.shape[1] - 1 - config.tokens], dim=1
    )
    context = context.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([context], lr=config.learning_rate)

    def alignment() -> tuple[Tensor, Tensor]:
        feature = encoder.embed_prompt(torch.cat([start, context, rest], dim=1), end)[0]
        offset = feature - previous_text
        if offset.ndim == 2:
            offset = F.normalize(offset, dim=1).mean(dim=0)
        return feature, 1 - F.cosine_similarity(offset, image_direction, dim=0)

    for _ in range(config.steps):
        optimizer.zero_grad()
        alignment()[1].backward()
        optimizer.step()
    with torch.no_grad():
        feature, loss = alignment()
    return feature, loss.item()
