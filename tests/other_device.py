"""A second device for machines that have none: tensors that compute on the CPU but call themselves
"lazy", and refuse to meet a tensor of the CPU where a GPU would.

    with other_device():
        network.to(DEVICE)(latents.to(DEVICE))      # latents alone would raise, as on a GPU

What raises: an operation on tensors of both devices (numbers as tensors without dimensions and
indices are allowed, as in PyTorch), random numbers there from a generator of the CPU, `numpy()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("lazy")
MIXED = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "set_"}


class Elsewhere(Tensor):
    """A tensor of the second device around one of the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        outer = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})

    def __format__(self, spec):
        return format(self.cpu(), spec)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self):
        raise TypeError("a tensor of another device is no array; copy it by cpu() first")

    def __array__(self, *_):
        return self.numpy()


class Factories(TorchDispatchMode):
    """Catches what makes tensors from none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Constructors(TorchFunctionMode):
    """What makes a tensor below the reach of `Factories`: torch.tensor, and a list as an index."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.__getitem__ and isinstance(args[1], list):
            args = args[0], torch.tensor(args[1])
        return function(*args, **kwargs)


def run(function, args: tuple, kwargs: dict):
    name = function.overloadpacket.__name__
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim() > 0]
    wanted = kwargs.get("device")
    if there and here and name not in MIXED:
        shapes = [tuple(x.shape) for x in there], [tuple(x.shape) for x in here]
        raise RuntimeError(f"{name} on tensors of two devices: {shapes[0]} there, {shapes[1]} here")
    if not there and not (tensors == [] or name == "_to_copy") or wanted is None and not there:
        return function(*args, **kwargs)
    stays = torch.device(wanted) == DEVICE if wanted is not None else True
    if stays and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name} there with a random generator of the CPU")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if name == "copy_" or name.endswith("_") and isinstance(args[0], Elsewhere):
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) and stays else x, result)


def _inner(x):
    return x.inner if isinstance(x, Elsewhere) else x


@contextmanager
def other_device() -> Iterator[None]:
    """Within it `.to(DEVICE)` moves tensors and networks, and factories know the device."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Factories(), Constructors():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
