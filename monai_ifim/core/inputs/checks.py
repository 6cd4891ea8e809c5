"""What several inputs of a network must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_network
from monai_ifim.core.inputs.layout import Name, Scale


def named_inputs(network: nn.Module, inputs: Mapping[Any, Any] | Sequence[Any]) -> dict[Name, Any]:
    """All inputs by name, those of a tuple by their positions.

    Args:
        network: that is called with them.
        inputs: a dictionary or a tuple.

    Returns:
        A dictionary of its own.

    Raises:
        TypeError: the network is no module, or the inputs are neither.
    """
    if not isinstance(network, nn.Module):
        check_network(network)
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(
            f"expected the inputs as a dictionary or a tuple, got {type(inputs).__name__}; a "
            "network of one input needs no SeveralInputs: eigenspace(network, images)"
        )
    return dict(enumerate(inputs))


def as_names(wrt: Name | Sequence[Name], inputs: Mapping[Name, Any]) -> list[Name]:
    """The inputs that F is about.

    Args:
        wrt: their names, or one.
        inputs: all, by name.

    Returns:
        The names as a list.

    Raises:
        TypeError: one that is no tensor, or has no gradient.
        ValueError: none, unknown ones, or one twice.
    """
    fitting = [n for n, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()]
    if not fitting:
        kinds = {n: _kind(v) for n, v in inputs.items()}
        raise ValueError(
            f"expected at least one floating-point input, got {kinds}: integers have no gradient; "
            "scale the image as in training, for example with image.float()"
        )
    names = [wrt] if isinstance(wrt, (str, int)) else list(wrt)
    unknown = [name for name in names if name not in inputs or isinstance(name, bool)]
    if unknown or not names or len(set(names)) < len(names):
        known = {n.lower(): n for n in inputs if isinstance(n, str)}
        close = [known[c] for n in unknown for c in get_close_matches(str(n).lower(), known, n=1)]
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"expected wrt from {list(inputs)}, each once, got {names}{hint}; name the inputs that "
            f"F is about, for example {fitting}"
        )
    for name in names:
        if name not in fitting:
            raise TypeError(
                f"expected floating-point tensors in wrt, got {_kind(inputs[name])} for {name!r}, "
                "which has no gradient; leave it out of wrt, and it is held fixed"
            )
    return names


def check_batch(inputs: Mapping[Name, Any]) -> None:
    """Refuse tensors of which each image does not have one.

    Args:
        inputs: all, by name.

    Raises:
        ValueError: the first axes differ, or there is none.
    """
    shapes = {name: tuple(v.shape) for name, v in inputs.items() if isinstance(v, Tensor)}
    if not all(shapes.values()) or len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(
            "expected inputs with the same number of images along their first axis, got "
            f"{shapes}; expand what all images share, as x.expand(batch, ...), or give it in a "
            "function call=lambda network, inputs: ..."
        )


def check_scales(
    scale: Scale | Mapping[Any, Scale] | None, shapes: Mapping[Name, tuple[int, ...]]
) -> dict[Name, Scale]:
    """One scale for each input.

    Args:
        scale: by name, one for all, or None.
        shapes: of the inputs without the axis of the batch.

    Returns:
        Numbers, or tensors that fit the inputs.

    Raises:
        ValueError: missing where there are several inputs, unknown names, not positive, or of
            another shape.
    """
    names = list(shapes)
    if scale is None and len(names) > 1:
        raise ValueError(
            f"expected a scale for each of {names}, because F adds up changes of different units, "
            "got none; give the standard deviation of each over the data, or scale=1.0 where they "
            "share a unit"
        )
    chosen = dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(names, scale)
    if set(chosen) != set(names):
        raise ValueError(
            f"expected a scale for each of {names} in wrt, got {list(chosen)}; inputs that are "
            "held fixed need none"
        )
    return {name: _scale(name, chosen[name], shapes[name]) for name in names}


def _scale(name: Name, scale: Scale | None, shape: tuple[int, ...]) -> Scale:
    if scale is None:
        return 1.0
    values = torch.as_tensor(scale, dtype=torch.float64).detach().as_subclass(Tensor)
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        raise ValueError(
            f"expected a scale > 0 for {name!r}, got {scale}; is a column constant over the data? "
            "Give it 1"
        )
    fits = values.ndim <= len(shape) and all(
        v in (1, s) for v, s in zip(reversed(values.shape), reversed(shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"expected a scale for {name!r} that fits {shape}, the shape of one image's, got "
            f"{tuple(values.shape)}; a number is for all of it"
        )
    return values if values.ndim else float(values)


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
