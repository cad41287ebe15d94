"""A CLIP for OpenMoji: the tiny world's kind of network, taught drawings that nobody here drew.

    encoder = load_openmoji_clip()                       # weights shipped in the package
    embeddings = embed_openmoji(encoder)["held out"]     # of concepts that it was never shown

The tiny world's CLIP knows the words and pictures of that world only, so it has nothing to say
about other data. This one is trained the same way, by contrastive learning on pictures and texts,
on the drawings of `misalignment.datasets.openmoji` and their Unicode names. One concept in eight is
held out, drawings and name alike, so that a study can tell what was memorised from what was
understood. Its vocabulary is made of the taught names, as the tiny world's is of its lexicon; any
other word is read in pieces.

    python -m airlib.studies.misalignment.openmoji_clip   trains it again, in about five CPU minutes

The drawings are by OpenMoji, the open-source emoji and icon project, under CC BY-SA 4.0.
"""

import argparse
import copy
import gzip
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional as F

from airlib.checkpoints.networks import filled
from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.preprocessing import ClipPreprocess
from airlib.errors import AirlibError
from airlib.files import load_tensors, write_atomically, write_json
from airlib.images.items import Item
from airlib.progress import track
from airlib.seeding import rng as stream
from airlib.studies.misalignment.concepts import ConceptEmbeddings, embed_dataset
from airlib.studies.misalignment.datasets import open_dataset
from airlib.tinyworld.tiny_clip import build_model, vocabulary_text
from airlib.tinyworld.train_clip import contrastive_loss
from airlib.training.loop import TrainingRun
from airlib.training.precision import reduced_precision

FOLDER = Path(__file__).parent / "weights"
NAME = "openmoji_clip"
COMMAND = "python -m airlib.studies.misalignment.openmoji_clip"
SIZE = 64  # pixels
CONTEXT_LENGTH = 24
BATCH = 128
MAX_LOGIT_SCALE = 50.0
TEMPLATES = ("a drawing of a {}", "an emoji of a {}", "{}")
"""Sentences of the training; the first is the one that is examined."""


def part(label: str) -> int:
    """Which eighth of OpenMoji's concepts, 0 to 7, the one called `label` belongs to, by a hash."""
    return hashlib.sha256(label.encode()).digest()[0] % 8


def is_held_out(label: str) -> bool:
    """Whether the concept called `label` is kept from the training: all of part 0 are."""
    return part(label) == 0


def embed_openmoji(
    encoder: ClipEncoder, seed: int = 0, images_per_class: int = 10
) -> dict[str, ConceptEmbeddings]:
    """Embed two eighths of OpenMoji's concepts, drawings and names: {"taught": those of part 1,
    which the training saw, "held out": those of part 0, which it did not}.

    images_per_class: the most drawings of a concept, sampled with `seed`. Raises AirlibError where
    the packages of OpenMoji are not installed.
    """
    drawings = open_dataset("openmoji")
    parts = {
        "taught": drawings.only(lambda label: part(label) == 1),
        "held out": drawings.only(is_held_out),
    }
    return {
        name: embed_dataset(encoder, chosen, TEMPLATES[0], images_per_class, seed=seed)
        for name, chosen in parts.items()
    }


def load_openmoji_clip(folder: Path = FOLDER) -> ClipEncoder:
    """The CLIP that was trained on OpenMoji, from the weights shipped in the package.

    Raises AirlibError if weights or vocabulary are missing, damaged, or of another network.
    """
    path = folder / f"{NAME}.safetensors"
    tensors, config = load_tensors(path)
    try:
        model = filled("clip", config["model"], tensors, path)
    except (KeyError, TypeError, AirlibError) as error:
        raise AirlibError(f"{path} holds another network; make it with: {COMMAND}") from error
    return ClipEncoder(model, load_tokenizer(folder), "openmoji")


def load_tokenizer(folder: Path = FOLDER) -> SimpleTokenizer:
    """Tokenizer of the taught names' vocabulary: texts -> ids [n, 24], cut after 24 tokens.

    Raises AirlibError if the vocabulary file is missing.
    """
    path = _vocabulary(folder)
    if not path.is_file():
        raise AirlibError(f"{path.name} is missing from the package; make it with: {COMMAND}")
    return SimpleTokenizer(bpe_path=str(path), context_length=CONTEXT_LENGTH)


def write_vocabulary(labels: Sequence[str], folder: Path = FOLDER) -> Path:
    """Write the tokenizer's vocabulary for sentences about `labels` to `folder`; returns its path.

    The same labels give the same bytes.
    """
    words = sorted({word for text in [*TEMPLATES, *labels] for word in text.split()})
    data = gzip.compress(vocabulary_text(words).encode(), mtime=0)
    return write_atomically(_vocabulary(folder), lambda path: path.write_bytes(data))


def _vocabulary(folder: Path) -> Path:
    return folder / "openmoji_bpe.txt.gz"


class OpenMojiClipTask:
    """The training of OpenMoji's CLIP, as a task of `airlib.training.loop`.

    classes: {label: items} of all concepts; those held out are examined only.
    """

    name = NAME

    def __init__(
        self,
        classes: Mapping[str, Sequence[Item]],
        tokenizer: SimpleTokenizer,
        seed: int = 0,
        steps: int = 900,
    ):
        self.seed, self.steps, self.tokenizer = seed, steps, tokenizer
        self.config = model_config(tokenizer.vocab_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, self.name, "weights").initial_seed())
            self.model = build_model(self.config)
        self.modules = {"clip": self.model}
        self.preprocess = ClipPreprocess(SIZE)
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
        )
        read = {label: pictures(items) for label, items in track(classes.items(), "rendering")}
        self.taught = {label: images for label, images in read.items() if not is_held_out(label)}
        self.held_out = {label: images for label, images in read.items() if is_held_out(label)}

    def learning_rate(self, progress: float) -> float:
        """Learning rate at `progress` (0 to 1): linear warm-up to 0.002 over the first 5 %, and a
        cosine down to 2 % of it.
        """
        warm_up = min(1.0, (progress + 1e-3) / 0.05)
        return 2e-3 * warm_up * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        """Contrastive loss of a batch: one drawing each of up to 128 different taught concepts."""
        labels = list(self.taught)
        chosen = [labels[i] for i in torch.randperm(len(labels), generator=rng)[:BATCH]]
        images = torch.stack([_pick(self.taught[label], rng) for label in chosen])
        texts = [_pick(TEMPLATES, rng).format(label) for label in chosen]
        with reduced_precision():
            pixels = self.preprocess(augment(images, rng))
            image_features = self.model.encode_image(
                pixels.contiguous(memory_format=torch.channels_last)
            )
            text_features = self.model.encode_text(self.tokenizer(texts))
        seen, read = (F.normalize(f.float(), dim=-1) for f in (image_features, text_features))
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        return contrastive_loss(scale * seen @ read.T, torch.eye(len(chosen), dtype=torch.bool))

    def after_step(self, step: int) -> None:
        """Do nothing: this training keeps no running average of the weights."""

    def evaluate(self) -> dict[str, float]:
        """Shares of drawings whose own name is the nearest (top1) or among the five nearest (top5):
        of taught and held-out concepts among all names, and of held-out ones among themselves.
        """
        encoder = ClipEncoder(copy.deepcopy(self.model), self.tokenizer, "openmoji")
        names = [*self.taught, *self.held_out]
        return {
            **retrieval(encoder, self.taught, names, "taught_among_all"),
            **retrieval(encoder, self.held_out, names, "held_out_among_all"),
            **retrieval(encoder, self.held_out, list(self.held_out), "held_out_among_held_out"),
        }

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """(state to ship, configuration that rebuilds the network around it)."""
        return self.model.state_dict(), {"model": self.config}


def model_config(vocabulary_size: int) -> dict:
    """Arguments of `open_clip.model.CLIP` for this network: 64 px images, 128-d joint space."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            "width": 128,
            "heads": 4,
            "layers": 1,
        },
    }


def pictures(items: Sequence[Item]) -> Tensor:
    """Read drawings as a tensor [n, 3, 64, 64] in [-1, 1]."""
    images = torch.from_numpy(np.stack([np.array(item.read()) for item in items]))
    images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Distort drawings [n, 3, H, W] in [-1, 1] for the training: resized by 0.8-1.2, turned by up
    to 10 degrees, moved by up to 10 % of the side, in other light. Never mirrored: names say left
    and right.
    """
    n = len(images)
    scale = 0.8 + 0.4 * torch.rand(n, generator=rng)
    angle = math.radians(10) * (2 * torch.rand(n, generator=rng) - 1)
    shift = 0.2 * (2 * torch.rand(n, 2, generator=rng) - 1)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], 2), list(images.shape), False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light = 1 + 0.15 * torch.randn(n, 3, 1, 1, generator=rng)
    return ((moved + 1) * light - 1).clamp(-1, 1)


@torch.no_grad()
def retrieval(
    encoder: ClipEncoder, drawings: dict[str, Tensor], names: Sequence[str], prefix: str
) -> dict[str, float]:
    """How often a drawing's own name is, of all `names`, the nearest or among the five nearest.

    drawings: {name: [n, 3, H, W]}. Returns {"PREFIX_top1": share, "PREFIX_top5": share}.
    """
    texts = encoder.embed_text([TEMPLATES[0].format(name) for name in names])
    hits = []
    for label, images in drawings.items():
        nearest = (encoder.embed_images(images) @ texts.T).topk(min(5, len(names))).indices
        hits.append(nearest == names.index(label))
    ranked = torch.cat(hits)
    return {
        f"{prefix}_top1": ranked[:, 0].float().mean().item(),
        f"{prefix}_top5": ranked.any(dim=1).float().mean().item(),
    }


def _pick(choices: Sequence[Any] | Tensor, rng: torch.Generator) -> Any:
    return choices[int(torch.randint(len(choices), (), generator=rng))]


def train_openmoji_clip(
    seed: int = 0,
    steps: int = 900,
    resume: bool = False,
    directory: Path = Path("runs/train-openmoji"),
    folder: Path = FOLDER,
) -> dict:
    """Train OpenMoji's CLIP, write vocabulary, weights and record to `folder`, return the record.

    resume: continue an interrupted training from its state in `directory`. Raises AirlibError where
    the packages of OpenMoji are not installed.
    """
    classes = open_dataset("openmoji").sample(images_per_class=10)
    write_vocabulary([label for label in classes if not is_held_out(label)], folder)
    task = OpenMojiClipTask(classes, load_tokenizer(folder), seed, steps)
    run = TrainingRun(task, directory, seed)
    if resume:
        run.resume()
    run.run()
    counts = {"concepts": len(classes), "held_out": len(task.held_out)}
    command = f"{COMMAND} --seed {seed} --steps {steps}"
    record = run.publish(folder) | counts | {"command": command}
    write_json(folder / f"{NAME}.json", record)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--resume", action="store_true", help="continue an interrupted training")
    print(train_openmoji_clip(**vars(parser.parse_args()))["metrics"])


if __name__ == "__main__":
    main()
