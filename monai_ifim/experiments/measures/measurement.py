"""All that is measured on one trained classifier, whatever it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_ifim.experiments.environment import versions
from monai_ifim.experiments.measures.amounts import Measures
from monai_ifim.experiments.measures.changes import changes_summary, measure_changes, ratios
from monai_ifim.experiments.measures.controls import (
    change_control,
    layer_control,
    precision_control,
)
from monai_ifim.experiments.measures.corruptions import corrupt
from monai_ifim.experiments.measures.law import law_summary, measure_law
from monai_ifim.experiments.measures.maps import (
    maps_summary,
    measure_attributions,
    measure_maps,
)
from monai_ifim.experiments.measures.spectra import (
    corruption_detection,
    error_detection,
    prediction_scores,
)
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batch_size
from monai_ifim.experiments.networks.training import balanced
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.task import Split


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
        """At most so many of them, evenly from every class."""
        if self.labels is None:
            return self.images[:count], None
        split = balanced(Split(self.images, self.labels), count)
        return split.images, split.labels


# Raised when the code of a part changes what it gives.
_VERSIONS = {"perturbation": 3, "plain perturbation": 3, "controls": 3}


class Measurement:
    """Measures a classifier on a sample; every part is a step that is kept."""

    def __init__(
        self,
        classifier: TrainedClassifier,
        sample: LabelledImages,
        measures: Measures,
        steps: Steps,
    ) -> None:
        """Describe; nothing is computed yet.

        Args:
            classifier: the network.
            sample: images.
            measures: how many of them for what.
            steps: keeps the results.
        """
        self.classifier = classifier
        self.sample = sample
        self.measures = measures
        self.steps = steps

    def all(self, seed: int) -> dict[str, Any]:
        """Perturbation curves, the quadratic law, detection and maps.

        Args:
            seed: of everything that is drawn.

        Returns:
            Numbers ready for JSON; None for a part that is not asked for.
        """
        asked = self.measures
        return {
            "perturbation": self._changes(seed) if asked.changed_images else None,
            "law": self._law(seed) if asked.law_images else None,
            "detection": self._detection(seed) if asked.scored_images else None,
            "maps": self._maps(seed) if asked.map_images else None,
        }

    def controls(self, seed: int) -> dict[str, Any]:
        """Controls that need no other training.

        Args:
            seed: of random weights and changes.

        Returns:
            ``layers``, ``recomputed`` and ``float64``, each None when no images are asked for.
        """
        if not self.measures.control_images:
            return {"layers": None, "recomputed": None, "float64": None}
        images, _ = self.sample.first(self.measures.control_images)

        def compute() -> dict[str, Any]:
            spaces = self.classifier.eigenspaces(images)
            changes = change_control(self.classifier, images, spaces, self._norm(), seed)
            return {
                "layers": layer_control(self.classifier, images, spaces, seed),
                "recomputed": changes,
                "float64": precision_control(self.classifier, images, spaces),
            }

        details = [len(images), self._norm()]
        found: dict[str, Any] = self._step("controls", seed, details, compute)
        return found

    def plain_ratios(self, seed: int) -> list[dict[str, Any]] | None:
        """Ratios of the perturbation curves alone, for a network that has learned nothing.

        Args:
            seed: of the random directions.

        Returns:
            As in the summary of the curves; None when no curves are asked for.
        """
        asked = self.measures
        if not asked.changed_images:
            return None
        images, _ = self.sample.first(self._attributed())
        raw = self._step(
            "plain perturbation",
            seed,
            [len(images), asked.norms],
            lambda: measure_changes(
                self.classifier, images, None, {}, asked.norms, asked.top_share, seed
            ),
        )
        return ratios(raw, asked.ratio_norms)

    def _changes(self, seed: int) -> dict[str, Any]:
        asked = self.measures
        images, labels = self.sample.first(self._attributed())
        attributions = self._attributions(seed)
        raw = self._step(
            "perturbation",
            seed,
            [len(images), asked.norms, asked.top_share],
            lambda: measure_changes(
                self.classifier,
                images,
                labels,
                attributions,
                asked.norms,
                asked.top_share,
                seed,
            ),
        )
        return changes_summary(raw, self.classifier.likelihood, asked.ratio_norms)

    def _law(self, seed: int) -> dict[str, Any]:
        images, labels = self.sample.first(self.measures.law_images)
        raw = self._step(
            "law",
            seed,
            [len(images), self._norm()],
            lambda: measure_law(self.classifier, images, labels, self._norm()),
        )
        return law_summary(raw)

    def _detection(self, seed: int) -> dict[str, Any]:
        images, labels = self.sample.first(self.measures.scored_images)
        clean = self._scores("clean", images, seed)
        corrupted = {
            name: self._scores(name, corrupt(images, name, 1.0, seed), seed)
            for name in self.measures.corruptions
        }
        errors = None if labels is None else error_detection(clean, labels)
        wrong = None if labels is None else clean["predicted"] != labels
        return {
            "images": len(images),
            "errors": None if wrong is None else int(wrong.reshape(len(wrong), -1).any(1).sum()),
            "error_auc": errors and {name: found.as_dict() for name, found in errors.items()},
            "corruption_auc": {
                name: {
                    score: found.as_dict()
                    for score, found in corruption_detection(clean, scores).items()
                }
                for name, scores in corrupted.items()
            },
        }

    def _scores(self, name: str, images: Tensor, seed: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self._step(
            f"scores {name}",
            seed,
            len(images),
            lambda: prediction_scores(
                self.classifier.network,
                images,
                likelihood=self.classifier.likelihood,
                batch_size=batch_size(images),
            ),
        )
        return found

    def _maps(self, seed: int) -> dict[str, Any]:
        images, labels = self.sample.first(self._attributed())
        some = torch.arange(len(images))
        if labels is not None:  # as many of every class as there are
            some = balanced(Split(some, labels), self.measures.map_images).images
        some = some[: self.measures.map_images]
        maps = {name: value[some] for name, value in self._attributions(seed).items()}
        raw = self._step(
            "maps",
            seed,
            some.tolist(),
            lambda: measure_maps(self.classifier, images[some], maps),
        )
        return maps_summary(raw)

    def _attributed(self) -> int:
        """How many images need attribution maps."""
        return max(self.measures.changed_images, self.measures.map_images)

    def _attributions(self, seed: int) -> dict[str, Tensor]:
        images, _ = self.sample.first(self._attributed())
        found: dict[str, Tensor] = self._step(
            "attributions",
            seed,
            len(images),
            lambda: measure_attributions(self.classifier, images, seed),
        )
        return found

    def _norm(self) -> float:
        """Median norm of the images of the curves, what relative norms are shares of."""
        images, _ = self.sample.first(self._attributed() or len(self.sample.images))
        return float(images.flatten(1).norm(dim=1).double().median())

    def _step(self, part: str, seed: int, details: Any, compute: Any) -> Any:
        key = {
            "part": part,
            "version": _VERSIONS.get(part, 2),
            "weights": self.classifier.digest,
            "likelihood": self.classifier.likelihood,
            "images": self.sample.digest,
            "details": details,
            "seed": seed,
            "versions": versions(),
        }
        return self.steps.run(f"{part} {self.classifier.name}", key, compute)
