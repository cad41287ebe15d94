"""LoRA (Hu et al. 2022) in the UNet of a diffusion generator: W + B A, where A and B are trained.

    names = layers_of(unet, ("convolutions", "attention"))
    insert_lora(unet, names, rank=4, seed=0)        # the images stay as they are: B is 0

peft does the work: it wraps each chosen layer and keeps its weight as `base_layer`. For a
convolution A is a convolution of the same kernel to `rank` channels and B a 1x1 convolution, which
is the same as a matrix of that rank. The scale is 1 (alpha = rank), so shapes say everything and
`restore_lora` can rebuild the wrapping from the tensors of an adapter alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from airlib.errors import AirlibError

if TYPE_CHECKING:
    from diffusers import UNet2DModel

TARGETS = ("convolutions", "attention")
_FIRST, _SECOND = ".lora_A.default.weight", ".lora_B.default.weight"  # what peft calls A and B


def layers_of(unet: "UNet2DModel", targets: Iterable[str]) -> list[str]:
    """Names of the layers that `targets` stand for, all within the blocks of the UNet.

    "convolutions": those of residual, downsampling and upsampling blocks, 1x1 shortcuts included.
    "attention": the four matrices of every attention.
    """
    from diffusers.models.attention_processor import Attention

    targets = tuple(targets)
    if not targets or not set(targets) <= set(TARGETS):
        raise AirlibError(f"unknown targets {targets} of LoRA; choose from {', '.join(TARGETS)}")
    names = []
    for name, module in unet.named_modules():
        if "convolutions" in targets and isinstance(module, nn.Conv2d) and "block" in name:
            names.append(name)
        if "attention" in targets and isinstance(module, Attention):
            names += [f"{name}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
    return names


def insert_lora(unet: "UNet2DModel", names: list[str], rank: int, seed: int = 0) -> None:
    """Wrap the layers called `names`; A is random, B is 0, everything else is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise AirlibError(f"LoRA of rank {rank} trains nothing; choose a rank of at least 1")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, unet)


def restore_lora(unet: "UNet2DModel", state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Wrap the layers for which `state` holds an adapter; its numbers are loaded by nobody here."""
    modules = dict(unet.named_modules())
    ranks = {
        key.removeprefix(prefix).removesuffix(_FIRST): len(value)
        for key, value in state.items()
        if key.endswith(_FIRST)
    }
    if unknown := ranks.keys() - modules.keys():
        raise AirlibError(f"an adapter for {min(unknown)}, which the UNet does not have")
    layers = [name for name in ranks if f"{name}.lora_A" not in modules]
    if layers:
        insert_lora(unet, layers, ranks[layers[0]])


def combine_lora(
    states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
) -> dict[str, Tensor]:
    """One adapter that adds sum_i shares_i B_i A_i to the weights, of all their ranks together.

    An adapter has zeros in a layer that only others have: `restore_lora` knows one rank.
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
