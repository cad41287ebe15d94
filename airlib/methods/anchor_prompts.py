r"""What an anchor is called: prompts learnt along AIR's chain of anchors, and the ways of table 4.

    chain = AnchorPrompts(space, ("human", "baby"), PromptConfig(), pairs=1000, seed=0)
    P_A, losses = chain.learn(G_S, G_A, p=0.3)       # feature [D] per CLIP model

"previous" (the paper)   dI from the images of the last anchor to those of this one, dP from P of
                         the last anchor; the first one follows the source and its label
"source"                 dI and dP start at the source every time
"images"                 no offsets: a mapper as IPL's finds the prompt of this anchor's images

Work is not repeated: pairs of images share latents and noise, so each anchor's embeddings are the
next one's "previous" ones, and texts are encoded once.
"""

from typing import TypeAlias

from torch import Tensor

from airlib.clip_space.encoder import ClipSpace
from airlib.clip_space.offsets import class_features
from airlib.generators.base import Generator
from airlib.methods.ipl import learn_image_prompt
from airlib.methods.latent_mapper import codes_of
from airlib.methods.prompt_learning import (
    PromptConfig,
    Wording,
    in_context,
    interpolated_prompt,
    learn_prompt,
    mean_direction_of,
)
from airlib.methods.samples import embed_samples

Learnt: TypeAlias = tuple[Tensor, float]  # feature [D], loss that was reached


class AnchorPrompts:
    """The chain of the paper, from anchor to anchor (section 4.2).

    classes: labels of source and target. pairs: images per anchor. seed: of their latents, which
    are the same for every anchor.
    """

    def __init__(
        self, space: ClipSpace, classes: tuple[str, str], config: PromptConfig, pairs: int,
        seed: int,
    ):  # fmt: skip
        self.space, self.classes, self.config = space, classes, config
        self.n, self.seed = pairs, seed
        # Per CLIP model [D], or [K, D] in K templates: where the chain starts, and where it leads.
        self.sources = self.texts(classes[0], config.first_text)
        self.targets = self.texts(classes[1], config.target_text)
        # Of the last anchor, per CLIP model: its prompt [D], and embeddings [n, D] of its images.
        self.prompts: list[Tensor] = list(self.sources)
        self.images: list[Tensor] = []

    def texts(self, label: str, wording: Wording) -> list[Tensor]:
        """Unit features of a label per CLIP model: [D] in one sentence, [K, D] in K templates."""
        if wording == "templates":
            templates = self.config.templates
            return [class_features(e, label, templates) for e in self.space.encoders]
        return [feature[0] for feature in self.space.embed_text([in_context(label)])]

    def learn(self, source: Generator, anchor: Generator, p: float) -> tuple[list[Tensor], list]:
        """P_A [D] per CLIP model of an anchor at progress p, and the losses that were reached."""
        before = self.before(source)
        latents, self.images = self.sample(anchor)
        learnt = [self.learn_one(m, p, before, latents) for m in range(len(self.prompts))]
        self.prompts = [prompt for prompt, _ in learnt]
        return self.prompts, [loss for _, loss in learnt]

    def before(self, source: Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Embeddings [n, D] and prompts [D] or [K, D] per CLIP model that an offset starts from."""
        return self.images or self.embed(source), self.prompts

    def learn_one(
        self, m: int, p: float, before: tuple[list[Tensor], list[Tensor]], latents: Tensor
    ) -> Learnt:
        """Algorithm 2 in CLIP model m."""
        embeddings, prompts = before
        dI = mean_direction_of(self.images[m], embeddings[m])
        encoder = self.space.encoders[m]
        return learn_prompt(encoder, *self.classes, p, dI, prompts[m], self.config)

    def embed(self, generator: Generator) -> list[Tensor]:
        """Embeddings [n, D] per CLIP model, at the same latents and noise each time."""
        return self.sample(generator)[1]

    def sample(self, generator: Generator) -> tuple[Tensor, list[Tensor]]:
        """Latents [n, ...] and embeddings [n, D] per CLIP model of the image pairs' one side."""
        psi = self.config.truncation
        return embed_samples(
            self.space, generator, self.n, self.seed, "prompt pairs", truncation=psi
        )

    def event(
        self, step: int, losses: list[float], directions: list[Tensor], texts: list[Tensor]
    ) -> dict:
        """An anchor for the log: its step, prompt, loss, mean image embedding, and the cosine of
        its direction to the target with that of the text.
        """
        cosines = [float(a @ b) for a, b in zip(directions, texts, strict=True)]
        return {
            "event": "anchor",
            "step": step,
            "prompt_loss": [round(loss, 6) for loss in losses],
            "cos_with_text_direction": [round(cosine, 6) for cosine in cosines],
            "image_mean": [[round(v, 6) for v in x.mean(dim=0).tolist()] for x in self.images],
            "prompt": [[round(v, 6) for v in prompt.tolist()] for prompt in self.prompts],
        }

    def state(self) -> dict[str, Tensor]:
        """Prompts and images of the last anchor, for a checkpoint."""
        prompts = {f"prompt.{m}": prompt for m, prompt in enumerate(self.prompts)}
        return prompts | {f"pairs.{m}": images for m, images in enumerate(self.images)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        models = range(len(self.prompts))
        self.prompts = [state[f"prompt.{m}"] for m in models]
        self.images = [state[f"pairs.{m}"] for m in models]


class PromptsFromSource(AnchorPrompts):
    """Table 4, "S to A_i": every offset starts at the source."""

    def before(self, source: Generator) -> tuple[list[Tensor], list[Tensor]]:
        if not hasattr(self, "source_images"):
            self.source_images = self.embed(source)
        return self.source_images, self.sources


class PromptsFromImages(AnchorPrompts):
    """Table 4, "I to T": the mean of the prompts that a mapper learns for the anchor's images."""

    def before(self, source: Generator) -> tuple[list[Tensor], list[Tensor]]:
        return [], self.sources

    def learn_one(
        self, m: int, p: float, before: tuple[list[Tensor], list[Tensor]], latents: Tensor
    ) -> Learnt:
        encoder, config = self.space.encoders[m], self.config
        prompt = interpolated_prompt(encoder, *self.classes, p, config.mixing)
        codes = codes_of(latents)
        return learn_image_prompt(encoder, prompt, codes, self.images[m], config, self.seed)


CHAINS: dict[str, type[AnchorPrompts]] = {
    "previous": AnchorPrompts,
    "source": PromptsFromSource,
    "images": PromptsFromImages,
}
"""`learn_from` of AIR -> where its prompts come from."""
