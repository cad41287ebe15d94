r"""A network that writes a prompt for every image, from the latent code it is drawn from (IPL).

    w -> pixel norm -> 4 x (linear, leaky ReLU) -> V_1 ... V_M         vectors in place of words
    [V_1 ... V_M][label]  ->  E_T                                      a feature per image

    mapper = LatentMapper.random(512, 512, tokens=4, seed=0)
    sentence = Sentence.labelled(encoder, "cat")
    features = sentence.read(mapper(codes_of(latents)))                # [B, D], not normalised

The activation also follows the last layer, and all layers have the small learning rate of a mapping
network. Source: the official code, `mapper/latent_mappers.py`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipEncoder
from airlib.generators.stylegan2_layers import (
    FullyConnected,
    leaky_relu,
    normalize_second_moment,
)
from airlib.methods.prompt_learning import in_context
from airlib.seeding import rng

LAYERS = 4
LR_MULTIPLIER = 0.01


def codes_of(latents: Tensor) -> Tensor:
    """What the mapper sees of latents: the w of w+ [B, num_ws, C], others flattened -> [B, C]."""
    return latents[:, 0] if latents.ndim == 3 else latents.flatten(1)


class LatentMapper(nn.Module):
    """Codes [B, C] -> `tokens` token embeddings [B, tokens, width] each."""

    def __init__(self, channels: int, width: int, tokens: int):
        super().__init__()
        self.tokens = tokens
        sizes = [channels] * (LAYERS - 1) + [width * tokens]
        self.layers = nn.ModuleList(
            FullyConnected(channels, size, lr_multiplier=LR_MULTIPLIER) for size in sizes
        )

    @classmethod
    def random(cls, channels: int, width: int, tokens: int, seed: int) -> Self:
        """A new mapper, initialised as in the official code. seed: of its weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng(seed, "latent mapper").initial_seed())
            return cls(channels, width, tokens)

    @classmethod
    def of_state(cls, state: dict[str, Tensor], tokens: int) -> Self:
        """One whose `state_dict` was `state`, frozen."""
        last = state[f"layers.{LAYERS - 1}.weight"]
        mapper = cls(last.shape[1], last.shape[0] // tokens, tokens)
        mapper.load_state_dict(state)
        return mapper.to(last.device).requires_grad_(False)

    def forward(self, codes: Tensor) -> Tensor:
        x = normalize_second_moment(codes)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x.unflatten(1, (self.tokens, -1))


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence [1, L, W] whose first words are left to a mapper; read at index `end` [1]."""

    encoder: ClipEncoder
    embeddings: Tensor
    end: Tensor

    @classmethod
    def labelled(cls, encoder: ClipEncoder, label: str) -> Self:
        """ "a photo of a", the words to be replaced, and the label."""
        return cls(encoder, *encoder.token_embeddings([in_context(label)]))

    def read(self, vectors: Tensor) -> Tensor:
        """Vectors [B, tokens, W] in place of the first words -> features [B, D], not normalised."""
        batch, tokens = vectors.shape[:2]
        whole = self.embeddings.expand(batch, -1, -1)
        whole = torch.cat([whole[:, :1], vectors, whole[:, 1 + tokens :]], dim=1)
        return self.encoder.prompt_features(whole, self.end.expand(batch))
