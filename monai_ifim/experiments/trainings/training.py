"""One training of a network, and all its spaces that are compared with those of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from monai_ifim.core.pooling import pooled_eigenspace, smoothed_eigenspace
from monai_ifim.experiments.environment import versions
from monai_ifim.experiments.measures.law import in_float64
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batches
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.trainings.columns import Columns, columns_of

POOLED = ("unit_trace", "equal", "mean_jacobian")
# Noise of the smoothed eigenspaces, as a share of the images' standard deviation, and its draws.
NOISE, SAMPLES = 0.6, 64


@dataclass(frozen=True, eq=False)
class Amounts:
    """On how many images, and how often drawn anew.

    Attributes:
        images: that are pooled.
        smoothed: whose neighbourhood is pooled.
        draws: of the images, for intervals.
        seed: of the draws.
    """

    images: int
    smoothed: int
    draws: int
    seed: int = 0

    def drawn(self, images: int) -> Tensor:
        """Which images each draw holds, the images themselves first: (1 + draws, images)."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(images, (self.draws, images), generator=generator)
        return torch.cat([torch.arange(images)[None], drawn])


@dataclass(frozen=True, eq=False)
class Training:
    """A trained network with its spaces at the same images as all others of its task.

    Attributes:
        classifier: the network.
        images: (n, C, *S).
        classes: K; a space of one image has K - 1 directions.
        amounts: how many of them for what.
        steps: keeps the spaces.
    """

    classifier: TrainedClassifier
    images: Tensor
    classes: int
    amounts: Amounts
    steps: Steps

    @property
    def rank(self) -> int:
        """Directions that are compared: as many as one image has, K - 1."""
        return self.classes - 1

    @cached_property
    def columns(self) -> Columns:
        """F of each image."""
        return columns_of(self.classifier, self.images)

    @cached_property
    def single(self) -> Tensor:
        """Eigenvectors of each image, (n, K - 1, C, *S)."""
        return self.columns.vectors[:, : self.rank]

    @cached_property
    def smoothed(self) -> Tensor:
        """Eigenvectors of the smoothed F of the first images, (m, K - 1, C, *S); m may be 0."""

        def compute() -> Tensor:
            spaces = [
                smoothed_eigenspace(
                    self.classifier.network,
                    batch,
                    noise=NOISE * float(self.images.std()),
                    samples=SAMPLES,
                    seed=self.amounts.seed,
                    likelihood=self.classifier.family,
                    rank=self.rank,
                ).eigenvectors
                for batch in batches(self.images[: self.amounts.smoothed])
            ]
            return torch.cat(spaces).float()

        if not self.amounts.smoothed:
            return self.single[:0]
        found: Tensor = self.step("smoothed", [self.amounts.smoothed, NOISE, SAMPLES], compute)
        return found

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        """Pooled spaces of the images and of each draw of them.

        ``unit_trace``, ``equal`` and ``mean_jacobian``, each (1 + draws, K - 1, C, *S).
        """
        drawn = self.amounts.drawn(len(self.images))

        def compute() -> dict[str, Tensor]:
            counts = torch.stack([row.bincount(minlength=drawn.shape[1]) for row in drawn])
            return {
                "unit_trace": self.columns.pooled("unit_trace", self.rank, counts),
                "equal": self.columns.pooled("equal", self.rank, counts),
                "mean_jacobian": self.columns.mean_jacobian(self.rank, counts),
            }

        details = [self.amounts.draws, self.amounts.seed]
        found: dict[str, Tensor] = self.step("pooled", details, compute)
        return found

    def summary(self) -> dict[str, Any]:
        """What the public function says of the pooled eigenspaces.

        Returns:
            By weights: eigenvalues, how many images count, how many directions the halves of the
            images share, and the angle (degrees) of the leading K - 1 directions to ``pooled``,
            which is 0 where both agree.
        """

        def compute() -> dict[str, Any]:
            result = {}
            for weights in ("unit_trace", "equal"):
                space = pooled_eigenspace(
                    self.classifier.network,
                    batches(self.images),
                    weights=weights,
                    likelihood=self.classifier.family,
                )
                angles = space.angles(self.pooled[weights][0], rank=self.rank)
                result[weights] = {
                    "shares": (space.eigenvalues / space.trace).tolist(),
                    "lost_trace": space.lost_trace / space.trace,
                    "effective_count": space.effective_count,
                    "stability": space.stability.tolist(),
                    "stable_rank": space.stable_rank,
                    "angle_to_resampled": float(angles[-1].rad2deg()),
                }
            return result

        found: dict[str, Any] = self.step("pooled summary", [], compute)
        return found

    @cached_property
    def precise(self) -> TrainedClassifier:
        """The classifier in float64."""
        return in_float64(self.classifier)

    def step(self, part: str, details: Any, compute: Callable[[], Any]) -> Any:
        """A result that is computed once for the same weights and images.

        Args:
            part: its name.
            details: all else that it depends on.
            compute: gives it.

        Returns:
            What ``compute`` gave, now or in an earlier run.
        """
        key = {
            "part": part,
            "version": 1,
            "weights": self.classifier.digest,
            "images": digest(self.images),
            "details": details,
            "versions": versions(),
        }
        return self.steps.run(f"{part} {self.classifier.name}", key, compute)
