"""What can be chosen about an eigenspace: one value, for every entry point.

A new option is a field of ``EigenspaceOptions``, a line of ``OptionKeywords``, and its use;
``eigenspace``, the handler and the transforms take it as a keyword from then on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypedDict, TypeVar, cast

from torch import nn

from monai_ifim.core.changes.perturbation import Perturbation, check_perturbation
from monai_ifim.core.checks import check_chunk, check_rank
from monai_ifim.core.families import Family, as_likelihood, part_of
from monai_ifim.core.gradients.logits import OutputTransform
from monai_ifim.core.solvers import Solver, as_solver

T = TypeVar("T", bound=Callable[..., Any])


class OptionKeywords(TypedDict, total=False):
    """The fields of ``EigenspaceOptions`` as keywords, for type checkers."""

    likelihood: str | Family
    classes: Sequence[int] | None
    groups: Sequence[Sequence[int]] | None
    perturbation: Perturbation | None
    rank: int | None
    energy: float | None
    method: str | Solver
    tolerance: float | None
    head: nn.Linear | None
    output_transform: OutputTransform | None
    vjp_chunk: int | str | None
    offload: bool
    autocast: bool


@dataclass(frozen=True)
class EigenspaceOptions:
    """Choices about an eigenspace, checked when they are made.

    Attributes:
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or an object.
        classes: numbers of classes: the prediction given that one of them is true (of sigmoids:
            these labels alone).
        groups: numbers of classes, group by group: the prediction with these taken together.
        perturbation: which changes of the image are considered, ``Mask``, ``Smooth``,
            ``NoiseSpectrum`` or another object with A and Aᵀ; all of them by default.
        rank: keep at most this many eigenpairs; all of them by default.
        energy: keep, for each image, the fewest that reach this share of the trace of F.
        method: ``"auto"``, ``"exact"``, ``"truncated"`` or ``"krylov"``, or an object: ``Auto``,
            ``Exact``, ``Truncated``, ``Krylov``.
        tolerance: of the method that is named; an object has its own.
        head: a linear layer whose weights order the directions, where the graph of the pass does
            not show the last one; no direction is left out because of it.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        vjp_chunk: how many backward passes to batch; ``"auto"`` is what was measured to be
            fastest, a few batches for small images on a CPU and else a loop; None is always a
            loop, the least memory. Halved when a GPU's memory does not suffice.
        offload: keep the gradients in the CPU's memory, also when the images are on a GPU.
        autocast: leave the caller's autocast on (it is switched off by default, because
            reduced precision puts the gradients several percent off).

    Raises:
        ValueError: an unknown name, or a number out of range.

    >>> EigenspaceOptions(method="truncated", tolerance=1e-3).solver
    Truncated(tolerance=0.001)
    """

    likelihood: str | Family = "categorical"
    classes: Sequence[int] | None = None
    groups: Sequence[Sequence[int]] | None = None
    perturbation: Perturbation | None = None
    rank: int | None = None
    energy: float | None = None
    method: str | Solver = "auto"
    tolerance: float | None = None
    head: nn.Linear | None = None
    output_transform: OutputTransform | None = None
    vjp_chunk: int | str | None = "auto"
    offload: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        part_of(as_likelihood(self.likelihood), self.classes, self.groups)
        check_perturbation(self.perturbation)
        as_solver(self.method, self.tolerance)
        check_rank(self.rank, self.energy)
        check_chunk(self.vjp_chunk)

    @property
    def family(self) -> Family:
        """The predictive family as an object."""
        return part_of(as_likelihood(self.likelihood), self.classes, self.groups)

    @property
    def solver(self) -> Solver:
        """The method as an object."""
        return as_solver(self.method, self.tolerance)


def chosen_options(
    options: EigenspaceOptions | Mapping[str, Any] | None, keywords: OptionKeywords
) -> EigenspaceOptions:
    """The value that an entry point was given in one of two ways.

    Args:
        options: a value, its fields as a mapping, or None.
        keywords: its fields.

    Returns:
        The value; keywords replace the fields of ``options``.

    Raises:
        TypeError: a keyword that is no field.
        ValueError: an unknown name, or a number out of range.

    >>> chosen_options(EigenspaceOptions(rank=3), {"offload": True}).rank
    3
    >>> chosen_options(None, {"rnk": 3})
    Traceback (most recent call last):
        ...
    TypeError: expected one of the arguments likelihood, classes, groups, perturbation, rank, \
energy, method, tolerance, head, output_transform, vjp_chunk, offload, autocast, got 'rnk'; did \
you mean 'rank'?
    """
    _check_names(keywords, [field.name for field in fields(EigenspaceOptions)])
    if isinstance(options, Mapping):  # as configuration files write it
        return chosen_options(None, cast(OptionKeywords, {**options, **keywords}))
    if options is None:
        return EigenspaceOptions(**keywords)
    return replace(options, **keywords) if keywords else options


def with_option_keywords(function: T) -> T:
    """Show the options one by one in the signature, in the place of ``**keywords``.

    Args:
        function: that takes the fields of ``EigenspaceOptions`` as its last keywords.

    Returns:
        The function, which refuses a misspelt keyword with the names of all.

    >>> @with_option_keywords
    ... def f(x: int, **keywords): ...
    >>> list(inspect.signature(f).parameters)[:4]
    ['x', 'likelihood', 'classes', 'groups']
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    spelled = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(EigenspaceOptions)
    ]
    names = [parameter.name for parameter in (*own, *spelled) if parameter.name != "self"]

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_names(kwargs, names)
        return function(*args, **kwargs)

    checked.__signature__ = signature.replace(parameters=[*own, *spelled])  # type: ignore[attr-defined]
    return cast(T, checked)


def _check_names(keywords: Iterable[str], names: Sequence[str]) -> None:
    for name in keywords:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            fix = f"did you mean {close[0]!r}?" if close else "leave it out"
            raise TypeError(
                f"expected one of the arguments {', '.join(names)}, got {name!r}; {fix}"
            )
