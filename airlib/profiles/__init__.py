"""Profiles: every number a notebook needs, in one TOML file per profile.

`tiny` is the embedded world on a laptop CPU, `paper` the published setting; both have the same
entries, so a notebook that runs with one runs with the other. A single number is changed by an
override with a dotted name, checked against what the profile already holds:

    profile = load_profile("tiny", {"methods.air.steps": 30})
    profile.methods.air.steps                        # 30
    profile.pairs["human-baby"].target_class         # "baby"
"""

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from airlib.errors import AirlibError


class UnknownEntry(AirlibError, KeyError, AttributeError):
    """Raised for a name that a profile does not have; the message lists the names it has.

    It is a KeyError and an AttributeError, too, so that `hasattr`, `in` and `.get` work.
    """

    __str__ = AirlibError.__str__  # KeyError would print the message in quotes


class Profile(Mapping):
    """A read-only table of numbers: `profile.methods.air` is `profile["methods"]["air"]`.

    Values are bool, int, float, str, tuples of them, or tables, which are `Profile` again. `name`
    is the name of the profile, the same in each of its tables. Raises UnknownEntry, an AirlibError,
    for a name that is not in the table.
    """

    def __init__(self, name: str, values: dict[str, Any], path: str = "") -> None:
        entries = {key: _freeze(name, value, _join(path, key)) for key, value in values.items()}
        self.__dict__.update(name=name, _path=path, _entries=entries)

    def __getitem__(self, key: str) -> Any:
        if key not in self._entries:
            raise UnknownEntry(_unknown(_join(self._path, str(key)), self, f"profile {self.name}"))
        return self._entries[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # not an entry: copy and pickle ask for such names
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AirlibError(f"profile {self.name} is read-only; give load_profile an override")

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self._entries.items())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Profile):
            return NotImplemented
        return self.name == other.name and self._entries == other._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Profile({self.name!r}, {self.as_dict()!r})"

    def as_dict(self) -> dict[str, Any]:
        """A copy of the table as dictionaries and lists: it can be changed, and written as JSON."""
        return {key: _thaw(value) for key, value in self.items()}


def profile_names() -> list[str]:
    """The names of the profiles that are shipped with airlib, sorted."""
    files = resources.files(__package__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_profile(
    name: str, overrides: Mapping[str, Any] | None = None, dry_run: bool = False
) -> Profile:
    """Read the profile `name` ("tiny" or "paper") and replace the entries that `overrides` names.

    overrides: dotted name -> value, such as {"methods.air.steps": 30}. dry_run: first apply the
    profile's own table of that name, the smallest numbers that still touch everything.

    Raises AirlibError for an unknown profile, an override of an entry that the profile does not
    have or that is a table, and a value of another type than the entry (an int may stand for a
    float). The message lists what is allowed.
    """
    if name not in profile_names():
        raise AirlibError(f"unknown profile {name!r}; choose from {', '.join(profile_names())}")
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    if not isinstance(overrides or {}, Mapping):
        raise AirlibError('overrides must be a dict such as {"methods.air.steps": 30}')
    small = values["dry_run"] if dry_run else {}
    for key, value in {**small, **(overrides or {})}.items():
        _override(values, str(key), value, f"profile {name}")
    return Profile(name, values)


def pairs_of_role(profile: Profile, role: str) -> list[str]:
    """Names of a profile's pairs of one role.

    role: "development" (numbers were chosen on these pairs), "table" (the reported ones), "unseen"
    (in the training of neither CLIP nor hypernetwork); "diffusion-development" and
    "diffusion-table" are pairs of a diffusion source.
    """
    return [name for name, pair in profile.pairs.items() if pair.role == role]


def method_names(profile: Profile) -> list[str]:
    """Names of everything that a pair can be adapted by: a profile's methods, then its arms.

    An arm is a method with some of its numbers changed.
    """
    return [*profile.methods, *profile.arms]


def method_numbers(profile: Profile, name: str) -> dict[str, Any]:
    """The numbers of a method as a dictionary; for an arm, its method's with the arm's changes.

    Raises AirlibError for an unknown name.
    """
    if name in profile.methods:
        return profile.methods[name].as_dict()
    if name in profile.arms:
        changes = profile.arms[name].as_dict()
        return profile.methods[changes.pop("method")].as_dict() | changes
    known = ", ".join(method_names(profile))
    raise AirlibError(f"unknown method {name!r}; choose from {known}")


def _override(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    path = ""
    for part in [*tables, last]:
        path = _join(path, part)
        if not isinstance(values, dict) or part not in values:
            raise AirlibError(_unknown(path, values, where))
        parent, values = values, values[part]
    if isinstance(values, dict):
        raise AirlibError(
            f"{key} is a table of {where}; override one of its entries: "
            + ", ".join(_join(key, entry) for entry in values)
        )
    parent[last] = checked(key, values, value)


def checked(key: str, old: Any, new: Any) -> Any:
    """`new` as a value that can stand where `old` stood: of its type, an int for a float too.

    Raises AirlibError that names the entry `key` for another type and for infinite numbers.
    """
    if isinstance(old, list):
        if not isinstance(new, list | tuple):
            raise AirlibError(f"{key} must be a list such as {old}, not {new!r}")
        return [checked(key, old[0], entry) if old else entry for entry in new]
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    if type(new) is not type(old):
        raise AirlibError(f"{key} must be of type {type(old).__name__} like {old!r}, not {new!r}")
    if isinstance(new, float) and not math.isfinite(new):
        raise AirlibError(f"{key} must be a finite number, not {new!r}")
    return new


def _unknown(path: str, known: Any, where: str) -> str:
    if not isinstance(known, Mapping):
        return f"{path} does not exist in {where}: {path.rpartition('.')[0]} is not a table"
    parent, _, last = path.rpartition(".")
    close = difflib.get_close_matches(last, known, n=1)
    hint = f"; did you mean {_join(parent, close[0])}?" if close else ""
    return f"{path} does not exist in {where}{hint} (known: {', '.join(known)})"


def _freeze(name: str, value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return Profile(name, value, path)
    return tuple(value) if isinstance(value, list) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, Profile):
        return value.as_dict()
    return list(value) if isinstance(value, tuple) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
