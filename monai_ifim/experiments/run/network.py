"""One network of an experiment: trained, measured, and compared with its controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.core.angles import principal_angles
from monai_ifim.experiments.environment import versions
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.maps.methods import AttributionMethod
from monai_ifim.experiments.measures.changes import plain_ratios
from monai_ifim.experiments.measures.controls import chance_angle, controls
from monai_ifim.experiments.measures.measurement import measure_all
from monai_ifim.experiments.measures.subject import LabelledImages, Subject
from monai_ifim.experiments.networks.trained import trained, untrained
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    largest_angles,
    template_cosines,
)
from monai_ifim.experiments.networks.training import Variant
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.statistics import average, classification_scores, interval, median_value
from monai_ifim.experiments.statistics.classification import Scores
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.labelled import Task, balanced

_UNTRAINED = 8  # networks with random weights
_UNTRAINED_IMAGES = 300  # for the AUC of each of them


class NetworkOfTask:
    """One architecture, trained on one task and measured on it.

    Args:
        settings: of the experiment.
        task: its images.
        steps: keeps every training and every measurement.
        name: of the architecture, in ``settings.networks``.
        methods: attribution methods beside the established ones.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        steps: Steps,
        name: str,
        methods: Sequence[AttributionMethod] = (),
    ) -> None:
        self.settings = settings
        self.task = task
        self.steps = steps
        self.name = name
        self.methods = tuple(methods)
        self.variant = settings.variant_of(name)
        self.recipe = settings.recipe_of(name)

    def measure(self) -> dict[str, Any]:
        """Everything about this network.

        Returns:
            Numbers ready for JSON.

        Raises:
            ValueError: a training that diverged, or a network that does not react to any change.
        """
        classifier = self._trained(self.variant)
        subject = self._subject(classifier)
        return {
            "training": {
                "parameters": sum(p.numel() for p in classifier.network.parameters()),
                "width": self.variant.width,
                "max_pool": self.variant.max_pool,
                "images_seen": self.recipe.images,
                **self._scores(classifier),
            },
            **measure_all(subject),
            "agreement": self._agreement(classifier),
            "controls": self._controls(subject),
        }

    def _subject(self, classifier: TrainedClassifier) -> Subject:
        test = self.task.test
        sample = LabelledImages(test.images, test.labels, self.task.digest())
        settings = self.settings
        return Subject(
            classifier, sample, settings.measures, self.steps, settings.seed, self.methods
        )

    def _controls(self, subject: Subject) -> dict[str, Any]:
        found = controls(subject)
        if not self.settings.measures.control_images:
            return found
        spaces = self._spaces(subject.classifier)
        return {
            **found,
            "random_weights": self._untrained(spaces),
            "shuffled_labels": self._again(spaces, shuffled=True),
            "two_seeds": self._two_seeds(spaces),
        }

    def _trained(self, variant: Variant) -> TrainedClassifier:
        return trained(self.task, variant, self.recipe, self.steps)

    def _scores(
        self, classifier: TrainedClassifier, limit: int | None = None, resamples: int = 1000
    ) -> Scores:
        """Accuracy and AUC on the test images, or on so many of them."""
        test = self.task.test if limit is None else balanced(self.task.test, limit)
        key = {
            "accuracy": 1,
            "weights": classifier.digest,
            "task": self.task.digest(),
            "versions": versions(),
            **({} if limit is None else {"limit": limit}),
        }
        logits = self.steps.run(
            f"test {classifier.name}", key, lambda: logits_of(classifier.network, test.images)
        )
        return classification_scores(test.labels, classifier.family, logits, resamples=resamples)

    def _spaces(self, classifier: TrainedClassifier) -> list[Eigenspace]:
        images = balanced(self.task.test, self.settings.measures.control_images).images
        return classifier.eigenspaces(images)

    # --- what is known of the task ------------------------------------------------------------

    def _cosine(self, classifier: TrainedClassifier) -> Tensor | None:
        """Smallest principal cosine with the templates, one for each image."""
        if self.task.signal is None or not self.settings.measures.agreement_images:
            return None
        images = balanced(self.task.test, self.settings.measures.agreement_images).images
        key = {
            "cosine": 1,
            "weights": classifier.digest,
            "task": self.task.digest(),
            "images": len(images),
            "versions": versions(),
        }
        cosines: Tensor = self.steps.run(
            f"template {classifier.name}",
            key,
            lambda: template_cosines(classifier.eigenspaces(images), self.task.templates),
        )
        return cosines

    def _agreement(self, classifier: TrainedClassifier) -> dict[str, Any] | None:
        cosines = self._cosine(classifier)
        if cosines is None:
            return None
        levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        return {
            "images": len(cosines),
            "cosine": interval(median_value, cosines).as_dict(),
            "percentiles": torch.quantile(cosines, levels).tolist(),
            "chance": self._chance_cosine(),
            "by_training_size": self._sizes(),
        }

    def _chance_cosine(self) -> float:
        """Median smallest principal cosine of random spaces with the templates."""
        templates = self.task.templates
        generator = torch.Generator().manual_seed(self.settings.seed)
        shape = (200, *templates.shape[1:])
        random = torch.randn(shape, generator=generator)
        return float(principal_angles(random, templates)[:, -1].cos().median())

    def _sizes(self) -> list[dict[str, Any]]:
        if self.name not in self.settings.sized_networks:
            return []
        # Where every image is drawn anew, all that were seen are different ones.
        recipe = self.settings.recipe_of(self.name)
        whole = recipe.images if recipe.fresh else len(self.task.train)
        rows = []
        for limit in (*self.settings.training_sizes, None):
            classifier = self._trained(dataclasses.replace(self.variant, limit=limit))
            cosines = self._cosine(classifier)
            rows.append(
                {
                    "images": limit or whole,
                    "cosine": None
                    if cosines is None
                    else interval(median_value, cosines).as_dict(),
                    **self._scores(classifier),
                }
            )
        return rows

    # --- controls that train or draw other weights ---------------------------------------------

    def _untrained(self, spaces: list[Eigenspace]) -> dict[str, Any]:
        """Networks with random weights; their number, not that of the images, is the sample."""
        first: TrainedClassifier | None = None
        cosines, aucs, angles = [], [], []
        for number in range(_UNTRAINED):
            other = self._random(number)
            first = first or other
            cosine = self._cosine(other)
            if cosine is not None:
                cosines.append(float(cosine.median()))
            area = self._scores(other, limit=_UNTRAINED_IMAGES, resamples=2)["auc"]
            if area is not None:
                aucs.append(area["value"])
            angles.append(float(largest_angles(spaces, self._spaces(other)).median()))
        assert first is not None
        return {
            "networks": _UNTRAINED,
            "cosine": interval(average, cosines).as_dict() if cosines else None,
            "auc": interval(average, aucs).as_dict() if aucs else None,
            "angle": interval(average, angles).as_dict(),
            "ratios": plain_ratios(self._subject(first)),
        }

    def _random(self, number: int) -> TrainedClassifier:
        """A network that was never trained."""
        seed = self.settings.seed + 1000 + number
        return untrained(self.task, dataclasses.replace(self.variant, seed=seed))

    def _again(self, spaces: list[Eigenspace], **changes: Any) -> dict[str, Any] | None:
        """The network trained once more, with something changed."""
        if self.name not in self.settings.controls:
            return None
        other = self._trained(dataclasses.replace(self.variant, **changes))
        cosines = self._cosine(other)
        return {
            "cosine": None if cosines is None else interval(median_value, cosines).as_dict(),
            "angle": interval(median_value, largest_angles(spaces, self._spaces(other))).as_dict(),
            "ratios": plain_ratios(self._subject(other)),
            **self._scores(other),
        }

    def _two_seeds(self, spaces: list[Eigenspace]) -> dict[str, Any] | None:
        compared = self._again(spaces, seed=self.settings.seed + 1)
        chance = chance_angle(spaces, self.settings.seed)
        return None if compared is None else {**compared, "chance_angle": chance}
