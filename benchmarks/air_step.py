"""How much work AIR takes here, compared with the loop of its official code, at equal losses; and
what a whole run of NADA, IPL, SVL and AIR takes.

    python benchmarks/air_step.py

Counted, by hooks, with the batch size of every forward pass: images made by a generator, images
encoded by CLIP, sentences encoded by CLIP. The four methods adapt the same networks with the same
settings, each with a fifth of its own numbers (IPL 60 mapper steps of batch 32; SVL 400 variation
steps, 10 Fisher samples); what they do before the first step counts. Figures are shares of NADA's.

Of AIR, both sides adapt the same random networks with the same
latents, noise and settings, a fifth of the official "human -> baby" script (201 steps, anchors
every 20 from 100 on, 1,000 pairs, 200 prompt steps):

    40 steps of batch 2, anchors every 4 from step 20 on, 200 pairs, 40 prompt steps, all layers

`OfficialLoop` does what the official loop does, wastes included:
- before every step, layer selection on 8 images, although all k = num_layers layers are then
  chosen; the target sentence is encoded again each time
- the adapted image is encoded once for each of the two losses
- every 5 steps, 50 source and 50 adapted images are made and encoded for the log
- every 4 steps, from step 4 to the end, 200 images of the previous anchor and 200 of the current
  generator are made and each is encoded twice; five of the ten times nothing is done with them
  (too early, or after the last step)
- five identical copies of the prompt are learnt

Left out on that side, which flatters it: evaluation images, preview grids, encoding sentences to
their full 77 tokens, weight gradients during selection. Wherever paper and official code differ
in the objective, both sides follow the paper: one prompt as previous text, only the label
interpolated, an anchor taken before its step, anchor pairs with the same noise for both generators.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from airlib.adaptation import AdaptationConfig, adapt
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.clip_space.offsets import text_direction
from airlib.clip_space.templates import NADA_TEMPLATES
from airlib.generators.base import images_at_once
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.air import AIR, AIRConfig
from airlib.methods.ipl import IPL, IPLConfig
from airlib.methods.nada import NADA
from airlib.methods.prompt_learning import CONTEXT, interpolated_prompt
from airlib.methods.svl import SVL, SVLConfig
from airlib.parameterizations.stylegan2 import SELECTION_BATCH, adaptive_layers, synthesis
from airlib.seeding import rng
from airlib.tinyworld import tiny_clip

CLASSES = "human", "dog"
CONFIG = AdaptationConfig(steps=40, batch=2, learning_rate=0.0016, noise="independent")
NUMBERS = AIRConfig(
    t_thresh=0.5, t_int=0.1, prompt_pairs=200, prompt_steps=40, chain_start="t_thresh"
)
LOG_EVERY, LOGGED, COPIES = 5, 50, 5
COUNTED = ("generator", "clip images", "clip texts")
METHODS = {
    "nada": lambda space: NADA(space, *CLASSES),
    "ipl": lambda space: IPL(space, *CLASSES, IPLConfig(mapper_steps=60)),
    "svl": lambda space: SVL(space, *CLASSES, SVLConfig(variation_steps=400, fisher_samples=10)),
    "air": lambda space: AIR(space, *CLASSES, NUMBERS, seed=CONFIG.seed),
}


def networks() -> tuple[StyleGAN2, ClipEncoder]:
    """A 16 px generator and a 16 px CLIP with random weights."""
    torch.manual_seed(0)
    generator = StyleGAN2(
        StyleGAN2Config(16, z_dim=16, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2)
    )
    for layer in generator.synthesis.layers:
        layer.noise_strength.data.fill_(0.1)
    tokenizer = tiny_clip.load_tokenizer()
    image = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": tiny_clip.CONTEXT_LENGTH, "vocab_size": tokenizer.vocab_size}
    model = CLIP(32, image, text | {"width": 32, "heads": 2, "layers": 1})
    return generator.requires_grad_(False).eval(), ClipEncoder(model, tokenizer, "random")


@contextmanager
def counting(encoder: ClipEncoder) -> Iterator[Counter]:
    """Counts rows of every batch that enters a generator, CLIP's image tower or its text tower."""
    towers = {id(encoder.model.visual): "clip images", id(encoder.model.transformer): "clip texts"}
    counts: Counter = Counter()

    def count(module: nn.Module, inputs: tuple) -> None:
        name = "generator" if isinstance(module, StyleGAN2) else towers.get(id(module))
        if name:
            counts[name] += len(inputs[0])

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield counts
    hook.remove()


def ours(source: StyleGAN2, encoder: ClipEncoder) -> list[float]:
    """The total loss of every step of `airlib`."""
    space = ClipSpace([(encoder, 1.0)])
    objective = AIR(space, *CLASSES, NUMBERS, seed=CONFIG.seed)
    parameterization = adaptive_layers(source.num_layers, space, CLASSES[1])
    log = adapt(source, space, objective, parameterization, CONFIG).log
    return [e["direction"] + e.get("adaptive", 0.0) for e in log if "direction" in e]


def whole_run(method: str) -> dict[str, float]:
    """Processor seconds and counted evaluations of one adaptation of all weights."""
    source, encoder = networks()
    space = ClipSpace([(encoder, 1.0)])
    start = time.process_time()
    with counting(encoder) as counted:
        adapt(source, space, METHODS[method](space), synthesis(), CONFIG)
    return {"seconds": time.process_time() - start, **{row: counted[row] for row in COUNTED}}


def compare_methods() -> dict[str, float]:
    """Prints what every method takes; returns the figures as shares of NADA's."""
    whole_run("nada")  # the first run of a process is slower
    runs, figures = {method: whole_run(method) for method in METHODS}, {}
    print(f"{'whole run':16}" + "".join(f"{method:>10}" for method in METHODS))
    for row in ("seconds", *COUNTED):
        print(f"{row:16}" + "".join(f"{run[row]:10,.4g}" for run in runs.values()))
        for method in ("ipl", "svl", "air"):
            key = f"{method}_{row.replace(' ', '_')}_of_nada"
            figures[key] = round(runs[method][row] / runs["nada"][row], 3)
    return figures


def cosine_loss(offsets: Tensor, direction: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(offsets, direction, dim=-1)).mean()


class OfficialLoop:
    """The official loop with the inputs of `airlib`; see the module's description."""

    def __init__(self, source: StyleGAN2, encoder: ClipEncoder):
        self.source, self.encoder, self.adapted = source, encoder, source.copy_frozen()
        self.direction = text_direction(encoder, *CLASSES, NADA_TEMPLATES)
        self.target = self.encode_text(f"{CONTEXT} {CLASSES[1]}")
        self.prompt = self.encode_text(f"{CONTEXT} {CLASSES[0]}")
        self.layers = [self.adapted.layer(i) for i in range(source.num_layers)]
        parameters = [p for layer in self.layers for p in layer.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=CONFIG.learning_rate, betas=CONFIG.betas)
        self.previous, self.anchor, self.adaptive_direction = source, None, None

    def encode_text(self, text: str) -> Tensor:
        """Unit feature [D], encoded anew in every call."""
        with torch.no_grad():
            return self.encoder.embed_prompt(*self.encoder.token_embeddings([text]))[0]

    def run(self) -> list[float]:
        """The total loss of every step."""
        losses, interval = [], round(NUMBERS.t_int * CONFIG.steps)
        for index in range(CONFIG.steps):
            if index and index % interval == 0:
                self.measure_anchor(index)
            losses.append(self.step(index))
            if index % LOG_EVERY == 0:
                self.log(index)
        self.measure_anchor(CONFIG.steps)
        return losses

    def step(self, index: int) -> float:
        self.select_layers(index)
        latents = self.source.sample_latents(
            CONFIG.batch, rng(CONFIG.seed, "adapt", index, "latents")
        )

        def images(generator: StyleGAN2, who: str) -> Tensor:
            stream = rng(CONFIG.seed, "step", index, "noise", who)
            return generator(latents, generator.sample_noise(CONFIG.batch, stream))

        with torch.no_grad():
            source = images(self.source, "source")
        adapted = images(self.adapted, "adapted")
        embed = self.encoder.embed_images
        loss = cosine_loss(embed(adapted) - embed(source), self.direction)
        if self.anchor is not None:
            with torch.no_grad():
                anchor = embed(images(self.anchor, "anchor"))
            loss = loss + cosine_loss(embed(adapted) - anchor, self.adaptive_direction)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def select_layers(self, index: int) -> None:
        """Scores all entries of w+ and chooses the k = num_layers best ones: all."""
        stream = rng(CONFIG.seed, "adapt", index, "selection")
        start = self.source.sample_latents(SELECTION_BATCH, stream)
        latents = start.clone().requires_grad_(True)
        self.adapted.requires_grad_(False)
        images = self.adapted(latents, self.adapted.sample_noise(SELECTION_BATCH, stream))
        similarity = self.encoder.embed_images(images) @ self.encode_text(CLASSES[1])
        optimizer = torch.optim.SGD([latents], lr=0.01)
        (1 - similarity).mean().backward()
        optimizer.step()
        scores = (latents - start).abs().mean(dim=(0, 2))
        for i in scores.topk(len(self.layers)).indices:
            self.layers[i].requires_grad_(True)

    @torch.no_grad()
    def log(self, index: int) -> None:
        """The log's images: fifty of the source and fifty of the adapted generator."""
        latents = self.source.sample_latents(LOGGED, rng(CONFIG.seed, "log"))
        for generator in (self.source, self.adapted):
            noise = generator.sample_noise(LOGGED, rng(CONFIG.seed, "log", index))
            self.encoder.embed_images(generator(latents, noise))

    def measure_anchor(self, index: int) -> None:
        """Pairs of previous anchor and current generator; used from threshold to end."""
        before, now = self.embed_pairs(self.previous), self.embed_pairs(self.adapted)
        if not NUMBERS.t_thresh * CONFIG.steps <= index < CONFIG.steps:
            return
        offsets = F.normalize(now - before, dim=1).mean(dim=0)
        self.prompt = self.learn_prompt(F.normalize(offsets, dim=0), index / CONFIG.steps)
        self.adaptive_direction = F.normalize(self.target - self.prompt, dim=0)
        self.anchor = self.adapted.copy_frozen()
        self.previous = self.adapted.copy_frozen()

    @torch.no_grad()
    def embed_pairs(self, generator: StyleGAN2) -> Tensor:
        """Embeddings of the fixed latents' images, each encoded twice and used once."""
        features, batch = [], images_at_once(generator)
        for start in range(0, NUMBERS.prompt_pairs, batch):
            stream = rng(CONFIG.seed, "prompt pairs", start)
            latents = generator.sample_latents(batch, stream)
            images = generator(latents, generator.sample_noise(batch, stream))
            for _ in range(2):
                embeddings = self.encoder.embed_images(images)
            features.append(embeddings)
        return torch.cat(features)

    def learn_prompt(self, image_direction: Tensor, progress: float) -> Tensor:
        """Five equal copies of the context are learnt, and their features averaged."""
        prompt, end = interpolated_prompt(self.encoder, *CLASSES, progress, "label")
        first, label = NUMBERS.prompt.tokens, prompt.shape[1] - 1 - NUMBERS.prompt.tokens
        start, context, rest = prompt.repeat(COPIES, 1, 1).split([1, first, label], dim=1)
        context = context.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([context], lr=NUMBERS.prompt.learning_rate)

        def feature() -> Tensor:
            sequences = torch.cat([start, context, rest], dim=1)
            features = self.encoder.embed_prompt(sequences, end.expand(COPIES))
            return F.normalize(features.mean(dim=0), dim=0)

        for _ in range(NUMBERS.prompt.steps):
            optimizer.zero_grad()
            cosine_loss((feature() - self.prompt)[None], image_direction).backward()
            optimizer.step()
        return feature().detach()


def compare_with_official() -> dict[str, float]:
    """Prints what AIR takes on both sides; returns the ratios and how far the losses are apart."""
    counts, losses = {}, {}
    for name, run in (("airlib", ours), ("official", lambda *pair: OfficialLoop(*pair).run())):
        source, encoder = networks()
        with counting(encoder) as counted:
            losses[name] = run(source, encoder)
        counts[name] = counted
    print(f"{'forward passes':16}{'airlib':>10}{'official':>10}{'ratio':>8}")
    ratios = {row: counts["airlib"][row] / counts["official"][row] for row in COUNTED}
    for row in COUNTED:
        mine, theirs = counts["airlib"][row], counts["official"][row]
        print(f"{row:16}{mine:10,}{theirs:10,}{ratios[row]:8.3f}")
    images = {name: c["generator"] + c["clip images"] for name, c in counts.items()}
    pairs = zip(losses["airlib"], losses["official"], strict=True)
    return {
        "evaluations_ratio": round(images["airlib"] / images["official"], 4),
        "generator_ratio": round(ratios["generator"], 4),
        "clip_ratio": round(ratios["clip images"], 4),
        "text_ratio": round(ratios["clip texts"], 4),
        "max_loss_difference": max(abs(a - b) for a, b in pairs),
    }


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps(compare_methods() | compare_with_official()))


if __name__ == "__main__":
    main()
