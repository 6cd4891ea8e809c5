"""Pooling over a stream of batches."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_images
from monai_ifim.core.decomposition import decompose
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families.family import Likelihood
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.forward import run_forward
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)
from monai_ifim.core.pooling.digest import network_name
from monai_ifim.core.pooling.pool import Pool
from monai_ifim.core.pooling.pooled import PooledEigenspace

# Rows of the sketch for each eigenpair that is kept.
ROWS = 4
_RANK = 10
_WEIGHTS = ("unit_trace", "equal")

Weights = str | Sequence[float] | Tensor


@overload
def pooled_eigenspace(
    network: nn.Module, batches: Iterable[Any], *, by: None = None, **choices: Any
) -> PooledEigenspace: ...
@overload
def pooled_eigenspace(
    network: nn.Module, batches: Iterable[Any], *, by: str, **choices: Any
) -> dict[int, PooledEigenspace]: ...
@with_option_keywords
def pooled_eigenspace(
    network: nn.Module,
    batches: Iterable[Any],
    *,
    weights: Weights = "unit_trace",
    sketch: int | None = None,
    by: str | None = None,
    control: str | None = None,
    options: EigenspaceOptions | None = None,
    **keywords: Any,
) -> PooledEigenspace | dict[int, PooledEigenspace]:
    """Leading eigenspace of F̄ = Σ w_i F(x_i) / Σ w_i over a stream of images.

    One image's eigenspace is mostly that training's noise; the pooled one shows what was learned.
    The passes are those of ``eigenspace`` for each batch, the memory that of two sketches. The
    network is left as it was.

    Args:
        network: classifier or segmentation network, as in ``eigenspace``.
        batches: of images (B, C, *S): tensors, pairs of images and labels, or dictionaries with
            ``"image"`` and ``"label"``; or one tensor. All of one shape.
        weights: ``"unit_trace"``, each F(x) / tr F(x), because with equal weights the few images
            of which the network is unsure rule; ``"equal"``; or one number for each image.
        sketch: rows to keep of each half of the images; four times the rank by default. Nothing is
            dropped before twice as many have come.
        by: ``"prediction"`` or ``"label"`` for one result for each class.
        control: ``"random_weights"`` pools the same images with weights drawn anew
            (``PooledEigenspace.control``), at the cost of as many passes.
        options: a value that holds all choices about the eigenspace; instead of ``keywords``.
        keywords: the fields of ``EigenspaceOptions``, for example ``likelihood``; ``rank`` is that
            of the result, 10 by default. All pairs of each image are pooled (of a dense
            prediction, which has too many, as many).

    Returns:
        The pooled eigenspace, or one for each class that occurs. Images without a direction (not
        finite, or with a trace of 0) are left out, with a warning, and counted.

    Raises:
        TypeError: a batch that holds no images.
        ValueError: no or one image, shapes that differ between batches, or impossible choices.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> space = pooled_eigenspace(network, [torch.randn(8, 1, 3, 4) for _ in range(3)], rank=2)
    >>> space.count, space.eigenvectors.shape, round(space.trace, 6)
    (24, torch.Size([2, 1, 3, 4]), 1.0)
    """
    options = chosen_options(options, cast(OptionKeywords, keywords))
    rank = _RANK if options.rank is None else options.rank
    size = ROWS * rank if sketch is None else sketch
    _check_choices(options, size, weights, by, control)
    network = unwrap(network)
    untrained = None if control is None else random_weights(network)
    pools: dict[int, Pool] = {}
    seen = 0
    for images, labels in _batches(batches):
        space = _eigenspace(network, images, options)
        other = None if untrained is None else _eigenspace(untrained, images, options)
        given = _given(weights, seen, len(images))
        groups = _groups(by, space, labels)
        for group in sorted(set(groups.tolist())):
            pool = pools.setdefault(group, Pool(rank, size, weights, control is not None))
            pool.add(space, groups == group, given, other)
        seen += len(images)
    about = {"network": network_name(network)}
    results = {g: replace(one, about=about) for g, one in _results(pools, seen).items()}
    return results if by is not None else next(iter(results.values()))


def random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a network with weights drawn anew; the global random state is left as it was.

    Args:
        network: to be copied.
        seed: of the weights.

    Returns:
        The copy. Modules that can initialise themselves do; the other parameters are shuffled.
    """
    other = copy.deepcopy(network)
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for module in other.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel())
                parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    return other


def _results(pools: Mapping[int, Pool], seen: int) -> dict[int, PooledEigenspace]:
    """What was pooled, group by group."""
    if seen < 2:
        raise ValueError(
            f"expected at least two images, whose halves can be compared, got {seen}; is the data "
            "set empty? For one image use eigenspace"
        )
    results = {group: pool.result() for group, pool in sorted(pools.items()) if pool.count}
    if not results:
        raise ValueError(
            "expected images on which the prediction depends, got none: every one has a trace of 0 "
            "or is not finite; look at the preprocessing and at the eigenspace of one image"
        )
    left_out = sum(pool.left_out for pool in pools.values())
    if left_out:
        warnings.warn(
            f"{left_out} of {seen} images were left out of the pooled eigenspace: not finite, or "
            "with a trace of 0",
            stacklevel=4,
        )
    return results


def _eigenspace(network: nn.Module, images: Tensor, options: EigenspaceOptions) -> Eigenspace:
    """All pairs of each image; NaN for one that is not finite."""
    with at_rest(network, images.device, autocast=options.autocast):
        forward = run_forward(network, images, output_transform=options.output_transform)
        rank = options.rank if forward.logits.ndim > 2 else None
        return decompose(forward, replace(options, rank=rank), network=network)


def _batches(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
    """Images and labels of each batch; the images of all have one shape."""
    shape: torch.Size | None = None
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        images, labels = batch, None
        if isinstance(batch, Mapping):
            images, labels = batch.get("image"), batch.get("label")
        elif isinstance(batch, (tuple, list)):
            images, labels = batch[0], batch[1] if len(batch) > 1 else None
        check_images(images)
        shape = images.shape[1:] if shape is None else shape
        if images.shape[1:] != shape:
            raise ValueError(
                f"expected images of one shape, got {tuple(shape)} and {tuple(images.shape[1:])}; "
                "resize or crop them all in the same way"
            )
        yield images, labels


def _groups(by: str | None, space: Eigenspace, labels: Any) -> Tensor:
    """The group of each image, (B,) in int64."""
    batch = len(space.logits)
    if by is None:
        return torch.zeros(batch, dtype=torch.int64)
    if by == "label":
        if labels is None or len(torch.as_tensor(labels)) != batch:
            raise ValueError(
                f"expected one label for each of {batch} images with by='label', got {labels!r}; "
                "give batches of (images, labels), or dictionaries with 'image' and 'label'"
            )
        groups = torch.as_tensor(labels).cpu().long().reshape(batch, -1)
    else:
        if not hasattr(space.likelihood, "predicted"):
            raise ValueError(
                f"expected a classifier with by='prediction', got {space.likelihood!r}; leave "
                "it out"
            )
        groups = cast(Likelihood, space.likelihood).predicted(space.logits)
        groups = groups.cpu().reshape(batch, -1)
    if groups.shape[1] != 1:
        raise ValueError(
            f"expected one class for each image with by={by!r}, got {groups.shape[1]} labels; "
            "choose one with classes=[...] in options"
        )
    return groups[:, 0]


def _given(weights: Weights, seen: int, count: int) -> Tensor | None:
    """The weights of a batch where they are numbers."""
    if isinstance(weights, str):
        return None
    numbers = torch.as_tensor(weights, dtype=torch.float64).flatten()[seen : seen + count]
    if len(numbers) < count:
        raise ValueError(
            f"expected a weight for each image, got {seen + len(numbers)} weights for more images; "
            "give as many as there are"
        )
    return numbers


def _check_choices(
    options: EigenspaceOptions, size: int, weights: Weights, by: str | None, control: str | None
) -> None:
    if options.energy is not None:
        raise ValueError(
            f"expected rank, how many pooled eigenpairs to keep, got energy={options.energy}; "
            "leave energy out and look at the eigenvalues, which are shares of the trace"
        )
    rank = _RANK if options.rank is None else options.rank
    check_choices(rank, size, weights)
    if by not in (None, "prediction", "label"):
        raise ValueError(f"expected by 'prediction' or 'label', got {by!r}; leave it out for one")
    if control not in (None, "random_weights"):
        raise ValueError(
            f"expected control 'random_weights', got {control!r}; leave it out for none"
        )


def check_choices(rank: int, size: int, weights: Weights) -> None:
    """Refuse numbers and weights with which nothing can be pooled.

    Args:
        rank: eigenpairs to keep.
        size: rows of each sketch.
        weights: a name, or numbers.

    Raises:
        ValueError: such a number, or another name.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(
            f"expected rank >= 1, how many pooled eigenpairs to keep, got {rank!r}; leave it out "
            f"for {_RANK}"
        )
    if size < rank:
        raise ValueError(
            f"expected sketch >= rank={rank}, got {size}; leave it out for {ROWS} x rank"
        )
    if isinstance(weights, str) and weights not in _WEIGHTS:
        raise ValueError(
            f"expected weights in {_WEIGHTS} or numbers, got {weights!r}; leave it out for unit "
            "traces"
        )
    if not isinstance(weights, str):
        numbers = torch.as_tensor(weights, dtype=torch.float64)
        if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
            raise ValueError("expected weights >= 0, got a negative or no number; leave images out")
