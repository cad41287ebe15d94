"""Weight files of other projects become safetensors files of ours.

    path = import_file("ffhq.pkl")            # writes ffhq.pkl.safetensors
    describe(path)                            # what it is: the configuration in its header
    generator = load_imported(path)           # StyleGAN2, UNet2DModel, CLIP or E4e, frozen
    import_file("afhq.pkl", class_index=2)    # one class of a conditional network
    import_file("td_pixar.pt", generator="ffhq.pt.safetensors")     # a domain of HyperDomainNet

A file is known by its content, never by its name: by its first bytes (safetensors, TorchScript
archive, NVIDIA pickle, file of `torch.save`, web page, ...) and, for a file of `torch.save`, by the
names in it. Nothing in it is executed, and nothing is written before its tensors were compared with
our network, name by name and shape by shape (`airlib.checkpoints.tables`).
"""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from airlib.checkpoints import (
    clip_states,
    e4e,
    guided_diffusion,
    hyperdomainnet,
    nvlabs,
    openai_clip,
    rosinality,
)
from airlib.checkpoints.networks import filled
from airlib.checkpoints.tables import Imported
from airlib.checkpoints.unpickling import read_torch, regular_file
from airlib.errors import AirlibError
from airlib.files import load_tensors, read_safetensors, save_tensors

LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of torch.save before 1.6
OURS = "safetensors file of airlib"
NOT_WEIGHTS = {
    b"<": "is a web page, not weights: the server asked for something; download it in a browser",
    b"version https://git-lfs": "is a git-lfs pointer, not weights; fetch what it points to",
    b"\x1f\x8b": "is compressed with gzip; unpack it and import the file inside",
}
FOR = {
    "class_index": "--class is for the conditional StyleGAN2 networks of NVIDIA's code",
    "generator": "--generator is for the domains of HyperDomainNet",
}
Opened = tuple[str, Callable[..., Imported], tuple[str, ...]]


@dataclass(frozen=True)
class TorchFormat:
    """A kind of `torch.save` file that airlib knows by its content.

    `name` says in words what it is; `recognise(content)` tells whether a file is of this kind, and
    `read(content, path)` imports it. `takes`: which of the arguments in `FOR` can be given to it.
    """

    name: str
    recognise: Callable[[Any], bool]
    read: Callable[..., Imported]
    takes: tuple[str, ...] = ()


def import_file(
    path: str | Path,
    out: str | Path | None = None,
    force: bool = False,
    class_index: int | None = None,
    generator: str | Path | None = None,
    activation: str | None = None,
) -> Path:
    """Convert the weights of another project into a safetensors file of ours; returns its path.

    path: an NVIDIA .pkl, a .pt of rosinality's, P2's or e4e's code, or a CLIP: OpenAI's archive, or
    a state (.pt, .safetensors) of OpenAI's code, OpenCLIP or transformers. It is known by its
    content, and nothing in it is executed. out: the file to write, by default PATH.safetensors; an
    existing one is replaced only with `force`. class_index: the class for which a conditional
    StyleGAN2 is imported. generator: the generator of a HyperDomainNet domain, imported or as it
    was published. activation: of a CLIP, "quick_gelu" or "gelu", where
    `airlib.checkpoints.clip_states` would assume another.

    Raises AirlibError, and writes nothing, for a file that is damaged, unsafe, unknown or not one
    of our networks, and for a class or generator that it needs or has no use for.
    """
    path = Path(path)
    out = Path(f"{path}.safetensors") if out is None else Path(out)
    if out.exists() and (not force or out.samefile(path)):
        raise AirlibError(f"{out} exists already; give another --out, or --force to replace it")
    base = None if generator is None else read(Path(generator))
    opened = _open(regular_file(path))
    if opened[0] == OURS:
        raise AirlibError(f"{path} is a {OURS} already; use it as it is")
    imported = _loaded(path, opened, class_index, base)
    if activation is not None:
        imported = clip_states.with_activation(imported, activation, path)
    parameters = _parameters(imported, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    header = {
        "kind": imported.kind,
        "source": imported.source,
        "config": imported.config,
        "parameters": parameters,
        "sha256": digest,
        "ignored": list(imported.ignored),
    }
    return save_tensors(out, imported.tensors, header)


def identify(path: str | Path) -> str:
    """Say in words what a weight file of another project is, such as "NVIDIA StyleGAN2 pickle".

    Raises AirlibError if it is missing, damaged, or nothing that airlib knows.
    """
    name, _, _ = _open(regular_file(path))
    return name


def read(
    path: str | Path, class_index: int | None = None, generator: Imported | None = None
) -> Imported:
    """The network in a weight file of another project, as the importer of its format reads it.

    A file that `import_file` wrote is read as what it was made from. class_index, generator: as for
    `import_file`, the latter as read. Nothing in the file is executed, and nothing is written.
    Raises AirlibError if it is missing, damaged, unsafe, unknown or not one of our networks, and
    for a class or generator that it needs or has no use for.
    """
    return _loaded(path, _open(regular_file(path)), class_index, generator)


def _loaded(
    path: str | Path, opened: Opened, class_index: int | None, generator: Imported | None
) -> Imported:
    name, load, takes = opened
    given: dict[str, Any] = {"class_index": class_index, "generator": generator}
    given = {key: value for key, value in given.items() if value is not None}
    if useless := sorted(given.keys() - set(takes)):
        raise AirlibError(f"{path} is of the kind {name!r}; {FOR[useless[0]]}, leave it out")
    return load(**given)


def describe(path: str | Path) -> dict:
    """What an imported file is: the configuration that `import_file` wrote into its header.

    The keys are kind ("stylegan2", "unet", "clip" or "e4e"), source (the foreign format), config,
    parameters (their number), sha256 (of the original) and ignored (tensors left out, with
    reasons). Raises AirlibError if `import_file` did not write the file.
    """
    return _load(path)[1]


def load_imported(path: str | Path) -> nn.Module:
    """The network in an imported file: StyleGAN2, diffusers' UNet2DModel, open_clip's CLIP or E4e.

    The network is on the CPU, float32, in evaluation mode and without gradients. path: a file that
    `import_file` wrote. Raises AirlibError for other files, for a damaged one, and for one whose
    header asks for more than the network of its kind.
    """
    tensors, header = _load(path)
    return filled(header["kind"], header["config"], tensors, path)


def _written(path: Path) -> Imported:
    """What `import_file` wrote."""
    tensors, header = _load(path)
    return Imported(header["kind"], str(header["source"]), tensors, header["config"])


def _load(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    tensors, header = load_tensors(path)
    if not isinstance(header, dict) or not {"kind", "source", "config", "sha256"} <= header.keys():
        raise AirlibError(f"{path} was not written by `airlib import`; run that on the original")
    return tensors, header


# --- what a file is ------------------------------------------------------------------------------


def _open(path: Path) -> Opened:
    """(format in words, how to read it, which arguments in `FOR` that takes)."""
    with path.open("rb") as file:
        head = file.read(64)
    for start, problem in NOT_WEIGHTS.items():
        if head.lstrip().startswith(start):
            raise AirlibError(f"{path} {problem}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _safetensors_format(path)
    if openai_clip.is_torchscript(path):
        return openai_clip.SOURCE, partial(openai_clip.read_openai_clip, path), ()
    if zipfile.is_zipfile(path) or head.startswith(LEGACY_TORCH):
        return _torch_format(read_torch(path), path)
    if head.startswith(b"\x80"):
        return "NVIDIA StyleGAN2 pickle", partial(nvlabs.read_nvlabs, path), ("class_index",)
    raise AirlibError(
        f"{path} is no weight file that airlib knows (NVIDIA .pkl, .pt of PyTorch, CLIP archive); "
        "check what you downloaded"
    )


def _safetensors_format(path: Path) -> Opened:
    tensors, header = read_safetensors(path)
    if "config" in header:  # as `save_tensors` writes it
        return OURS, partial(_written, path), ()
    if clip_states.is_clip(tensors):
        return clip_states.SOURCE, partial(clip_states.from_clip, tensors, path), ()
    held = ", ".join(sorted(tensors)[:4])
    raise AirlibError(
        f"{path} is a safetensors file of another network ({held}); known is: {clip_states.SOURCE}"
    )


def _torch_format(content: Any, path: Path) -> Opened:
    for form in TORCH_FORMATS:
        if form.recognise(content):
            return form.name, partial(form.read, content, path), form.takes
    held = ", ".join(sorted(map(str, content))[:4]) if isinstance(content, dict) else "no names"
    known = ", ".join(form.name for form in TORCH_FORMATS)
    raise AirlibError(f"{path} is a PyTorch file of another network ({held}); known are: {known}")


TORCH_FORMATS = (
    TorchFormat(
        hyperdomainnet.SOURCE,
        hyperdomainnet.is_domain,
        hyperdomainnet.from_domain,
        takes=("generator",),
    ),
    TorchFormat(e4e.SOURCE, e4e.is_e4e, e4e.from_e4e),
    TorchFormat(rosinality.SOURCE, rosinality.is_rosinality, rosinality.from_rosinality),
    TorchFormat(
        nvlabs.STATE_SOURCE,
        nvlabs.is_nvlabs_state,
        nvlabs.from_nvlabs_state,
        takes=("class_index",),
    ),
    TorchFormat(
        guided_diffusion.SOURCE,
        guided_diffusion.is_guided_diffusion,
        guided_diffusion.from_guided_diffusion,
    ),
    TorchFormat(clip_states.SOURCE, clip_states.is_clip, clip_states.from_clip),
)


def _parameters(imported: Imported, path: Path) -> int:
    """Refuse values that are not finite; the number of parameters of the network."""
    for name, tensor in imported.tensors.items():
        if not tensor.isfinite().all():
            raise AirlibError(f"{path} holds values in {name} that are not finite; it is damaged")
    network = filled(imported.kind, imported.config, imported.tensors, path)
    return sum(parameter.numel() for parameter in network.parameters())
