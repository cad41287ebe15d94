"""How an importer is written: a table of (source name pattern, our name, transform).

    TABLE = [
        (r"style\\.(\\d+)\\.weight", lambda m: f"mapping.fc{int(m[1]) - 1}.weight", None),
        (r"input\\.input", "synthesis.b4.const", lambda tensor: tensor[0]),
    ]
    IGNORED = {r".*\\.kernel": "low-pass filter, a constant of the architecture"}
    tensors = translate(state, TABLE, IGNORED, shapes_of(network), path=path)

A table is strict in both directions: a source tensor that is neither used nor listed as ignored,
two sources for one target, a target without a source, and one of another shape are errors that name
the tensors. So a file of a slightly different architecture is refused instead of being half
understood. What comes out is float32, whatever the file has; integers stay integers.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from airlib.errors import AirlibError

Target = str | Callable[[re.Match], str]
"""Our name: a template for `re.Match.expand` (backslash and group number), or a function of the
match."""
Rule = tuple[str, Target, Callable[[Tensor], Tensor] | None]
"""(pattern that matches the whole source name, our name, transform or None for a plain copy)."""

SHOWN = 4  # names in an error message; more do not help


@dataclass(frozen=True)
class Imported:
    """What the importer of a foreign weight file returns: one of our networks, not yet built.

    kind: "stylegan2", "unet", "clip" or "e4e".
    source: the foreign format in words, e.g. "NVIDIA StyleGAN2-ADA pickle".
    tensors: the state of our network, float32.
    config: what rebuilds the network, JSON-able (for "stylegan2": `StyleGAN2.config_dict()`).
    ignored: the source tensors that were left out, each as "name: reason".
    """

    kind: str
    source: str
    tensors: dict[str, Tensor]
    config: dict
    ignored: tuple[str, ...] = ()


def translate(
    source: Mapping[str, Tensor],
    table: Sequence[Rule],
    ignored: Mapping[str, str],
    targets: Mapping[str, Sequence[int]],
    *,
    path: str | Path,
) -> dict[str, Tensor]:
    """Rename and transform the tensors of a foreign file: our name -> tensor, contiguous, float32.

    source: the file's tensors by name. table: rules (pattern, our name, transform); the pattern is
    a regular expression for a whole name, our name a template for `re.Match.expand` or a function
    of the match, and None as transform means a copy. Every rule that matches a name applies, so one
    tensor can fill several targets. ignored: pattern of names to leave out -> reason; it goes
    before the table. targets: our name -> shape to be filled. path: the file that errors name.

    Raises AirlibError if a tensor is not understood, or the result is not exactly `targets`.
    """
    result: dict[str, Tensor] = {}
    unknown, doubled = [], []
    used = {str(key): value for key, value in source.items() if not _reason(str(key), ignored)}
    _check_number(path, used, targets)
    patterns = [(re.compile(rule[0]), rule) for rule in table]
    for name, tensor in used.items():
        matches = [(match, rule) for known, rule in patterns if (match := known.fullmatch(name))]
        if not matches:
            unknown.append(name)
        for match, (_, target, transform) in matches:
            ours = target(match) if callable(target) else match.expand(target)
            if ours in result:
                doubled.append(ours)
            result[ours] = _single(_apply(transform, tensor, name, path))
    _complain(path, "holds tensors that this importer does not know", unknown)
    _complain(path, "fills these tensors of our network twice", doubled)
    _complain(path, "holds tensors that our network does not have", result.keys() - targets)
    _complain(path, "lacks tensors of our network", targets.keys() - result.keys())
    found = {name: list(tensor.shape) for name, tensor in result.items()}
    wrong = [name for name, shape in targets.items() if found[name] != list(shape)]
    wrong = [f"{name} {found[name]} instead of {list(targets[name])}" for name in wrong]
    _complain(path, "holds tensors of other shapes than our network", wrong)
    return result


def _check_number(path: str | Path, used: Mapping, targets: Mapping) -> None:
    """Refuse what has far more tensors than our network before each meets every rule."""
    if len(used) > 2 * len(targets) + 100:
        raise AirlibError(
            f"{path} holds {len(used)} tensors and our network only {len(targets)}; it has another "
            "architecture, or it is not the file you meant"
        )


def _single(tensor: Tensor) -> Tensor:
    """The tensor in float32, contiguous; counters stay integers."""
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _apply(
    transform: Callable[[Tensor], Tensor] | None, tensor: Tensor, name: str, path: str | Path
) -> Tensor:
    """The transformed tensor; a shape that the transform cannot take is the file's fault."""
    if not isinstance(tensor, Tensor):
        raise AirlibError(f"{path} holds a {type(tensor).__name__} as {name}; it is damaged")
    try:
        return tensor if transform is None else transform(tensor)
    except (IndexError, RuntimeError, ValueError) as error:
        raise AirlibError(
            f"{path} holds {name} in the wrong shape {list(tensor.shape)}; it has another "
            "architecture, or it is damaged"
        ) from error


def numbers(names: Iterable[str], pattern: str) -> set[int]:
    """The numbers that occur in tensor names, such as those of layers.

    pattern: a regular expression for a whole name, with the number as its first group; other names
    are passed over.
    """
    matches = (re.fullmatch(pattern, str(name)) for name in names)
    return {int(match[1]) for match in matches if match}


def ignored_names(source: Iterable[str], ignored: Mapping[str, str]) -> tuple[str, ...]:
    """The names of `source` that `translate` leaves out, each as "name: reason".

    ignored: pattern of names to leave out -> reason, as for `translate`.
    """
    reasons = {str(name): _reason(str(name), ignored) for name in source}
    return tuple(f"{name}: {reason}" for name, reason in reasons.items() if reason)


def _reason(name: str, ignored: Mapping[str, str]) -> str | None:
    return next((why for pattern, why in ignored.items() if re.fullmatch(pattern, name)), None)


def _complain(path: str | Path, problem: str, names: Iterable[str]) -> None:
    names = sorted(names)
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise AirlibError(
            f"{path} {problem}: {', '.join(names[:SHOWN])}{more}; it has another architecture, "
            "or it is not the file you meant"
        )
