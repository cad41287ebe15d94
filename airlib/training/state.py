"""State of a running optimisation as flat named tensors, so that a checkpoint is one safetensors
file.

tensors = pack({"net": net.state_dict()}, optimizer)     # "net/<key>", "optimizer/<index>/<key>"
states = unpack(tensors, optimizer)                      # {"net": {...}}; the optimizer is restored
"""

import torch
from torch import Tensor

from airlib.errors import AirlibError

State = dict[str, Tensor]


def pack(states: dict[str, State], optimizer: torch.optim.Optimizer) -> State:
    """Copies of all given states and of the optimiser's moments, under flat names."""
    moments = {
        f"{index}/{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    groups = {**states, "optimizer": moments}
    return {
        f"{group}/{key}": value.detach().clone()
        for group, state in groups.items()
        for key, value in state.items()
    }


def unpack(tensors: State, optimizer: torch.optim.Optimizer) -> dict[str, State]:
    """Restore the optimiser and return the other states that `pack` was given.

    Raises AirlibError if the optimiser's state does not fit its parameters.
    """
    groups: dict[str, State] = {}
    for name, value in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = value
    moments: dict[int, State] = {}
    for name, value in groups.pop("optimizer", {}).items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, state in moments.items():
        fits = index < len(parameters) and all(
            value.ndim == 0 or value.shape == parameters[index].shape for value in state.values()
        )
        if not fits:
            raise AirlibError(
                "the checkpoint belongs to another configuration; delete it or restore the settings"
            )
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return groups
