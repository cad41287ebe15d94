"""The tiny CLIP: open_clip's own classes, a small ResNet, and a vocabulary cut to the tiny world.

CLIP's 49,408 token embeddings would outweigh this whole model. Only a few hundred of its merges are
ever used by the tiny world's words, so the vocabulary keeps exactly those, in the standard order.
Every word of the lexicon then splits as it does in the standard vocabulary (the lowest-ranked pair
of the full list is always in the subset), any other text still encodes byte by byte, and the ids
keep CLIP's layout: start and end of text are the two largest ids, padding is 0.

`python -m airlib.tinyworld.tiny_clip` writes the vocabulary file again after a lexicon change; the
weights must then be trained again, since the ids move.
"""

import gzip
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

from airlib.checkpoints.networks import filled
from airlib.clip_space.encoder import ClipEncoder
from airlib.errors import AirlibError
from airlib.files import load_tensors, write_atomically
from airlib.tinyworld.shipped import WEIGHTS

VOCABULARY = WEIGHTS / "tiny_bpe.txt.gz"
CONTEXT_LENGTH = 24


def load_tokenizer() -> SimpleTokenizer:
    """Tokenizer of the tiny vocabulary: texts -> ids [n, 24], cut after 24 tokens.

    Raises AirlibError if the vocabulary file is missing from the package.
    """
    if not VOCABULARY.is_file():
        raise AirlibError(
            f"the tiny vocabulary {VOCABULARY.name} is missing from the package; install airlib "
            "again, or run: python -m airlib.tinyworld.tiny_clip"
        )
    return SimpleTokenizer(bpe_path=str(VOCABULARY), context_length=CONTEXT_LENGTH)


def tiny_encoder(
    weights: str | Path = WEIGHTS / "clip.safetensors", antialias: bool = True
) -> ClipEncoder:
    """The tiny world's CLIP from a weights file, by default the shipped one.

    antialias: see `ClipPreprocess`. Raises AirlibError if the file is missing, damaged, or of
    another network.
    """
    tensors, config = load_tensors(weights)
    model = filled("clip", config.get("model", {}), tensors, weights)
    return ClipEncoder(model, load_tokenizer(), "tiny", antialias)


def model_config(vocabulary_size: int) -> dict:
    """Arguments of `open_clip.model.CLIP` for the tiny CLIP: 64 px images, 128-d joint space."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def build_model(config: dict) -> CLIP:
    """A CLIP with random weights, its image tower in channels_last (twice as fast on CPU)."""
    import torch

    model = CLIP(**config)
    model.visual.to(memory_format=torch.channels_last)
    return model


def vocabulary_text(words: Iterable[str]) -> str:
    """The standard merges that `words` need, in standard order, as a BPE file's text."""
    standard = SimpleTokenizer()
    needed: set[tuple[str, str]] = set()
    for word in words:
        for piece in standard.pat.findall(word.lower()):
            symbols = "".join(standard.byte_encoder[byte] for byte in piece.encode())
            needed.update(_merges(symbols, standard.bpe_ranks))
    ordered = sorted(needed, key=standard.bpe_ranks.__getitem__)
    return "\n".join(["#version: 0.2 (subset)", *(" ".join(pair) for pair in ordered)])


def _merges(word: str, ranks: dict[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """The pairs that byte-pair encoding joins in `word`, first to last."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while len(symbols) > 1:
        pair = min(pairwise(symbols), key=lambda pair: ranks.get(pair, math.inf))
        if pair not in ranks:
            return
        yield pair
        symbols = _join(symbols, pair)


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """`symbols` with every occurrence of `pair` replaced by its concatenation."""
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def write_vocabulary() -> Path:
    """Write the vocabulary of the tiny world's lexicon; the same bytes every time."""
    from airlib.tinyworld.captions import lexicon

    data = gzip.compress(vocabulary_text(lexicon()).encode(), mtime=0)
    return write_atomically(VOCABULARY, lambda path: path.write_bytes(data))


if __name__ == "__main__":
    write_vocabulary()
