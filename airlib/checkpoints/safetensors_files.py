"""Foreign safetensors files: names, shapes and numbers, with nothing to execute."""

from pathlib import Path
from typing import Any

from torch import Tensor

from airlib.errors import AirlibError


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(The tensors in a safetensors file by name, on the CPU; the texts in its header).

    Raises AirlibError if the file cannot be read or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise AirlibError(
            f"{path} is damaged or no safetensors file ({type(error).__name__}); download it again"
        ) from error
