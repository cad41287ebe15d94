"""HyperDomainNet's domains: 6,048 numbers for a generator of 1024 px, which is in another file.

    model_type "parameterization", patch_key "cin_mult"     a domain: one factor per input channel
    state_dict   heads.conv_{i}.params_in [1, 1, c, 1, 1]   of every 3x3 convolution, minus 1
    sg2_params   arguments and file name of the generator
    style_latents [11, 512]  of domains trained on an image: w that its notebooks put into layers 7
                             to 17, which is no part of the generator

conv_0 is b4.conv1, then two per resolution: b8.conv0, b8.conv1, ... The official code multiplies
the weights by the factor after demodulation, so it becomes `domain_post` of our layers. With other
patch keys something else moves, which our network does not have. Files of model_type "original"
hold a generator (`rosinality`), those of model_type "mapper" a network that predicts domains.
"""

import re
from pathlib import Path
from typing import Any

from airlib.checkpoints.networks import build
from airlib.checkpoints.tables import Imported, Rule, ignored_names, translate
from airlib.errors import AirlibError
from airlib.generators.stylegan2_layers import DOMAIN_PARAMETERS, SynthesisLayer

VECTOR = DOMAIN_PARAMETERS["post"]
SOURCE = "HyperDomainNet domain without its generator"
PATCH = "cin_mult"
IGNORED = {
    "style_latents": "w that the official notebooks put into the fine layers",
    "sg2_params|sg_2_params|model_type|patch_key|da_type": "HyperDomainNet's options",
}


def is_domain(content: Any) -> bool:
    """Whether the content of a .pt file is a domain of HyperDomainNet, or predicts domains.

    content: what `read_torch` returned.
    """
    kind = content.get("model_type") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind in ("parameterization", "mapper")


def from_domain(content: dict, path: str | Path, generator: Imported | None = None) -> Imported:
    """A StyleGAN2 with the domain vectors in the content of a .pt file of HyperDomainNet.

    content: what `read_torch` returned for `path`, the file that errors name. generator: the one
    the domain was made for. Raises AirlibError if it is missing or does not fit, and for files in
    which something else moves than a factor per input channel.
    """
    offsets = _offsets(content, path)
    if generator is None:
        raise AirlibError(
            f"{path} is a domain of HyperDomainNet for {len(offsets)} convolutions, without its "
            "generator; import that generator first, and give it with --generator"
        )
    if generator.kind != "stylegan2":
        raise AirlibError(f"{path} is a domain of a StyleGAN2, which --generator does not hold")
    network = build("stylegan2", generator.config)
    inputs = {
        f"{name}.{VECTOR}": [layer.weight.shape[1]]
        for name, layer in network.named_modules()
        if isinstance(layer, SynthesisLayer)
    }
    names = list(inputs)

    def ours(match: re.Match) -> str:
        i = int(match[1])
        return names[i] if i < len(names) else match[0]

    name = r"(?:module\.)?heads\.conv_(\d{1,4})\.params_in"
    table: list[Rule] = [(name, ours, lambda offset: 1 + offset.flatten())]
    vectors = translate(offsets, table, {}, inputs, path=path)
    entries = sorted(map(str, content.keys() - {"state_dict"}))
    return Imported(
        "stylegan2",
        f"HyperDomainNet domain, after demodulation, on: {generator.source}",
        generator.tensors | vectors,
        generator.config,
        generator.ignored + ignored_names(entries, IGNORED),
    )


def _offsets(content: dict, path: str | Path) -> dict:
    """Their name -> offset, of a domain; AirlibError for other files of HyperDomainNet."""
    if content.get("model_type") == "mapper":
        raise AirlibError(
            f"{path} is a mapper of HyperDomainNet, which predicts domains from texts; airlib "
            "imports single domains only (td_*.pt, im2im_*.pt)"
        )
    key = content.get("patch_key")
    if not isinstance(key, str) or key != PATCH:
        named = repr(key[:40]) if isinstance(key, str) else "none"
        raise AirlibError(
            f"{path} is a domain of HyperDomainNet with the patch_key {named}; airlib has only "
            f"{PATCH!r}, the domain vector of the paper"
        )
    if not isinstance(content.get("state_dict"), dict):
        raise AirlibError(f"{path} is a domain of HyperDomainNet without state_dict; it is damaged")
    return content["state_dict"]
