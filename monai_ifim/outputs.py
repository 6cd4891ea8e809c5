"""From a batch to what every host hands on: the volumes and the numbers of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ifim.core import (
    Eigenspace,
    EigenspaceOptions,
    PooledEigenspace,
    at_rest,
    decompose,
    kept_forward,
    run_forward,
    warn_of_another,
)
from monai_ifim.core.checks import masked_classes, not_finite
from monai_ifim.core.families.recoded import outcome_text
from monai_ifim.core.flips import nearest_answer
from monai_ifim.messages import failed, is_failure

VOLUMES = ("high", "orth", "sensitivity")
_TINY = 1e-100  # a probability or factor whose square float64 can hardly tell from 0
OK = "ok"


@dataclass(frozen=True, eq=False, repr=False)
class BatchOutputs:
    """All that is known of a batch.

    Attributes:
        values: ``ifim_eigenvalues`` (B, R), ``ifim_trace`` (B,), ``ifim_rank`` (B,), and each
            chosen volume as ``ifim_<volume>`` (B, C, *S): high and orth in the images' dtype,
            sensitivity (the diagonal of F) in float64. With the metadata of the images.
        numbers: one dictionary an image: ``predicted_class`` (text; of a regression the numbers),
            its ``probability`` (None of a density), the
            ``probabilities`` of all classes or labels (where some were chosen or merged: of
            ``outcomes``, numbers of the ``classes``), ``trace`` and ``eigenvalues`` in
            (input unit)⁻², ``rank``, ``trace_share`` (of the kept eigenvalues in the trace) and
            ``high_energy_share`` (of the high-sensitivity component in the image's squared norm).
            Of a classifier also ``flip_distance``, the L2 norm of the smallest change to another
            answer to first order, in input units, and ``flip_class``, that answer as text; None
            where there is none (``Eigenspace.flip_distance``).
            Where directions were left out (``Approximation``) also ``residual`` (the largest of
            the image's pairs) and ``trace_error``, the standard error of the trace (None where it
            is not known).
        statuses: one sentence an image: ok, or why there is no result.
        spaces: where they were to be kept, the eigenspaces that all this comes from, each with the
            place in the batch of its first image. One for the whole batch, or one for each image
            that was done alone and has a result.
    """

    values: dict[str, Tensor]
    numbers: tuple[dict[str, Any], ...]
    statuses: tuple[str, ...]
    spaces: tuple[tuple[int, Eigenspace], ...] = ()

    def rows(self, files: Sequence[str], class_names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A row of the table for each image.

        Args:
            files: their names.
            class_names: in order, for ``probability_<class>``; numbers where their count does not
                fit.

        Returns:
            File and status; where there is a result also its numbers.
        """
        rows = []
        for file, status, numbers in zip(files, self.statuses, self.numbers, strict=True):
            row: dict[str, Any] = {"file": file, "status": status}
            if not is_failure(status):
                listed = ("probabilities", "eigenvalues", "outcomes", "classes")
                row |= {name: value for name, value in numbers.items() if name not in listed}
                eigenvalues = enumerate(numbers["eigenvalues"], start=1)
                row |= {f"eigenvalue_{i}": value for i, value in eigenvalues}
                names = _outcome_names(numbers, class_names)
                named = zip(names, numbers["probabilities"], strict=True)
                row |= {f"probability_{name}": value for name, value in named}
            rows.append(row)
        return rows

    def without(self, failures: Mapping[int, str]) -> BatchOutputs:
        """The same, but for images that have no result after all.

        Args:
            failures: why, by their positions.

        Returns:
            A copy in which their statuses say so.
        """
        told = [failed(failures[i]) if i in failures else s for i, s in enumerate(self.statuses)]
        return replace(self, statuses=tuple(told)) if failures else self

    def shapes(self) -> BatchOutputs:
        """The same without the values of the volumes, for what has their shape."""
        small = {n: v for n, v in self.values.items() if n.removeprefix("ifim_") not in VOLUMES}
        return BatchOutputs(small, (), ())


def _outcome_names(numbers: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    """Names of what the probabilities belong to: classes, or some or merged ones of these."""
    count = len(numbers["probabilities"])
    outcomes = numbers.get("outcomes", [[i] for i in range(count)])
    fits = len(class_names) == len(set(class_names)) == numbers.get("classes", count)
    return [outcome_text([class_names[c] if fits else c for c in each]) for each in outcomes]


def check_volumes(volumes: str | Sequence[str]) -> tuple[str, ...]:
    """Refuse unknown names of component volumes.

    Args:
        volumes: some of ``VOLUMES``, or one of them.

    Returns:
        The names as a tuple.

    Raises:
        ValueError: an unknown name.

    >>> check_volumes("high")
    ('high',)
    >>> check_volumes(["high", "low"])
    Traceback (most recent call last):
        ...
    ValueError: expected volumes from ('high', 'orth', 'sensitivity'), got 'low'; choose some of \
these, or none with []
    """
    names = (volumes,) if isinstance(volumes, str) else tuple(volumes)
    for name in names:
        if name not in VOLUMES:
            raise ValueError(
                f"expected volumes from {VOLUMES}, got {name!r}; choose some of these, or none "
                "with []"
            )
    return names


def outputs_of_network(
    network: nn.Module,
    images: Tensor,
    options: EigenspaceOptions,
    volumes: Sequence[str],
    *,
    predict: Callable[[Tensor], Any] | None = None,
    kept: tuple[Tensor, Any] | None = None,
    within: PooledEigenspace | None = None,
    keep_space: bool = False,
) -> BatchOutputs:
    """Everything about a batch, images without a result included.

    Args:
        network: the classifier, unwrapped; left as it is.
        images: (B, C, *S), with or without metadata.
        options: choices about the eigenspace.
        volumes: which of ``VOLUMES`` to form.
        predict: images to the network's output, where more than the network takes part in it.
        kept: images as a leaf, and the output of a pass whose graph was kept; no other pass is
            made then.
        within: a pooled eigenspace, in which the components are taken, and not in each image's own.
        keep_space: keep the eigenspace beside what comes from it, with all its gradients.

    Returns:
        Volumes, numbers and statuses. An image that is not finite, or whose logits or gradients
        are not, gets NaN and a status that says so; the other images are unaffected.

    Raises:
        TypeError: the network does not return one tensor of logits.
        ValueError: logits or options that do not fit.
    """
    warn_of_another(within, network)
    run = network if predict is None else predict
    chosen = options.output_transform
    with at_rest(network, images.device, autocast=options.autocast):
        if kept is None:
            forward = run_forward(run, images, output_transform=chosen)
        else:
            forward = kept_forward(*kept, output_transform=chosen, network=run)
        space = decompose(forward, options, network=network)
    outputs = batch_outputs(space, images, volumes, within=within)
    return replace(outputs, spaces=((0, space),)) if keep_space else outputs


def batch_outputs(
    space: Eigenspace,
    images: Tensor,
    volumes: Sequence[str],
    *,
    prefix: str = "ifim",
    within: PooledEigenspace | None = None,
) -> BatchOutputs:
    """Everything about a batch whose eigenspace is known.

    Args:
        space: eigenspace of the batch.
        images: (B, C, *S), with or without metadata.
        volumes: which of ``VOLUMES`` to form.
        prefix: of the values' names.
        within: a pooled eigenspace, in which the components are taken, and not in each image's own.

    Returns:
        Volumes, numbers and statuses.

    Raises:
        ValueError: the pooled eigenspace is one of images of another shape.
    """
    plain = images.detach().as_subclass(Tensor)
    coefficients = (space if within is None else within).coefficients(plain)
    values = {
        "eigenvalues": space.eigenvalues,
        "trace": space.trace,
        "rank": space.rank,
        **_volumes(space, plain, coefficients, volumes, within),
    }
    return BatchOutputs(
        {f"{prefix}_{name}": with_metadata(value, images) for name, value in values.items()},
        tuple(_numbers(space, plain, coefficients)),
        tuple(_statuses(space, plain)),
    )


def with_metadata(value: Tensor, image: Tensor) -> Tensor:
    """A tensor with an image's metadata, so that file name and affine travel along.

    Args:
        value: any shape; of a batch the first axis is the batch's.
        image: with metadata, or without.

    Returns:
        The value, as a MetaTensor where the image is one.
    """
    if not isinstance(image, MetaTensor):
        return value
    return MetaTensor(value).copy_meta_from(image)


def with_class_names(numbers: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The same numbers with classes or labels by name.

    Args:
        numbers: of one image, as in ``BatchOutputs``.
        class_names: in order; numbers take their place when their count does not fit.

    Returns:
        A copy with ``class_names``, ``probabilities`` by name, and ``predicted_class`` and
        ``flip_class`` as names.

    >>> with_class_names({"predicted_class": "1", "probabilities": [0.1, 0.9]}, ["a", "b"])
    {'predicted_class': 'b', 'probabilities': {'a': 0.1, 'b': 0.9}, 'class_names': ['a', 'b']}
    """
    probabilities = numbers["probabilities"]
    parts_of = numbers.get("outcomes", [[i] for i in range(len(probabilities))])
    texts = [outcome_text(classes) for classes in parts_of]
    names = texts
    if len(class_names) == numbers.get("classes", len(probabilities)):
        names = [outcome_text([class_names[c] for c in classes]) for classes in parts_of]
    outcome = numbers["predicted_class"]
    numbers_of_classes = dict(zip(texts, names, strict=True))
    parts = outcome.split("+")
    # The outcome of one sigmoid is 0 or 1; what is not made of class numbers stays as it is.
    if len(names) > 1 and set(parts) <= set(numbers_of_classes):
        outcome = "+".join(numbers_of_classes[part] for part in parts)
    flip = numbers.get("flip_class")
    if flip is not None and len(names) > 1:
        numbers = {**numbers, "flip_class": numbers_of_classes.get(flip, flip)}
    named = dict(zip(names, probabilities, strict=True))
    numbers = {k: value for k, value in numbers.items() if k not in ("outcomes", "classes")}
    return {**numbers, "predicted_class": outcome, "probabilities": named, "class_names": names}


def _volumes(
    space: Eigenspace,
    images: Tensor,
    coefficients: Tensor,
    volumes: Sequence[str],
    within: PooledEigenspace | None,
) -> dict[str, Tensor]:
    result = {}
    if "high" in volumes or "orth" in volumes:
        of = space if within is None else within
        high = of.synthesis(coefficients).to(images.dtype)
        pair = {"high": high, "orth": images - high}
        result.update({name: pair[name] for name in volumes if name in pair})
    if "sensitivity" in volumes:
        result["sensitivity"] = space.sensitivity()
    return result


def _numbers(space: Eigenspace, images: Tensor, coefficients: Tensor) -> list[dict[str, Any]]:
    outcomes, probability = space.likelihood.most_probable(space.logits)
    energy = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=torch.float64).square()
    high = coefficients.square().sum(dim=1)
    kept = space.eigenvalues.sum(dim=1)
    columns = {
        "predicted_class": outcomes,
        "probability": [None if math.isnan(p) else p for p in probability.tolist()],
        "probabilities": space.likelihood.probabilities(space.logits).tolist(),
        **_parts(space),
        "trace": space.trace.tolist(),
        "eigenvalues": space.eigenvalues.tolist(),
        "rank": space.rank.tolist(),
        "trace_share": (kept / torch.where(space.trace == 0, 1, space.trace)).tolist(),
        "high_energy_share": (high / torch.where(energy == 0, 1, energy)).tolist(),
    }
    if hasattr(space.likelihood, "flips"):
        nearest = nearest_answer(space)
        distances, classes = nearest.distance.tolist(), nearest.index.tolist()
        columns["flip_distance"] = [d if math.isfinite(d) else None for d in distances]
        text = getattr(space.likelihood, "text", str)
        columns["flip_class"] = [text(index) if index >= 0 else None for index in classes]
    if space.approximation is not None:
        columns["residual"] = space.approximation.residual.amax(dim=1).tolist()
        errors = space.approximation.trace_error.tolist()
        columns["trace_error"] = [None if math.isnan(error) else error for error in errors]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _parts(space: Eigenspace) -> dict[str, list[Any]]:
    """Which classes the probabilities belong to, where these are not all classes one by one."""
    if not hasattr(space.likelihood, "outcomes"):
        return {}
    batch, count = space.logits.shape
    outcomes = [list(classes) for classes in space.likelihood.outcomes]
    return {"outcomes": [outcomes] * batch, "classes": [count] * batch}


def _statuses(space: Eigenspace, images: Tensor) -> list[str]:
    bad_image, bad_logits, bad = (
        not_finite(values).tolist()
        for values in (
            images,
            space.logits.masked_fill(masked_classes(space.logits), 0),
            space.trace,
        )
    )
    bad_factor = not_finite(space.factor).tolist()
    zero = (space.trace == 0).tolist()
    causes = _causes_of_zero(space) if any(zero) else []
    statuses = []
    for i in range(len(images)):
        if bad_image[i]:
            statuses.append(failed("the preprocessed image holds NaN or infinity"))
        elif bad_logits[i]:
            statuses.append(failed("the logits hold NaN or infinity"))
        elif bad_factor[i]:
            statuses.append(
                failed(f"the factor of {space.likelihood!r} is not finite at these logits")
            )
        elif bad[i]:
            statuses.append(failed("the gradients of the logits hold NaN or infinity"))
        elif zero[i]:
            statuses.append(f"{OK}, but the prediction {causes[i]}")
        else:
            statuses.append(OK)
    return statuses


def _causes_of_zero(space: Eigenspace) -> list[str]:
    """What makes a trace of 0: the probabilities, tiny gradients, or gradients that are 0."""
    reacts = (space.gradients != 0).flatten(1).any(dim=1).to(space.trace.device)
    # The contrasts of a prediction this sure have a tiny factor. Where it is not, the gradients
    # are those of a root of F, which is 0 where the probabilities are 0 and 1.
    uncertainty = space.likelihood.uncertainty(space.logits)
    of_root = space.factor.abs().amax(dim=(1, 2)) > _TINY
    confident = (reacts & (uncertainty < _TINY)) | ((uncertainty == 0) & of_root)
    return [
        "is too confident for float64, in which F is 0"
        if sure
        else "reacts too little to the image for float64, in which F is 0"
        if some
        else "does not react to the image at all"
        for sure, some in zip(confident.tolist(), reacts.tolist(), strict=True)
    ]
