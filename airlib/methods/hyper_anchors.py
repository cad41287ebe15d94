r"""AIR's anchors for a hypernetwork: from t_thresh on a second pull, from a nearer starting point.

Ours; nobody published it. One frozen copy of the network is an anchor for every domain i at once,
G(w; d_A(i)). AIR learns a prompt per anchor; here one context [V_1 ... V_M] serves all domains of
the list, so that an anchor costs as much for a hundred domains as for a few:

    P_A(i) = [V_1 ... V_M][Y_i],   Y_i = (1 - p) Y_S + p Y_T(i)      labels mixed by progress p
    dI(i)  = E_I(G(w; d_A(i))) - E_I(G(w))                           mean of unit offsets over w
    dP(i)  = E_T(P_A(i)) - E_T(P_S)
    V      = argmin mean over i of 1 - cos(dI(i), dP(i)),   from "a photo of a", by Adam

    L_adaptive = 1 - cos(E_I(G(w; d_t(i))) - E_I(G(w; d_A(i))), E_T(P_T(i)) - E_T(P_A(i)))

The mean is over a sample of the list. P_S and P_T are "a photo of a" with the label of source and
target. Offsets start at the source, as with `learn_from="source"` of AIR: an anchor then depends on
no other, and none is taken that no later step uses. On the convex hull P_A and P_T are mixed as the
texts are (`Texts.mixed`).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.offsets import directional_loss
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.anchors import AnchorSchedule
from airlib.methods.hyperdomainnet import HyperDomainNet, Texts, draw
from airlib.methods.prompt_learning import in_context, interpolated_prompt, mean_direction_of
from airlib.seeding import rng

TOKENS = 4  # M, the words of "a photo of a"


@dataclass(frozen=True)
class HyperAnchors(AnchorSchedule):
    """When a hypernetwork's anchors are taken (`AnchorSchedule`), and how their prompts are learnt.

    adaptive: weight of L_adaptive. prompt_domains: how many domains of the list the context is
    learnt from; prompt_pairs: latents that each of them is drawn from. prompt_steps,
    prompt_learning_rate: of Adam. Raises AirlibError for numbers that make no sense.
    """

    adaptive: float = 1.0
    prompt_domains: int = 24
    prompt_pairs: int = 8
    prompt_steps: int = 80
    prompt_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.adaptive < math.inf:
            raise AirlibError(f"adaptive must be a weight from 0 up, not {self.adaptive}")
        rate_is_positive = 0 < self.prompt_learning_rate < math.inf  # False for NaN
        if self.prompt_domains < 2 or self.prompt_pairs < 1 or self.prompt_steps < 0:
            raise AirlibError(
                "prompts are learnt from at least 2 domains and 1 pair, in 0 steps or more"
            )
        if not rate_is_positive:
            raise AirlibError(
                f"prompt_learning_rate must be above 0, not {self.prompt_learning_rate}"
            )


class Memory(nn.Module):
    """What a checkpoint keeps of an anchor: the frozen `network`, and `anchored` [N, 2, D], P_A and
    P_T of every domain of the list.
    """

    anchored: Tensor

    def __init__(self, network: HyperDomainNet, n: int):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 0.0  # its running averages stand still, too
        weight = network.entry.weight  # [D, D]
        self.register_buffer("anchored", weight.new_zeros(n, 2, len(weight)))


class HyperAnchor:
    """The anchor of a hypernetwork in training, and L_adaptive from there.

        anchor = HyperAnchor(network, generator, encoder, domains, texts, HyperAnchors(), seed=0)
        texts = anchor.texts_at(step, total)         # of the list, with `anchored` from t_thresh on
        near = draw(generator, anchor.vectors(batch.inputs), latents)

    network: what is trained. generator: one `with_domains`. domains: (source class, target class)
    of each; texts: the same, embedded. seed: of the sampled domains and latents. memory: a module
    that checkpoints have to keep.
    """

    def __init__(
        self, network: HyperDomainNet, generator: StyleGAN2, encoder: ClipEncoder,
        domains: Sequence[tuple[str, str]], texts: Texts, config: HyperAnchors, seed: int,
    ):  # fmt: skip
        self.network, self.generator, self.encoder = network, generator, encoder
        self.domains, self.texts, self.config, self.seed = domains, texts, config, seed
        self.sources, self.targets = (
            encoder.embed_text([in_context(pair[side]) for pair in domains]) for side in (0, 1)
        )
        self.memory = Memory(network, len(domains))

    def texts_at(self, step: int, total: int) -> Texts:
        """The texts of the list at a step, before which an anchor is taken if it is time for one;
        from t_thresh on with the prompts of the last one, `Texts.anchored`.
        """
        taken = self.config.used_anchor_steps(total)
        if step in taken:
            self.take(step / total, rng(self.seed, "hypernetwork anchor", step))
        if taken and step >= taken[0] and self.config.is_past_threshold(step, total):
            return replace(self.texts, anchored=self.memory.anchored)
        return self.texts

    def take(self, progress: float, stream: Rng) -> float:
        """Copy the network and learn the prompts of all domains; returns the loss they reached."""
        self.memory.network.load_state_dict(self.network.state_dict())
        rows = torch.randint(len(self.domains), [self.config.prompt_domains], generator=stream)
        directions = self.image_directions(rows, stream)
        prompts, loss = self.learn(progress, rows, directions)
        self.memory.anchored.copy_(torch.stack([prompts, self.targets], dim=1))
        return loss

    @torch.no_grad()
    def image_directions(self, rows: Tensor, stream: Rng) -> Tensor:
        """dI [len(rows), D] from the source to the anchors of some domains, at common latents."""
        n, embed = self.config.prompt_pairs, self.encoder.embed_images
        latents = self.generator.sample_latents(n, stream)
        source, vectors = embed(self.generator(latents)), self.vectors(self.texts.inputs[rows])
        directions = []
        for i in range(len(rows)):
            own = [v[i : i + 1].expand(n, -1) for v in vectors]
            images = draw(self.generator, own, latents)
            directions.append(mean_direction_of(embed(images), source))
        return torch.stack(directions)

    def learn(self, progress: float, rows: Tensor, directions: Tensor) -> tuple[Tensor, float]:
        """P_A [N, D] of every domain at a progress, and the loss that was reached on `rows`, whose
        images moved along `directions`.
        """
        prompts, ends = mixed_prompts(self.encoder, self.domains, progress)
        context = prompts[:1, 1 : 1 + TOKENS].clone().requires_grad_(True)  # the same in all
        optimizer = torch.optim.Adam([context], lr=self.config.prompt_learning_rate)

        def features(chosen: Tensor) -> Tensor:
            own = prompts[chosen]
            words = context.expand(len(own), -1, -1)
            whole = torch.cat([own[:, :1], words, own[:, 1 + TOKENS :]], dim=1)
            return self.encoder.embed_prompt(whole, ends[chosen])

        def alignment() -> Tensor:
            offsets = features(rows) - self.sources[rows]
            return (1 - F.cosine_similarity(offsets, directions, dim=1)).mean()

        for _ in range(self.config.prompt_steps):
            optimizer.zero_grad()
            alignment().backward()
            optimizer.step()
        with torch.no_grad():
            return features(torch.arange(len(prompts))), alignment().item()

    @torch.no_grad()
    def vectors(self, inputs: Tensor) -> list[Tensor]:
        """d_A of a batch of texts [B, D], B at least 2: [B, C_l] each. Normalised by the statistics
        of this batch, as d_t is, so that the two differ by the training since the anchor alone.
        """
        return self.memory.network(inputs)

    def loss(self, adapted: Tensor, anchor: Tensor, texts: Texts) -> Tensor:
        """L_adaptive with its weight, for image embeddings [B, D] of now and of the anchor; `texts`
        has `anchored`.
        """
        assert texts.anchored is not None
        directions = texts.anchored[:, 1] - texts.anchored[:, 0]
        return self.config.adaptive * directional_loss(adapted - anchor, directions)


@torch.no_grad()
def mixed_prompts(
    encoder: ClipEncoder, domains: Sequence[tuple[str, str]], progress: float
) -> tuple[Tensor, Tensor]:
    """Token embeddings [N, L, W] of "a photo of a [label]", each domain's label at the same
    progress from its source class to its target class, and their end-of-text index [N].
    """
    found = [interpolated_prompt(encoder, s, t, progress, "label") for s, t in domains]
    prompts = pad_sequence([prompt[0] for prompt, _ in found], batch_first=True)
    return prompts, torch.cat([end for _, end in found])  # nothing reads behind the end of text
