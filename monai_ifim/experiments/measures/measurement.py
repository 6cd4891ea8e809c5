"""All measures by name.

A new measure is a function of a ``Subject`` in a file of its own, an entry in ``MEASURES``, and a
field of ``Measures`` that says on how many images; ``experiment`` then runs it for every network,
writes its numbers to ``results.json`` under that name, and configurations can set the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monai_ifim.experiments.measures.changes import perturbation
from monai_ifim.experiments.measures.detection import detection
from monai_ifim.experiments.measures.law import law
from monai_ifim.experiments.measures.sensitivity import maps, quantus
from monai_ifim.experiments.measures.subject import Subject


@dataclass(frozen=True)
class Measure:
    """One thing that is measured on a trained classifier.

    Attributes:
        amount: field of ``Measures`` with the number of images; 0 leaves the measure out.
        run: from a subject to numbers ready for JSON; what takes long is a ``Subject.step``.
    """

    amount: str
    run: Callable[[Subject], dict[str, Any]]


MEASURES: dict[str, Measure] = {
    "perturbation": Measure("changed_images", perturbation),
    "law": Measure("law_images", law),
    "detection": Measure("scored_images", detection),
    "maps": Measure("map_images", maps),
    "quantus": Measure("quantus_images", quantus),
}


def measure_all(subject: Subject) -> dict[str, Any]:
    """Every measure of one classifier.

    Args:
        subject: what to measure.

    Returns:
        Numbers ready for JSON by name in ``MEASURES``; None for a measure that is not asked for.
    """
    return {
        name: measure.run(subject) if getattr(subject.amounts, measure.amount) else None
        for name, measure in MEASURES.items()
    }
