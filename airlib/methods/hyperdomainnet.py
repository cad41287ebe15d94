"""HyperDomainNet (Alanov et al. 2022, section 4): one network predicts the domain vector of a text.

    d = 1 + D(E_T(t))                       a factor per input channel, see `domain_vector`
    x_i = G(w_i; d_i)                       every image of a batch has its own domain
    L = L_direction + a L_tt + b L_norm     a, b: `HyperConfig`

    vectors = network(texts)                            # list of [B, C_l]
    images = draw(with_domains(generator), vectors, latents)

L_direction asks each image to move as its text does; L_tt (`target_target_direction`) asks two
images of a batch to differ as their texts do, without which the network learns an average of its
domains; L_norm keeps vectors near one. Trained on a list of domains it knows those; on their convex
hull, with the target embeddings shaken (`Texts.mixed`), it learns to read texts it never saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipEncoder
from airlib.clip_space.offsets import class_features, directional_loss
from airlib.errors import AirlibError
from airlib.generators.base import Noise
from airlib.generators.stylegan2 import StyleGAN2
from airlib.methods.regularizers import domain_norm, target_target_direction

SMALL_START = 0.01  # factor of the initial weights: vectors begin near one


class ResidualBlock(nn.Module):
    """Two linear layers with batch normalisation around a skip connection: [B, N] -> [B, N]."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.first_norm = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.second, self.second_norm = nn.Linear(width, width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class HyperDomainNet(nn.Module):
    """Unit text embeddings [B, text_width] -> domain vectors, one [B, C_l] for each of `widths`.

    A backbone and a head per layer, both of residual blocks. The paper's network has depths 10 and
    5 (44.0 million numbers at 1024 pixels), the official code's public configurations 4 and 2 (13.9
    million). Batches of at least 2 in training mode, because of its batch normalisation.
    """

    def __init__(
        self, widths: Sequence[int], text_width: int = 512, backbone_depth: int = 10,
        head_depth: int = 5,
    ):  # fmt: skip
        super().__init__()
        self.config = {
            "widths": list(widths), "text_width": text_width,
            "backbone_depth": backbone_depth, "head_depth": head_depth,
        }  # fmt: skip
        n = text_width
        self.entry, self.entry_norm = nn.Linear(n, n), nn.BatchNorm1d(n)
        self.backbone = nn.Sequential(*(ResidualBlock(n) for _ in range(backbone_depth - 1)))
        self.heads = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(n) for _ in range(head_depth - 1)), nn.Linear(n, width))
            for width in widths
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                module.weight.data.mul_(SMALL_START)
                nn.init.zeros_(module.bias)

    def forward(self, texts: Tensor) -> list[Tensor]:
        x = self.backbone(self.entry_norm(F.relu(self.entry(texts))))
        return [1 + head(x) for head in self.heads]


def with_domains(generator: StyleGAN2) -> StyleGAN2:
    """A frozen copy whose layers take domain vectors (before demodulation, as in the paper)."""
    copy = generator.copy_frozen()
    for layer in copy.synthesis.layers:
        layer.add_domain("pre").requires_grad_(False)
    return copy


def domain_names(generator: StyleGAN2) -> list[str]:
    """What the domain vectors of a generator are called, coarse to fine, if it has them or not."""
    names = {id(module): name for name, module in generator.named_modules()}
    return [f"{names[id(layer)]}.domain" for layer in generator.synthesis.layers]


def draw(
    generator: StyleGAN2, vectors: Sequence[Tensor], latents: Tensor, noise: Noise = None
) -> Tensor:
    """Images [B, 3, H, W] of a generator `with_domains`, image i in the domain of row i of
    `vectors` ([B, C_l] each); differentiable in them.
    """
    state = dict(zip(domain_names(generator), vectors, strict=True))
    return torch.func.functional_call(generator, state, (latents, noise))


@dataclass(frozen=True)
class Texts:
    """Domains in words, embedded once: T and S in K templates, and what the network reads.

    inputs [N, D]: the target alone; targets, sources [N, K, D]. anchored [N, 2, D]: prompt of the
    anchor and of the target, if there is an anchor (`hyper_anchors`). All of unit length.
    """

    inputs: Tensor
    targets: Tensor
    sources: Tensor
    anchored: Tensor | None = None

    @classmethod
    def of(
        cls, encoder: ClipEncoder, domains: Sequence[tuple[str, str]], templates: Sequence[str]
    ) -> "Texts":
        """domains: (source class, target class) of each."""
        if not domains:
            raise AirlibError("a hypernetwork needs at least one domain")
        inputs = encoder.embed_text([target for _, target in domains])
        targets = torch.stack([class_features(encoder, t, templates) for _, t in domains])
        known = {s: class_features(encoder, s, templates) for s, _ in domains}
        return cls(inputs, targets, torch.stack([known[source] for source, _ in domains]))

    def drawn(self, n: int, rng: Rng) -> "Texts":
        """n domains of the list, with replacement."""
        rows = torch.randint(len(self.inputs), [n], generator=rng)
        anchored = None if self.anchored is None else self.anchored[rows]
        return Texts(self.inputs[rows], self.targets[rows], self.sources[rows], anchored)

    def mixed(self, n: int, rng: Rng, nearest: float) -> "Texts":
        """n points of the convex hull of n drawn domains, each mostly near one or two of them.

        Weights are drawn from a Dirichlet distribution with concentration 2 / n. Then each target
        embedding u is replaced by a random one with a cosine to u between `nearest` and 1.
        """
        chosen = self.drawn(n, rng)
        gamma = torch._standard_gamma(torch.full([n, n], 2.0 / n), generator=rng)
        weights = F.normalize(gamma + 1e-12, p=1, dim=1).to(self.inputs)
        inputs = F.normalize(weights @ chosen.inputs, dim=-1)

        def mix(part: Tensor) -> Tensor:
            return F.normalize(torch.einsum("ij,jkd->ikd", weights, part), dim=-1)

        targets = shaken(mix(chosen.targets), nearest, rng)
        anchored = None if chosen.anchored is None else mix(chosen.anchored)
        return Texts(inputs, targets, mix(chosen.sources), anchored)


def shaken(unit: Tensor, nearest: float, rng: Rng) -> Tensor:
    """Random unit vectors [..., D] whose cosine with `unit` is uniform in [nearest, 1]."""
    if not -1 <= nearest <= 1:
        raise AirlibError(f"a cosine lies between -1 and 1, not at {nearest}")
    noise = (2 * torch.rand(unit.shape, generator=rng) - 1).to(unit)
    across = F.normalize(noise - (noise * unit).sum(-1, keepdim=True) * unit, dim=-1)
    cosine = nearest + (1 - nearest) * torch.rand([*unit.shape[:-1], 1], generator=rng).to(unit)
    return cosine * unit + (1 - cosine.square()).clamp(min=0).sqrt() * across


@dataclass(frozen=True)
class HyperConfig:
    """Weights of the losses and what is trained on; defaults are those of the large network."""

    tt_direction: float = 0.4
    norm: float = 0.8  # of `domain_norm` as in the code
    convex: bool = True  # the convex hull of the list (an open set), or the list alone
    nearest: float = 0.75  # cosine; see `Texts.mixed`


def hyper_losses(
    source: Tensor, adapted: Tensor, texts: Texts, vectors: Sequence[Tensor], config: HyperConfig
) -> dict[str, Tensor]:
    """The terms of L for image embeddings [B, D], image i adapted to row i of `texts`."""
    directions = (texts.targets - texts.sources).mean(dim=1)
    return {
        "direction": directional_loss(adapted - source, directions),
        "tt_direction": config.tt_direction * target_target_direction(adapted, texts.targets),
        "norm": config.norm * domain_norm(vectors, "code"),
    }
