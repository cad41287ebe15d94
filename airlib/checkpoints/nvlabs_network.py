"""What every file of NVIDIA's StyleGAN2 needs to become ours: its arguments, and the last steps.

The architecture comes from the arguments the network was built with. Arguments that our network
does not have must have the value it is written for; what remains wrong shows as a tensor that is
missing, unknown or of another shape.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from airlib.checkpoints.networks import WIDEST, build, mean_latent, restricted, shapes_of
from airlib.checkpoints.tables import Imported, Rule, ignored_names, translate
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2Config

# Arguments that change the network and that ours does not have: name -> the value it is written for
FIXED = {
    "img_channels": 3,
    "num_channels": 3,
    "architecture": "skip",
    "activation": "lrelu",
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "use_noise": True,
    "normalize_latents": True,
    "kernel_size": 3,
    "resample_filter": [1, 3, 3, 1],
    "resample_kernel": [1, 3, 3, 1],
}
AGAIN = "download it again"
MEANS = {"mapping.w_avg", "dlatent_avg"}
MEAN_SAMPLES = 10_000  # as in NVIDIA's projector, which computes the mean w again
LARGEST = 2**16  # number in the arguments


class Arguments:
    """The arguments a network was built with: whatever the file says, so each is checked.

    values: a dictionary; AirlibError for all else, and from each method for an argument that is not
    what it should be. path: the file that errors name.
    """

    def __init__(self, values: object, path: str | Path):
        if not isinstance(values, dict):
            raise AirlibError(f"{path} does not say how its network was built; {AGAIN}")
        self.values, self.path = values, path

    def nested(self, name: str) -> "Arguments":
        """The arguments that are grouped under a name."""
        return Arguments(self.values.get(name, {}), self.path)

    def count(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number from 0 to `most`."""
        value = self.values.get(name, default)
        if type(value) is not int or not 0 <= value <= most:
            raise AirlibError(f"{self.path} has no valid {name} of its network; {AGAIN}")
        return value

    def number(self, name: str, default: float | None = None) -> Any:
        """A number above 0, or `default` where there is none."""
        value = self.values.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value <= LARGEST:
            raise AirlibError(f"{self.path} has no valid {name} of its network; {AGAIN}")
        return value

    def config(self, **numbers: Any) -> StyleGAN2Config:
        """The architecture with these arguments of `StyleGAN2Config`."""
        if max(numbers["z_dim"], numbers["w_dim"]) > WIDEST:
            raise AirlibError(f"{self.path} describes a network with latents wider than {WIDEST}")
        try:
            return StyleGAN2Config(**numbers)
        except AirlibError as error:
            raise AirlibError(f"{self.path} describes an impossible network: {error}") from error

    def check_fixed(self) -> None:
        """Raise AirlibError where the network has what ours does not."""
        for name, expected in FIXED.items():
            value = self.values.get(name, expected)
            value = list(value) if isinstance(value, tuple) else value
            if type(value) is not type(expected) or value != expected:
                raise AirlibError(
                    f"{self.path} holds a network built with another {name} than {expected}; "
                    "only the StyleGAN2 of the published networks can be imported"
                )


def imported(
    label: str,
    source: dict[str, Tensor],
    table: list[Rule],
    ignored: Mapping[str, str],
    config: StyleGAN2Config,
    path: str | Path,
    class_index: int | None,
) -> Imported:
    """Translate `source` into the network of `config`, name by name and shape by shape.

    label: the format in words. table, ignored: as for `translate`. path: the file that errors name.
    class_index: which class of a conditional network to restrict it to. Where `source` has no mean
    w, the mean of 10,000 mapped latents stands for it, which the result's `source` says. Raises
    AirlibError if the tensors do not fit, or a class is missing, unknown or not wanted.
    """
    _check_class(config.c_dim, class_index, path)
    try:
        shapes = shapes_of(build("stylegan2", asdict(config)))
    except (AirlibError, ArithmeticError, RuntimeError) as error:
        raise AirlibError(f"{path} describes an impossible network: {error}; {AGAIN}") from error
    if MEANS.isdisjoint(source):
        del shapes["mapping.w_avg"]
    tensors = translate(source, table, ignored, shapes, path=path)
    if class_index is not None:
        label += f" (class {class_index} of 0 to {config.c_dim - 1})"
        config, tensors = restricted(config, tensors, class_index)
    elif MEANS.isdisjoint(source):
        label += f" (no mean w in it: mean of {MEAN_SAMPLES} mapped latents)"
        tensors["mapping.w_avg"] = mean_latent(config, tensors, MEAN_SAMPLES)
    names = ignored_names(source, ignored)
    return Imported("stylegan2", label, tensors, asdict(config), names)


def _check_class(classes: int, index: int | None, path: str | Path) -> None:
    if not classes and index is not None:
        raise AirlibError(f"{path} holds an unconditional network; leave out --class")
    if classes and (index is None or not 0 <= index < classes):
        raise AirlibError(
            f"{path} holds a conditional network ({classes} classes); choose one with --class, "
            f"from 0 to {classes - 1}"
        )
