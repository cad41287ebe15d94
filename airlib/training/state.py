"""The state of a running optimisation as flat named tensors, so that a checkpoint is one file.

    tensors = pack({"net": net.state_dict()}, optimizer)   # "net/KEY", "optimizer/INDEX/KEY"
    states = unpack(tensors, optimizer)                    # {"net": {...}}, and restores optimizer

Every resumable optimisation uses it: training from nothing (`airlib.training.loop`) and adaptation
(`airlib.adaptation`).
"""

import torch
from torch import Tensor

from airlib.errors import AirlibError

State = dict[str, Tensor]


def pack(states: dict[str, State], optimizer: torch.optim.Optimizer) -> State:
    """Copy network states and the optimiser's moments into one dictionary of tensors.

    states: name -> `state_dict()`. The result has the names "NAME/KEY" and, for the moments of the
    INDEX-th parameter, "optimizer/INDEX/KEY".
    """
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
    """Load the moments into `optimizer` and return the network states that `pack` was given.

    tensors: what `pack` returned. Raises AirlibError if the moments do not fit the parameters of
    `optimizer`.
    """
    groups: dict[str, State] = {}
    for name, value in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = value
    moments: dict[int, State] = {}
    for name, value in groups.pop("optimizer", {}).items():
        number, key = name.split("/")
        moments.setdefault(int(number), {})[key] = value
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
