"""What may move of a generator when it is adapted: the class of all parameterizations.

    def select(adapted):                                     # the simple way: choose tensors
        return {name: p for name, p in adapted.named_parameters() if "torgb.weight" in name}

    colours = Parameterization("colours", select)
    trainable = colours.attach(source.copy_frozen())         # {name: parameter}, all else frozen

`select` may add tensors to the generator first, as long as they change no image yet: a
parametrization (`torch.nn.utils.parametrize`), an adapter, a vector. An adaptation saves the name
of its parameterization and the tensors that moved. To apply it, the parameterization is made again
by its name (`airlib.parameterizations.registry`), attached to a copy of the source, and the tensors
are loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.generators.base import Generator

G = TypeVar("G", bound=Generator)
Select = Callable[[Any], dict[str, nn.Parameter]]
AND = " + "
"""Between the names of parameterizations that act together."""


class Parameterization:
    """Which tensors of a generator an adaptation trains.

    Args:
        name: what files and profiles call it; registered under this name, it can be made again.
        select: generator -> the tensors to train, by their names in `named_parameters()`. It may
            first add tensors that change nothing yet.
        whole: whether it wants a generator `with_mapping`, whose latents are z.
        kind: the class of generators that it fits.

    A subclass may override `bind`, `before_step`, and `mixed` together with `family`.
    """

    def __init__(
        self, name: str, select: Select, whole: bool = False, kind: type[nn.Module] = nn.Module
    ) -> None:
        self.name, self.select, self.whole, self.kind = name, select, whole, kind

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def family(self) -> str:
        """Adaptations whose parameterizations have the same family are mixed by one `mixed`."""
        return self.name

    @property
    def module(self) -> str:
        """The dotted name of the Python module that defines this parameterization."""
        defined = self.select if type(self) is Parameterization else type(self)
        return defined.__module__

    @property
    def parts(self) -> Sequence["Parameterization"]:
        """The parameterizations that act together here: this one alone, unless it is a `Joint`."""
        return [self]

    def bind(self, space: ClipSpace, target_class: str) -> "Parameterization":
        """The parameterization for one target text, for those that look at CLIP while they train.

        Every other parameterization returns itself.
        """
        return self

    def attach(self, adapted: nn.Module) -> dict[str, nn.Parameter]:
        """Add the tensors that are needed to `adapted`, make exactly these trainable, and return
        them by name. The images of `adapted` stay as they are.

        Raises AirlibError for a generator of another kind, and if nothing can be trained.
        """
        found = type(adapted).__name__
        if not isinstance(adapted, self.kind):
            raise AirlibError(
                f"{self.name!r} is for a {self.kind.__name__} and this is a {found}; "
                "parameterization_names() lists others"
            )
        adapted.requires_grad_(False)
        chosen = self.select(adapted)
        known = dict(adapted.named_parameters(remove_duplicate=False))
        if not chosen or any(known.get(name) is not p for name, p in chosen.items()):
            raise AirlibError(
                f"{self.name!r} names nothing trainable in this {found}; "
                "its `select` must return parameters by their names in named_parameters()"
            )
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        return chosen

    def before_step(self, adapted: nn.Module, trainable: dict[str, nn.Parameter], rng: Rng) -> None:
        """Called before every step, to narrow the trainable tensors to those of this step.

        adapted, trainable: the generator and what `attach` returned for it. rng: the stream of
        random numbers of this step. By default all tensors move in every step.
        """

    def mixed(
        self,
        neutral: Mapping[str, Tensor],
        states: Sequence[Mapping[str, Tensor]],
        shares: Sequence[float],
    ) -> tuple["Parameterization", dict[str, Tensor]]:
        """The tensors of a mixture, and the parameterization that they belong to.

        neutral: the tensors right after `attach`. states: those of the adaptations that are mixed;
        shares: one number each. The default is right where images depend on the tensors as on
        weights, neutral + sum_i shares_i (states_i - neutral), and keeps the parameterization.
        """
        total = dict(neutral)
        for state, share in zip(states, shares, strict=True):
            for name, value in state.items():
                total[name] = total[name] + share * (value - neutral[name])
        return self, total

    def applied(self, source: G, tensors: Mapping[str, Tensor]) -> G:
        """A frozen copy of `source` that has `tensors` where `attach` put trainable ones.

        Raises AirlibError if names or shapes of `tensors` are not exactly those.
        """
        adapted = source.copy_frozen()
        trainable = self.attach(adapted)
        load(trainable, tensors)
        return adapted.requires_grad_(False).eval()


class Joint(Parameterization):
    """Several parameterizations that act together, such as "affine + domain_vector".

    Raises AirlibError from `attach` if they cannot: one may rename what another one trains.
    """

    def __init__(self, parts: Sequence[Parameterization]) -> None:
        super().__init__(AND.join(p.name for p in parts), self._select, any(p.whole for p in parts))
        self._parts = list(parts)

    @property
    def parts(self) -> Sequence[Parameterization]:
        return self._parts

    @property
    def module(self) -> str:
        return AND.join(part.module for part in self.parts)

    def bind(self, space: ClipSpace, target_class: str) -> Self:
        return type(self)([part.bind(space, target_class) for part in self.parts])

    def before_step(self, adapted: nn.Module, trainable: dict[str, nn.Parameter], rng: Rng) -> None:
        for part in self.parts:
            part.before_step(adapted, trainable, rng)

    def _select(self, adapted: Any) -> dict[str, nn.Parameter]:
        alone: set[str] = set()
        for part in self.parts:
            alone |= part.attach(adapted.copy_frozen()).keys()
        together: dict[str, nn.Parameter] = {}
        try:
            for part in self.parts:
                together |= part.attach(adapted)
        except AirlibError:
            together = {}  # what it trains alone is hidden by another part
        names = {name for name, _ in adapted.named_parameters(remove_duplicate=False)}
        if together.keys() != alone or not alone <= names:
            raise AirlibError(
                f"{self.name} cannot act together: one replaces weights that another one trains"
            )
        return together


def joined(parameterizations: Sequence[Parameterization]) -> Parameterization:
    """One parameterization that stands for all of them, each name once."""
    parts = {part.name: part for one in parameterizations for part in one.parts}
    return Joint(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))


def check(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise AirlibError if tensors of an adaptation have other names or shapes than expected."""
    if unknown := tensors.keys() - expected.keys():
        raise AirlibError(f"this adaptation holds unknown tensors ({min(unknown)}); make it again")
    if missing := expected.keys() - tensors.keys():
        raise AirlibError(f"this adaptation lacks tensors ({min(missing)}); make it again")
    if any(value.shape != expected[name].shape for name, value in tensors.items()):
        raise AirlibError("this adaptation holds tensors of other shapes; make it again")


@torch.no_grad()
def load(trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` into the trainable ones of the same names.

    Raises AirlibError if names or shapes are not exactly the same.
    """
    check(trainable, tensors)
    for name, parameter in trainable.items():
        parameter.copy_(tensors[name])
