"""LoRA (Hu et al. 2022) in the UNet of a diffusion generator: W + B A, where A and B are trained.

    adapt(source, space, objective, lora(4), config)
    world.adapt("nada", pair, parameterization="lora4_attention")

AIR adapts its diffusion model by LoRA and names neither rank nor layers. Attention alone is little:
the ADM of P2 has four attentions, all at 16 pixels and below, and texture is drawn above them. The
default therefore covers the convolutions as well. `coverage` counts.

peft does the work: it wraps each chosen layer and keeps its weight as `base_layer`. For a
convolution A is a convolution of the same kernel to `rank` channels and B a 1x1 convolution, which
is the same as a matrix of that rank. The scale is 1 (alpha = rank), so the shapes of an adapter say
everything about it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.generators.diffusion import DiffusionGenerator
from airlib.parameterizations.base import Parameterization

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

TARGETS = ("convolutions", "attention")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # the matrices of one attention
_FIRST, _SECOND = ".lora_A.default.weight", ".lora_B.default.weight"  # what peft calls A and B


class Lora(Parameterization):
    """LoRA as a parameterization: adapters of one rank beside the weights of a UNet.

    rank, targets, seed: as in `lora`, which makes it.
    """

    def __init__(self, rank: int, targets: Iterable[str], seed: int) -> None:
        self.rank, self.targets, self.seed = rank, tuple(targets), seed
        if not self.targets or not set(self.targets) <= set(TARGETS):
            known = ", ".join(TARGETS)
            raise AirlibError(f"unknown targets {self.targets} of LoRA; choose from {known}")
        if rank < 1:
            raise AirlibError(f"LoRA of rank {rank} trains nothing; choose a rank of at least 1")
        suffix = "" if set(self.targets) == set(TARGETS) else f"_{self.targets[0]}"
        super().__init__(f"lora{rank}{suffix}", self._insert, kind=DiffusionGenerator)

    @property
    def family(self) -> str:
        return "lora"

    def _insert(self, adapted: DiffusionGenerator) -> dict[str, nn.Parameter]:
        """Wrap the layers; A is random, B is 0."""
        from peft import LoraConfig, inject_adapter_in_model

        names = layers_of(adapted.unet, self.targets)
        if not names:
            return {}
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=names)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            inject_adapter_in_model(config, adapted.unet)
        return {name: p for name, p in adapted.named_parameters() if ".lora_" in name}

    def mixed(
        self,
        neutral: Mapping[str, Tensor],
        states: Sequence[Mapping[str, Tensor]],
        shares: Sequence[float],
    ) -> tuple[Parameterization, dict[str, Tensor]]:
        """One adapter that adds sum_i shares_i B_i A_i to the weights: its rank is the sum of all
        ranks, its targets are those of all. In a layer that an adapter lacks it counts as zeros.
        """
        combined = combine_lora(states, shares)
        return lora_of(combined), combined


def lora(rank: int = 4, targets: Sequence[str] = TARGETS, seed: int = 0) -> Lora:
    """LoRA (Hu et al. 2022) for diffusion models: adapters of `rank` on convolutions, attention, or
    both. seed: of the random half of an adapter; the other half starts at 0.

    The adapted generator starts as the source, bit for bit. The adaptation holds the adapters only.
    Raises AirlibError for a rank below 1 and for unknown targets.
    """
    return Lora(rank, targets, seed)


def lora_of(tensors: Mapping[str, Tensor]) -> Lora:
    """The LoRA that tensors of an adapter belong to: rank and targets, read from their shapes."""
    ranks = {name.removesuffix(_FIRST): len(v) for name, v in tensors.items() if _FIRST in name}
    kinds = {"attention" if name.endswith(ATTENTION) else "convolutions" for name in ranks}
    return lora(max(ranks.values()), [target for target in TARGETS if target in kinds])


def layers_of(unet: "UNet2DModel", targets: Iterable[str]) -> list[str]:
    """Names of the layers that `targets` stand for, all within the blocks of the UNet.

    "convolutions": those of residual, downsampling and upsampling blocks, 1x1 shortcuts included.
    "attention": the four matrices of every attention.
    """
    from diffusers.models.attention_processor import Attention

    targets, names = set(targets), []
    for name, module in unet.named_modules():
        if "convolutions" in targets and isinstance(module, nn.Conv2d) and "block" in name:
            names.append(name)
        if "attention" in targets and isinstance(module, Attention):
            names += [f"{name}.{part}" for part in ATTENTION]
    return names


def combine_lora(
    states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
) -> dict[str, Tensor]:
    """The tensors of one adapter that adds sum_i shares_i B_i A_i to the weights.

    states: those of the adapters, of any ranks and layers. The result has the sum of their ranks in
    every layer that any of them has; where an adapter has none, its part is zeros.
    """
    layers = {key.removesuffix(_FIRST) for state in states for key in state if key.endswith(_FIRST)}
    combined = {}
    for a, b in ((layer + _FIRST, layer + _SECOND) for layer in sorted(layers)):
        like = next(state for state in states if a in state)
        first, second = [], []
        for state, share in zip(states, shares, strict=True):
            rank = next(len(value) for key, value in state.items() if key.endswith(_FIRST))
            nothing = like[b].new_zeros(len(like[b]), rank, *like[b].shape[2:])
            first.append(state.get(a, like[a].new_zeros(rank, *like[a].shape[1:])))
            second.append(share * state.get(b, nothing))
        combined[a], combined[b] = torch.cat(first), torch.cat(second, dim=1)
    return combined


def coverage(generator: DiffusionGenerator, rank: int = 4) -> dict[str, dict[str, int]]:
    """How much LoRA of `rank` would train of `generator`, which stays as it is.

    {"attention", "convolutions" or "convolutions + attention": {"layers": how many layers get an
    adapter, "numbers": how many numbers are trained}}.
    """
    counts = {}
    for targets in (("attention",), ("convolutions",), TARGETS):
        trainable = lora(rank, targets).attach(generator.copy_frozen())
        numbers = sum(p.numel() for p in trainable.values())
        counts[" + ".join(targets)] = {"layers": len(trainable) // 2, "numbers": numbers}
    return counts
