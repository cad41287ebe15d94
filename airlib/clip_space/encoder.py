"""CLIP encoders: images and sentences in, unit vectors out.

`ClipEncoder` freezes one open_clip model and offers three ways in: images, sentences, and sentences
whose token embeddings somebody else has changed (`token_embeddings` then `embed_prompt`), which is
how prompts are learnt. `ClipSpace` is a weighted set of encoders, since StyleGAN-NADA's loss is a
sum over CLIP models. Everything is float32: half precision would leave an error of about 1e-3 on a
unit vector, as large as the first differences between a generator and its copy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from airlib.checkpoints.configs import checked
from airlib.checkpoints.importing import read
from airlib.clip_space.preprocessing import ClipPreprocess
from airlib.clip_space.templates import checked_texts
from airlib.errors import AirlibError


class ClipEncoder:
    """One frozen CLIP model.

    model: an `open_clip.model.CLIP`; it is put in evaluation mode, frozen and cast to float32.
    tokenizer: texts -> token ids [n, context], the end-of-text id being the largest of each row.
    antialias: see `ClipPreprocess`.
    """

    def __init__(
        self,
        model: CLIP,
        tokenizer: SimpleTokenizer,
        name: str,
        antialias: bool = True,
    ):
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        size = model.visual.image_size
        self.preprocess = ClipPreprocess(size if isinstance(size, int) else size[0], antialias)
        if any(isinstance(module, nn.BatchNorm2d) for module in model.visual.modules()):
            model.visual.to(memory_format=torch.channels_last)  # a ResNet, twice as fast on CPU
        self._text_cache: dict[tuple[str, ...], Tensor] = {}

    @classmethod
    def untrained(cls, name: str, antialias: bool = True) -> "ClipEncoder":
        """OpenAI's architecture `name` with random weights: for runs that only check sizes."""
        architecture = _architecture(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = CLIP(**open_clip.get_model_config(architecture))
        tokenizer = open_clip.get_tokenizer(architecture)
        return cls(model, tokenizer, f"{name} (random weights)", antialias)

    @classmethod
    def openai(cls, name: str, weights: str | Path, antialias: bool = True) -> "ClipEncoder":
        """An OpenAI model, e.g. "ViT-B-32", or one that was fine-tuned, from its local weight file.

        weights: OpenAI's own archive, a state in .pt or .safetensors (see
        `airlib.checkpoints.clip_states`), or what `airlib import` made of one. The architecture is
        open_clip's "<name>-quickgelu", as OpenAI trained with QuickGELU; a file that was trained
        with GELU is run with GELU. Raises AirlibError if the file is missing, damaged, or of
        another architecture.
        """
        architecture = _architecture(name)
        config, state = _read(name, Path(weights))
        activation = {"quick_gelu": config.get("quick_gelu", True)}
        model = CLIP(**open_clip.get_model_config(architecture) | activation)
        tokenizer = open_clip.get_tokenizer(architecture)
        return cls(_loaded(model, state, weights), tokenizer, name, antialias)

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.model.logit_scale.device

    def to(self, device: str | torch.device) -> "ClipEncoder":
        """Move the model to `device`, in place, and forget cached text; returns the encoder."""
        self.model.to(device)
        self._text_cache.clear()
        return self

    def embed_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1], on any device -> unit vectors [B, D], differentiable."""
        return self.embed_pixels(self.preprocess(images.to(self.device)))

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Images that `preprocess` has seen -> unit vectors [B, D], differentiable."""
        return F.normalize(self.model.encode_image(pixels), dim=-1)

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Sentences -> unit vectors [B, D]; each list of sentences is encoded once.

        A sentence ends in other last bits in another batch. Lists are therefore kept as a whole:
        the same call gives the same bits, whatever was embedded before. Raises AirlibError for what
        is no list of texts with something to read in each.
        """
        texts = checked_texts(texts)
        sentences = tuple(dict.fromkeys(texts))
        if sentences not in self._text_cache:
            self._text_cache[sentences] = self.embed_prompt(*self.token_embeddings(sentences))
        rows = [sentences.index(text) for text in texts]
        return self._text_cache[sentences][rows]

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sentences -> (token embeddings [B, L, W] without positions, end-of-text index [B]).

        L is the length of the longest sentence, not CLIP's full context: attention is causal, so
        nothing after the end-of-text token can reach it. Raises AirlibError for a sentence that
        does not fit in the context, which the tokenizer would cut without a word, and for what is
        no list of texts with something to read in each.
        """
        texts = checked_texts(texts)
        tokens = self.tokenizer(texts).to(self.device)
        context = tokens.shape[1]
        for text in texts:
            if (length := len(self.tokenizer.encode(text)) + 2) > context:
                raise AirlibError(
                    f"CLIP {self.name} reads {context} tokens at most and this text has {length}; "
                    f"shorten it: {text!r}"
                )
        end_of_text = tokens.argmax(dim=1)
        tokens = tokens[:, : int(end_of_text.max()) + 1]
        return self.model.token_embedding(tokens), end_of_text

    def embed_prompt(self, embeddings: Tensor, end_of_text: Tensor) -> Tensor:
        """Token embeddings [B, L, W] and end-of-text index [B] -> unit vectors [B, D].

        Differentiable with respect to the embeddings. The feature is read at the given index,
        whatever the embedding there has become.
        """
        return F.normalize(self.prompt_features(embeddings, end_of_text), dim=-1)

    def prompt_features(self, embeddings: Tensor, end_of_text: Tensor) -> Tensor:
        """Token embeddings [B, L, W] and end-of-text index [B] -> features [B, D], not normalised.

        The vectors of `embed_prompt` before they are scaled to unit length; differentiable.
        """
        model, length = self.model, embeddings.shape[1]
        x = embeddings + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), end_of_text]
        return x @ model.text_projection


class ClipSpace:
    """Several CLIP models with weights; losses are weighted sums over them.

    Models of weight zero are dropped instead of being run for nothing.
    """

    def __init__(self, encoders: Sequence[tuple[ClipEncoder, float]]):
        kept = [(encoder, float(weight)) for encoder, weight in encoders if weight != 0]
        if not kept:
            raise AirlibError("a CLIP space needs at least one model with a weight other than 0")
        self.encoders = [encoder for encoder, _ in kept]
        self.weights = [weight for _, weight in kept]

    def embed_images(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [-1, 1], on any device -> one [B, D_m] per model; equal resizes are done
        once.
        """
        images = images.to(self.encoders[0].device)
        pixels: dict[ClipPreprocess, Tensor] = {}
        for encoder in self.encoders:
            if encoder.preprocess not in pixels:
                pixels[encoder.preprocess] = encoder.preprocess(images)
        return [encoder.embed_pixels(pixels[encoder.preprocess]) for encoder in self.encoders]

    def embed_text(self, texts: Sequence[str]) -> list[Tensor]:
        """Sentences -> one [B, D_m] per model."""
        return [encoder.embed_text(texts) for encoder in self.encoders]

    def weighted(self, loss: Callable[..., Tensor], *per_model: Sequence[Tensor]) -> Tensor:
        """A loss over all CLIP models: sum_m weight_m * loss(a[m], b[m], ...), m counting models.

            space.weighted(directional_loss, offsets, directions)

        per_model: the arguments of `loss`, each a list with one entry per model.
        """
        terms = [
            weight * loss(*arguments)
            for weight, *arguments in zip(self.weights, *per_model, strict=True)
        ]
        return torch.stack(terms).sum(0)


def _architecture(name: str) -> str:
    architecture = f"{name}-quickgelu"
    if architecture not in open_clip.list_models():
        raise AirlibError(f"open_clip has no model {architecture!r}; use a name like ViT-B-32")
    if any(key.startswith("hf_") for key in open_clip.get_model_config(architecture)["text_cfg"]):
        raise AirlibError(
            f"the tokenizer of {architecture!r} is on a hub, which airlib does not open; use a "
            "model with CLIP's own, such as ViT-B-32"
        )
    return architecture


def _read(name: str, path: Path) -> tuple[dict, dict[str, Tensor]]:
    """(Configuration, tensors) of a CLIP's weight file; nothing in it is executed."""
    if not path.is_file():
        raise AirlibError(f"the weights of CLIP {name} are not at {path}; fetch them first")
    imported = read(path)
    if imported.kind != "clip":
        raise AirlibError(f"{path} holds another network than CLIP; give the weights of {name}")
    return checked("clip", imported.config), imported.tensors


def _loaded(model: CLIP, state: dict[str, Tensor], source: str | Path) -> CLIP:
    """`model`, filled with `state`; AirlibError, which names `source`, if it is of another."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AirlibError(
            f"{source} holds the weights of another architecture; check the model name"
        ) from error
    return model
