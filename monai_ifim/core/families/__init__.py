"""Predictive families: how logits become a probability p(y | x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, overload

from torch import Tensor

from monai_ifim.core.families.bernoulli import Bernoulli
from monai_ifim.core.families.categorical import Categorical
from monai_ifim.core.families.family import DenseFamily, Family, Likelihood
from monai_ifim.core.families.gaussian import Gaussian, GaussianMeanVariance, VoxelwiseGaussian
from monai_ifim.core.families.recoded import ChosenClasses, MergedClasses, class_numbers
from monai_ifim.core.families.voxelwise import VoxelwiseCategorical
from monai_ifim.core.families.voxelwise_bernoulli import VoxelwiseBernoulli

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "ChosenClasses",
    "DenseFamily",
    "Family",
    "Gaussian",
    "GaussianMeanVariance",
    "Likelihood",
    "MergedClasses",
    "VoxelwiseBernoulli",
    "VoxelwiseCategorical",
    "VoxelwiseGaussian",
    "as_likelihood",
    "class_numbers",
    "family_of",
    "part_of",
    "require",
]

FAMILIES: dict[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli()}


@overload
def as_likelihood(likelihood: str | Likelihood) -> Likelihood: ...
@overload
def as_likelihood(likelihood: Family) -> Family: ...
def as_likelihood(likelihood: str | Family) -> Family:
    """Family of that name, or the family itself.

    Args:
        likelihood: a name in ``FAMILIES``, or an object with the methods of ``Likelihood``.

    Returns:
        The family.

    Raises:
        ValueError: an unknown name, or something that is no family.

    >>> as_likelihood("bernoulli")
    Bernoulli()
    """
    if isinstance(likelihood, str):
        if likelihood not in FAMILIES:
            raise ValueError(
                f"expected likelihood in {sorted(FAMILIES)}, got {likelihood!r}; use 'categorical' "
                "for a softmax, 'bernoulli' for sigmoids"
            )
        return FAMILIES[likelihood]
    if likelihood is None or isinstance(likelihood, (type, int, float)):
        raise ValueError(
            f"expected likelihood as a name in {sorted(FAMILIES)} or an object such as "
            f"Categorical(), got {likelihood!r}; of a class, make an object"
        )
    return likelihood


def part_of(
    family: Family, classes: Sequence[int] | None, groups: Sequence[Sequence[int]] | None
) -> Family:
    """The family of a part of the prediction, where one was chosen.

    Args:
        family: of the whole.
        classes: numbers of the classes to look at, or None.
        groups: numbers of the classes to take together, or None.

    Returns:
        The family, or that of the part.

    Raises:
        ValueError: both were given, or the family cannot be divided so.
    """
    if classes is None and groups is None:
        return family
    if classes is not None and groups is not None:
        raise ValueError(
            f"expected classes or groups, got classes={classes} and groups={groups}; classes in no "
            "group are left out already"
        )
    method = "only" if groups is None else "merged"
    if not hasattr(family, method):
        chosen = f"classes={classes}" if groups is None else f"groups={groups}"
        raise ValueError(
            f"expected a family with {method}(), such as Categorical(), got {family!r} with "
            f"{chosen}; choose the logits with output_transform"
        )
    part = cast(Any, family).only(classes) if groups is None else cast(Any, family).merged(groups)
    return cast(Family, part)


def require(family: Family, *methods: str) -> None:
    """Refuse a family that lacks what a function needs of it, before the work is done.

    Args:
        family: any.
        methods: names.

    Raises:
        ValueError: one is missing; all that are needed are named.
    """
    absent = [method for method in methods if not hasattr(family, method)]
    if absent:
        raise ValueError(
            f"expected a family with the methods {', '.join(methods)}, got {family!r} without "
            f"{', '.join(absent)}; write them, as in monai_ifim.core.families.family"
        )


def family_of(likelihood: Family, logits: Tensor) -> Family:
    """The family that these logits belong to: of a dense prediction its counterpart at each voxel.

    Args:
        likelihood: the family that was asked for.
        logits: (B, K), or (B, K, *S) of a dense prediction.

    Returns:
        The family, whose ``check`` has passed.

    Raises:
        ValueError: there is no such family for dense predictions, or the logits do not fit it.
    """
    family = likelihood
    if logits.ndim > 2 and not hasattr(likelihood, "root"):
        if not hasattr(likelihood, "dense"):
            raise ValueError(
                f"expected logits of shape (batch, classes) for {likelihood!r}, got "
                f"{tuple(logits.shape)}; pool them with output_transform"
            )
        family = likelihood.dense()
    family.check(logits)
    return family
