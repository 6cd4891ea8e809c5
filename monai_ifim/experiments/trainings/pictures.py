"""Eigenvectors of trainings as small pictures, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from monai_ifim.experiments.pictures import is_small, plane, rounded
from monai_ifim.experiments.trainings.training import Training

_TRAININGS = 2


def pictures(trainings: Sequence[Training], templates: Tensor | None) -> dict[str, Any] | None:
    """Leading directions of the first trainings, each with the sign nearest to the first one.

    Args:
        trainings: of one network.
        templates: (1, K - 1, 1, *S), or None where no answer is known.

    Returns:
        Rows of numbers, the largest magnitude of each picture being 1: the first ``image``,
        ``template`` (the first one, or None), and for each of two trainings ``single`` and
        ``smoothed`` (of the first image) and ``pooled``. Of volumes the plane through the middle of
        the last axes. None where pictures would be large.
    """
    first = plane(trainings[0].pooled["unit_trace"][0, 0])
    if not is_small(first):
        return None
    reference = first if templates is None else plane(templates[0, 0].float())
    some = trainings[:_TRAININGS]
    return {
        "image": rounded(plane(trainings[0].images[0])),
        "template": None if templates is None else rounded(reference),
        **{
            kind: [rounded(_aligned(plane(vector), reference)) for vector in vectors]
            for kind, vectors in (
                ("single", [each.single[0, 0] for each in some]),
                ("smoothed", [each.smoothed[0, 0] for each in some if len(each.smoothed)]),
                ("pooled", [each.pooled["unit_trace"][0, 0] for each in some]),
            )
        },
    }


def _aligned(picture: Tensor, reference: Tensor) -> Tensor:
    return -picture if float((picture * reference).sum()) < 0 else picture
