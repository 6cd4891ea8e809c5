"""What is measured: a trained classifier, images, and how many of them for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monai_ifim.experiments.environment import versions
from monai_ifim.experiments.maps.methods import AttributionMethod
from monai_ifim.experiments.measures.amounts import Measures
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.labelled import Split, balanced


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images to measure on.

    Attributes:
        images: (N, C, *S) in float32.
        labels: (N,), or None where they are not known.
        digest: short name of both.
    """

    images: Tensor
    labels: Tensor | None
    digest: str

    def first(self, count: int) -> tuple[Tensor, Tensor | None]:
        """At most so many of them, evenly from every class.

        Args:
            count: how many.

        Returns:
            Images and their labels.
        """
        if self.labels is None:
            return self.images[:count], None
        split = balanced(Split(self.images, self.labels), count)
        return split.images, split.labels


@dataclass(frozen=True, eq=False)
class Subject:
    """What every measure is given.

    Attributes:
        classifier: the network.
        sample: images.
        amounts: how many of them for what.
        steps: keeps the results.
        seed: of everything that is drawn.
        methods: attribution methods beside the established ones.
    """

    classifier: TrainedClassifier
    sample: LabelledImages
    amounts: Measures
    steps: Steps
    seed: int = 0
    methods: tuple[AttributionMethod, ...] = ()

    def first(self, count: int) -> tuple[Tensor, Tensor | None]:
        """At most so many of the images, evenly from every class, and their labels."""
        return self.sample.first(count)

    @property
    def attributed_images(self) -> int:
        """How many images need attribution maps."""
        return max(self.amounts.changed_images, self.amounts.map_images)

    @property
    def image_norm(self) -> float:
        """Median norm of the images of the curves, what relative norms are shares of."""
        images, _ = self.first(self.attributed_images or len(self.sample.images))
        return float(images.flatten(1).norm(dim=1).double().median())

    @property
    def own_methods(self) -> list[list[str]]:
        """Name and digest of the further methods, for keys of results."""
        return [[method.name, str(getattr(method, "digest", ""))] for method in self.methods]

    def step(self, part: str, details: Any, compute: Callable[[], Any], version: int = 2) -> Any:
        """A part of a measure that is computed once for the same classifier, images and seed.

        Args:
            part: its name.
            details: all else that it depends on, of numbers, texts and lists.
            compute: gives tensors, numbers, texts, lists and dictionaries.
            version: raised when the code of this part changes what it gives.

        Returns:
            What ``compute`` gave, now or in an earlier run.
        """
        key = {
            "part": part,
            "version": version,
            "weights": self.classifier.digest,
            "likelihood": self.classifier.family_name,
            "images": self.sample.digest,
            "details": details,
            "seed": self.seed,
            "versions": versions(),
        }
        return self.steps.run(f"{part} {self.classifier.name}", key, compute)
