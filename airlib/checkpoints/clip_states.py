"""States of CLIP networks, {name: tensor}, as fine-tuners and hubs publish them.

    visual.* transformer.* ...       OpenAI's code and OpenCLIP's
    visual.* text.transformer.* ...  OpenCLIP's CustomTextCLIP
    vision_model.* text_model.*      transformers' CLIPModel: three matrices where the others have
                                     `in_proj_weight`, and projections the other way round

The state is the whole content of a file or one entry of it (`state_dict` in OpenCLIP's training
files), and one prefix may stand before all names (`module.` of DataParallel). Whatever the names,
the same network becomes the same tensors.

Two things no shape tells:

  * The activation. OpenAI's models and transformers' default have QuickGELU. OpenCLIP's training
    has GELU, unless the name of the run says "quickgelu". A bare state counts as OpenAI's. The
    result's `source` says which it was, and `with_activation` sets another.
  * How wide heads are: 64, and more in the largest models of OpenCLIP, known by their width.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from airlib.checkpoints.networks import shapes_for
from airlib.checkpoints.tables import Imported, Rule, ignored_names, numbers, translate
from airlib.errors import AirlibError

SOURCE = "CLIP state (OpenAI, OpenCLIP or transformers)"
ACTIVATIONS = ("quick_gelu", "gelu")
ENTRIES = ("state_dict", "model_state_dict", "model")
IGNORED = {
    r"(text\.)?(input_resolution|context_length|vocab_size)": "an integer that shapes tell as well",
    r"(.*\.)?attn_mask": "the causal mask, a constant of the architecture",
    r"(text|vision)_model\.embeddings\.position_ids": "0, 1, 2, ..., a constant",
}
HEAD_WIDTH = 64
WIDE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}  # width of ViT-H, g, bigG, E: 16 heads each

MARKS = (  # the prefix before all names, and a tensor of the image tower, then of the text tower
    r"(?s:(.*\.)?)(visual\.conv1\.weight|vision_model\.embeddings\.class_embedding)",
    r"(?s:(.*\.)?)(ln_final\.weight|text_model\.final_layer_norm\.weight)",
)

Renaming = tuple[str, str, Callable[[Any], Any] | None]
"""A `Rule` whose target is a template."""


def _transposed(tensor: Any) -> Any:
    """Of a matrix; what is none is refused for its shape later."""
    return tensor.T if isinstance(tensor, Tensor) and tensor.ndim == 2 else tensor


_TRANSFORMERS: list[Renaming] = [
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight", None),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding", None),
    (r"text_model\.final_layer_norm\.(.+)", r"ln_final.\1", None),
    (r"text_projection\.weight", "text_projection", _transposed),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding", None),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight", None),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding", None),
    (r"vision_model\.pre_layrnorm\.(.+)", r"visual.ln_pre.\1", None),  # spelt so there
    (r"vision_model\.post_layernorm\.(.+)", r"visual.ln_post.\1", None),
    (r"visual_projection\.weight", "visual.proj", _transposed),
]
_LAYER = {  # transformers' leaf -> ours
    r"self_attn\.in_proj_(.+)": r"attn.in_proj_\2",
    r"self_attn\.out_proj\.(.+)": r"attn.out_proj.\2",
    r"layer_norm([12]\..+)": r"ln_\2",
    r"mlp\.fc1\.(.+)": r"mlp.c_fc.\2",
    r"mlp\.fc2\.(.+)": r"mlp.c_proj.\2",
}
_TRANSFORMERS += [
    (rf"{model}\.encoder\.layers\.(\d+)\.{theirs}", rf"{tower}.resblocks.\1.{ours}", None)
    for model, tower in (("text_model", "transformer"), ("vision_model", "visual.transformer"))
    for theirs, ours in _LAYER.items()
]
_CUSTOM_TEXT: list[Renaming] = [(r"text\.(.+)", r"\1", None)]
_TABLE: list[Rule] = [
    ("logit_scale", "logit_scale", lambda tensor: tensor.reshape(())),
    (r"(?!logit_scale$).+", r"\g<0>", None),
]


def is_clip(content: Any) -> bool:
    """Whether the content of a file holds the state of a CLIP, or of one of its towers.

    content: what `read_torch` or `read_safetensors` returned.
    """
    return _state(content) is not None


def from_clip(content: Any, path: str | Path) -> Imported:
    """The network in the content of a CLIP's state file, as its OpenAI archive would give it.

    content: what `read_torch` or `read_safetensors` returned for `path`, the file that errors name.
    Raises AirlibError if it holds one tower alone, or tensors are unknown, missing or of shapes
    that no CLIP has.
    """
    found = _state(content)
    if found is None:
        raise AirlibError(f"{path} holds no CLIP; choose another file")
    state, prefix = found
    beside = {} if content is state else {k: v for k, v in content.items() if v is not state}
    ignored = tuple(f"{str(name)[:60]}: an entry beside the weights" for name in beside)
    plain = {str(name).removeprefix(prefix): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        raise AirlibError(f"{path} holds tensors with and without {prefix[:60]!r}; save one CLIP")
    ours, theirs = _our_names(plain, path)
    source, quick_gelu = _activation(theirs, beside)
    return imported(ours, source, quick_gelu, path, ignored)


def imported(
    state: Mapping[str, Any],
    source: str,
    quick_gelu: bool,
    path: str | Path,
    ignored: tuple[str, ...] = (),
) -> Imported:
    """The network of a state under OpenAI's names.

    quick_gelu: the activation. ignored: what was left out before. Raises AirlibError if tensors are
    unknown, missing or of shapes that no CLIP has.
    """
    try:
        config = _config(state, quick_gelu)
    except KeyError as error:
        raise AirlibError(f"{path} is no whole CLIP: {error} is missing") from error
    except (ArithmeticError, AttributeError, IndexError, ValueError) as error:
        raise AirlibError(f"{path} holds tensors of shapes that no CLIP has: {error}") from error
    targets = shapes_for("clip", config, path)
    if sum(map(math.prod, targets.values())) > Path(path).stat().st_size:
        raise AirlibError(f"{path} is shorter than its CLIP: it gives one tensor many names")
    tensors = _apart(translate(state, _TABLE, IGNORED, targets, path=path))
    return Imported("clip", source, tensors, config, ignored + ignored_names(state, IGNORED))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory: some fine-tuners tie them, and safetensors keeps no ties."""
    result, seen = {}, set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return result


def with_activation(imported: Imported, activation: str, path: str | Path) -> Imported:
    """A CLIP with the activation that its owner knows: "quick_gelu" or "gelu".

    path: the file that errors name. Raises AirlibError for another activation, and for what is no
    CLIP.
    """
    if imported.kind != "clip":
        raise AirlibError(f"{path} is no CLIP, and only a CLIP's activation can be chosen")
    if activation not in ACTIVATIONS:
        raise AirlibError(f"unknown activation {activation!r}; choose {' or '.join(ACTIVATIONS)}")
    config = imported.config | {"quick_gelu": activation == "quick_gelu"}
    source = f"{imported.source.partition(' (')[0]} ({activation}, as told)"
    return replace(imported, config=config, source=source)


# --- names ---------------------------------------------------------------------------------------


def _state(content: Any) -> tuple[dict, str] | None:
    """(The state in a content, the prefix before its names)."""
    if not isinstance(content, dict):
        return None
    for state in (content, *(content.get(entry) for entry in ENTRIES)):
        if isinstance(state, dict):
            names = [name for name in state if isinstance(name, str)]
            for mark in MARKS:
                if match := next(filter(None, (re.fullmatch(mark, name) for name in names)), None):
                    return state, match[1] or ""
    return None


def _our_names(state: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], bool]:
    """(The state under OpenAI's names, whether it was transformers'); unknown names stay."""
    transformers = any(name.startswith(("text_model.", "vision_model.")) for name in state)
    rules = (
        _TRANSFORMERS if transformers else _CUSTOM_TEXT if "text.ln_final.weight" in state else []
    )
    result: dict[str, Any] = {}
    for name, tensor in (_joined(state) if transformers else state).items():
        ours = name
        for pattern, target, transform in rules:
            if match := re.fullmatch(pattern, name):
                ours, tensor = match.expand(target), transform(tensor) if transform else tensor
                break
        if ours in result:
            raise AirlibError(f"{path} holds {ours} twice, under two names; save one of them alone")
        result[ours] = tensor
    towers = {"image": "visual.conv1.weight" in result, "text": "ln_final.weight" in result}
    if not all(towers.values()):
        alone = next(name for name, found in towers.items() if found)
        raise AirlibError(
            f"{path} holds the {alone} tower of a CLIP alone; take a file of the whole model"
        )
    return result, transformers


def _joined(state: dict[str, Any]) -> dict[str, Any]:
    """A transformers state in which q_proj, k_proj and v_proj are one in_proj, where they fit."""
    result = dict(state)
    for name in state:
        if match := re.fullmatch(r"(.+\.self_attn\.)q_proj\.(weight|bias)", name):
            names = [f"{match[1]}{part}_proj.{match[2]}" for part in "qkv"]
            parts = [part for part in map(state.get, names) if isinstance(part, Tensor)]
            if len(parts) == 3 and parts[0].ndim and len({part.shape for part in parts}) == 1:
                result[f"{match[1]}in_proj_{match[2]}"] = torch.cat(parts)
                for part in names:
                    del result[part]
    return result


def _activation(transformers: bool, beside: Mapping[Any, Any]) -> tuple[str, bool]:
    """(The source in words, whether the activation is QuickGELU)."""
    if transformers:
        return "transformers CLIPModel (QuickGELU, its default)", True
    if "epoch" in beside and not {"name", "optimizer"}.isdisjoint(beside):
        if "quickgelu" in str(beside.get("name")).lower():
            return "OpenCLIP training file (QuickGELU, by the name of the run)", True
        return "OpenCLIP training file (GELU, its default)", False
    return "CLIP state (QuickGELU, as in OpenAI's models: the file does not say)", True


# --- the architecture ----------------------------------------------------------------------------


def _config(state: Mapping[str, Any], quick_gelu: bool) -> dict:
    """Arguments of `open_clip.model.CLIP`, from shapes."""
    width = state["ln_final.weight"].shape[0]
    return {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": quick_gelu,
        "vision_cfg": _vision(state),
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": width,
            "heads": width // HEAD_WIDTH,
            **_layers(state, "transformer.", width),
        },
    }


def _vision(state: Mapping[str, Any]) -> dict:
    """The image tower: a vision transformer or, with an attention pool, a ResNet."""
    if "visual.attnpool.positional_embedding" in state:
        side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        stages = [rf"visual\.layer{stage}\.(\d{{1,4}})\.conv1\.weight" for stage in (1, 2, 3, 4)]
        return {
            "image_size": 32 * side,
            "layers": [len(numbers(state, stage)) for stage in stages],
            "width": state["visual.layer1.0.conv1.weight"].shape[0],
            "head_width": HEAD_WIDTH,
        }
    width, _, _, patch = state["visual.conv1.weight"].shape
    side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "image_size": patch * side,
        **_layers(state, "visual.transformer.", width),
        "width": width,
        "patch_size": patch,
        "head_width": WIDE_HEADS.get(width, HEAD_WIDTH),
    }


def _layers(state: Mapping[str, Any], tower: str, width: int) -> dict:
    """How many layers a transformer has, and how wide their MLP is where it is not 4 times."""
    if width % HEAD_WIDTH:
        raise ValueError(f"a width of {width}, no multiple of {HEAD_WIDTH}")
    blocks = rf"{re.escape(tower)}resblocks\.(\d{{1,4}})\.ln_1\.weight"
    inner = state[f"{tower}resblocks.0.mlp.c_fc.weight"].shape[0]
    ratio = {} if inner == 4 * width else {"mlp_ratio": (inner + 0.5) / width}  # rounded down again
    return {"layers": len(numbers(state, blocks)), **ratio}
