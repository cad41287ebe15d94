"""Whether what a pickle built can be walked through: a tree of bounded size and depth.

A pickle of 300 bytes can build a list that holds itself, or one that holds a list twice, which
holds a list twice, ...: 60 objects, and 2^60 steps for whoever looks at all of them.
"""

from collections.abc import Iterable
from pickle import UnpicklingError

MOST_OBJECTS = 1_000_000  # twice the instructions that a program may have
DEEPEST = 200  # a module inside a module is three levels deeper


def check_finite(root: object) -> None:
    """Refuse data that contain themselves, nest 200 levels deep or have a million objects.

    An object counts as often as it is reached. Contents are the items of a list, tuple or set, the
    values of a dictionary and the attributes of any other object. Raises UnpicklingError.
    """
    sizes: dict[int, int] = {}  # id -> objects in it and below, 0 while it is being walked
    path = [(root, iter(_contents(root)))]
    sizes[id(root)] = 0
    while path:
        value, contents = path[-1]
        for child in contents:
            known = sizes.get(id(child))
            if known == 0:
                raise UnpicklingError("holds an object that contains itself")
            if known is None and (below := _contents(child)):
                if len(path) == DEEPEST:
                    raise UnpicklingError(f"nests its data more than {DEEPEST} levels deep")
                sizes[id(child)] = 0
                path.append((child, iter(below)))
                break
        else:
            path.pop()
            sizes[id(value)] = 1 + sum(sizes.get(id(child), 1) for child in _contents(value))
            if sizes[id(value)] > MOST_OBJECTS:
                raise UnpicklingError("builds far more objects than any network has")


def _contents(value: object) -> Iterable:
    """What a value holds; the numbers of tensors and arrays do not count."""
    if isinstance(value, list | tuple | set):
        return value
    return (value if isinstance(value, dict) else getattr(value, "__dict__", {})).values()
