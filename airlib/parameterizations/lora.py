"""LoRA as a parameterization: what may move is a low-rank matrix beside the weights of a UNet.

    adapt(source, space, objective, lora(4), config)
    world.adapt("nada", pair, parameterization="lora4_attention")

AIR adapts its diffusion model by LoRA and names neither rank nor layers. Attention alone is little:
the ADM of P2 has four attentions, all at 16 pixels and below, and texture is drawn above them. The
default therefore covers the convolutions as well. `coverage` counts.
"""

import re
from collections.abc import Sequence

from torch import nn

from airlib.errors import AirlibError
from airlib.generators.diffusion import DiffusionGenerator
from airlib.parameterizations.lora_layers import TARGETS, insert_lora, layers_of
from airlib.parameterizations.stylegan2 import Parameterization, full


def lora(rank: int = 4, targets: Sequence[str] = TARGETS, seed: int = 0) -> Parameterization:
    """Adapters of `rank` on convolutions, attention, or both; seed: of their random half.

    The adapted generator starts as the source, bit for bit. The adaptation holds the adapters only.
    """

    def select(adapted: DiffusionGenerator) -> dict[str, nn.Parameter]:
        insert_lora(adapted.unet, layers_of(adapted.unet, targets), rank, seed)
        return {name: p for name, p in adapted.named_parameters() if ".lora_" in name}

    return Parameterization(f"lora_{rank}_{'_'.join(targets)}", select)


def diffusion_parameterization(name: str) -> Parameterization:
    """What may move of a diffusion model, by its name in a profile: full, loraR, loraR_attention or
    loraR_convolutions, R being the rank.
    """
    if name == "full":
        return full()
    found = re.fullmatch(rf"lora(\d{{1,4}})(?:_({'|'.join(TARGETS)}))?", name)
    if not found:
        raise AirlibError(
            f"{name!r} cannot be trained in a diffusion model; choose full, lora4 (of any rank), "
            f"or lora4_{' or lora4_'.join(TARGETS)}"
        )
    rank, targets = found.groups()
    return lora(int(rank), (targets,) if targets else TARGETS)


def coverage(generator: DiffusionGenerator, rank: int = 4) -> dict[str, dict[str, int]]:
    """For attention, convolutions and both: how many layers are covered and numbers trained."""
    counts = {}
    for targets in (("attention",), ("convolutions",), TARGETS):
        trainable = lora(rank, targets).attach(generator.copy_frozen())
        numbers = sum(p.numel() for p in trainable.values())
        counts[" + ".join(targets)] = {"layers": len(trainable) // 2, "numbers": numbers}
    return counts
