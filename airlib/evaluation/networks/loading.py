"""Numbers for published networks that were built on the meta device: a file's, or random ones.

with torch.device("meta"):
    network = vgg16().features
filled(network, read_torch(path), "VGG-16", prefix="features.")
filled(network, random_state(network), "VGG-16")  # for runs that only check sizes
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from airlib.errors import AirlibError
from airlib.seeding import rng

Network = TypeVar("Network", bound=nn.Module)
COUNTER = "num_batches_tracked"  # of a batch norm in training: of no use here, and often not stored


def filled(network: Network, state: Mapping[str, Tensor], name: str, prefix: str = "") -> Network:
    """`network`, filled in float32 with those tensors of `state` that carry its names.

    prefix: what precedes the network's names in `state`. name: the network's name in messages.
    Raises AirlibError for missing tensors and other shapes.
    """
    own = {}
    for key in network.state_dict():
        value = state.get(prefix + key)
        if key.endswith(COUNTER):
            value = torch.zeros((), dtype=torch.long)
        if not isinstance(value, Tensor):
            raise AirlibError(f"these are not weights of {name}: {prefix}{key} is missing")
        own[key] = value if key.endswith(COUNTER) else value.float()
    try:
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise AirlibError(f"these are not weights of {name}: {reason}") from error
    return network


def random_state(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A state dict of random weights for `network`, the same every time; names start with `prefix`.

    Weights are normal and keep the size of a signal through ReLUs (He et al. 2015), biases are 0,
    and batch norms change nothing.
    """
    stream, state = rng(0, "random weights"), {}
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            scale = (2 / tensor[0].numel()) ** 0.5
            value = scale * torch.randn(tensor.shape, generator=stream)
        else:
            ones = key.endswith(("weight", "running_var"))
            value = torch.ones(tensor.shape) if ones else torch.zeros(tensor.shape)
        state[prefix + key] = value
    return state
