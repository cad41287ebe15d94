"""What is computed once for each world, and forgotten with it.

    @remembered
    def prior_of(world, samples, floor): ...          # like functools.cache

`functools.cache` would keep every world that was ever opened, and its references, to the end of the
process: gigabytes in a long notebook or sweep.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

W = TypeVar("W")
R = TypeVar("R")
P = ParamSpec("P")


def remembered(function: Callable[Concatenate[W, P], R]) -> Callable[Concatenate[W, P], R]:
    """Call a function of a world, or a method of one, once for each set of other arguments.

    These must be hashable, and the result must not refer to the world.
    """
    kept: WeakKeyDictionary[W, dict[Any, R]] = WeakKeyDictionary()

    @wraps(function)
    def call(world: W, *arguments: P.args, **named: P.kwargs) -> R:
        found, key = kept.setdefault(world, {}), (arguments, tuple(sorted(named.items())))
        if key not in found:
            found[key] = function(world, *arguments, **named)
        return found[key]

    return call
