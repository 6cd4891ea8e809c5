"""The likelihood that a bundle's own postprocessing shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from monai.transforms import (
    Activations,
    Activationsd,
    AsDiscrete,
    AsDiscreted,
    Compose,
    Lambda,
    Lambdad,
)
from monai.utils.enums import CommonKeys

_SIGMOID, _SOFTMAX, _THRESHOLD = "a sigmoid", "a softmax", "a threshold"


def recognised_likelihood(postprocessing: Any, handlers: Iterable[Any] = ()) -> str | None:
    """Name of the family that the treatment of a network's output belongs to.

    A sigmoid means ``bernoulli``; a softmax or the largest output, ``categorical``. They are seen
    in ``Activations``, ``AsDiscrete``, ``Lambda`` and their dictionary forms, and in functions that
    name ``sigmoid`` or ``softmax``; where the postprocessing has none of them, in what the
    handlers make of the output (``ClassificationSaver(output_transform=...)``).

    Args:
        postprocessing: of the evaluator; None where it has none.
        handlers: of the evaluator.

    Returns:
        ``bernoulli`` or ``categorical``; None where there is nothing to see.

    Raises:
        ValueError: what is seen fits both families.

    >>> from monai.transforms import Activationsd
    >>> recognised_likelihood(Activationsd("pred", sigmoid=True))
    'bernoulli'
    >>> recognised_likelihood(None) is None
    True
    """
    seen, _ = shown_activations(postprocessing, handlers)
    if seen >= {_SIGMOID, _SOFTMAX} or seen == {_THRESHOLD}:
        raise ValueError(
            "expected a postprocessing that shows what the network predicts, got "
            f"{' and '.join(sorted(seen))}; pass --ifim_likelihood categorical (one of several "
            "classes) or --ifim_likelihood bernoulli (sigmoids)"
        )
    if not seen:
        return None
    return "bernoulli" if _SIGMOID in seen else "categorical"


def shown_activations(postprocessing: Any, handlers: Iterable[Any] = ()) -> tuple[set[str], str]:
    """What the treatment of a network's output shows of it, and where.

    Args:
        postprocessing: of the evaluator; None where it has none.
        handlers: of the evaluator.

    Returns:
        Some of "a sigmoid", "a softmax" and "a threshold"; "postprocessing" or "handlers".
    """
    signs = {(key, sign) for part in _parts(postprocessing) for key, sign in _signs(part)}
    place = "postprocessing"
    if not signs:
        functions = [getattr(handler, "_output_transform", None) for handler in handlers]
        functions += [getattr(handler, "output_transform", None) for handler in handlers]
        signs = {("", sign) for function in functions for sign in _signs_of(function)}
        place = "handlers"
    # Another key may be a mask or a label of its own.
    of_prediction = {sign for key, sign in signs if key == CommonKeys.PRED}
    return of_prediction or {sign for _, sign in signs}, place


def _parts(transform: Any) -> Iterator[Any]:
    if isinstance(transform, Compose):
        transform = transform.transforms
    if isinstance(transform, list | tuple):
        for part in transform:
            yield from _parts(part)
    elif transform is not None:
        yield transform


def _signs(transform: Any) -> Iterator[tuple[Any, str]]:
    """Key and sign; the key of a transform without keys is empty."""
    keys = list(getattr(transform, "keys", [""]))
    options: tuple[Any, ...]
    signs_of: Callable[..., Iterator[str]]
    if isinstance(transform, Activations | Activationsd):
        options = (transform.sigmoid, transform.softmax, transform.other)
        signs_of = _activation
    elif isinstance(transform, AsDiscrete | AsDiscreted):
        options, signs_of = (transform.argmax, transform.threshold), _discrete
    elif isinstance(transform, Lambda | Lambdad):
        options, signs_of = (transform.func,), _signs_of
    elif inspect.isroutine(transform):
        options, signs_of = (transform,), _signs_of
    else:
        return
    # Dictionary transforms hold one value for each key.
    each = zip(*options, strict=True) if hasattr(transform, "keys") else [options]
    for key, values in zip(keys, each, strict=True):
        yield from ((key, sign) for sign in signs_of(*values))


def _activation(sigmoid: bool, softmax: bool, other: Any) -> Iterator[str]:
    if sigmoid:
        yield _SIGMOID
    if softmax:
        yield _SOFTMAX
    yield from _signs_of(other)


def _discrete(argmax: bool, threshold: Any) -> Iterator[str]:
    if argmax:
        yield _SOFTMAX
    if threshold is not None and threshold is not False:
        yield _THRESHOLD


def _signs_of(function: Any) -> Iterator[str]:
    """What a function does, from its name and the names that it uses."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    names = [getattr(function, "__name__", type(function).__name__)]
    names += [] if code is None else code.co_names
    text = " ".join(names).lower()
    if "sigmoid" in text or "expit" in text:
        yield _SIGMOID
    if "softmax" in text or "argmax" in text:
        yield _SOFTMAX
