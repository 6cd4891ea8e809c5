"""Choosing images to label: which choice teaches a network most, by number of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ifim.experiments.environment import versions
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.measures.amounts import Labelling
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.networks.training import Recipe, Variant, train, training_key
from monai_ifim.experiments.statistics import classification_auc
from monai_ifim.experiments.statistics.bootstrap import Floats
from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.tasks.labelled import Split, Task, balanced, balanced_indices
from monai_ifim.experiments.trainings.training import Amounts
from monai_ifim.experiments.uses.scores import network_scores

Strategy = Callable[[TrainedClassifier, Tensor, torch.Generator], Tensor]

STRATEGIES: Mapping[str, Strategy] = {
    "random": lambda net, images, generator: torch.rand(len(images), generator=generator),
    "entropy": lambda net, images, _: net.family.entropy(logits_of(net.network, images)),
    "trace": lambda net, images, _: network_scores(net, images)["trace"],
    "flip_distance": lambda net, images, _: -network_scores(net, images)["flip_distance"],
}
"""From a network and images (n, C, *S) to (n,): the highest are labelled next."""

_SEEDS = 1000  # between the networks of one course and those of the next


@dataclass(frozen=True, eq=False)
class LabellingCourse:
    """Labels for more and more images of a pool, and a network trained anew on them each time.

    Attributes:
        task: its training images are the pool, its test images say what was learned.
        variant: which network; its seed is that of the first course.
        recipe: how it is trained; neither augmented nor on fresh images.
        amounts: rounds, images a round, courses.
        steps: keeps every round.
    """

    task: Task
    variant: Variant
    recipe: Recipe
    amounts: Labelling
    steps: Steps

    def measure(self, draws: int) -> dict[str, Any]:
        """All strategies, each from the same start and with the same new weights.

        Args:
            draws: of the test images, for intervals.

        Returns:
            ``network``, ``trainings`` (courses), ``labelled`` by round; ``auc`` on the test images
            by strategy and round; ``less_random`` and ``less_entropy`` by strategy, the mean over
            rounds of the AUC less that of this strategy, paired by course and without the first
            round, in which no strategy has chosen yet.

        Raises:
            ValueError: a training that diverged, a single round, or fewer images than are to be
                labelled.
        """
        rounds, images = self.amounts.rounds, self.amounts.images
        if rounds < 2:
            raise ValueError(
                f"expected at least 2 rounds, got {rounds}, and the first one chooses nothing; "
                "raise measures.labelling.rounds, or leave it out with 0"
            )
        if rounds * images > len(self.pool):
            raise ValueError(
                f"expected a pool of at least rounds * images = {rounds * images}, got "
                f"{len(self.pool)}; lower measures.labelling.images, or raise pool and train"
            )
        drawn = Amounts(len(self.pool), 0, draws, self.variant.seed).drawn(len(self.task.test))
        tables = {
            name: np.stack(
                [self._areas(name, course, drawn) for course in range(self.amounts.trainings)]
            )
            for name in STRATEGIES
        }
        whole = np.isfinite(np.stack([*tables.values()])).all(axis=(0, 1, 2))
        tables = {name: table[:, :, whole] for name, table in tables.items()}
        means = {name: table[:, 1:].mean(axis=1) for name, table in tables.items()}
        return {
            "network": self.variant.architecture,
            "trainings": self.amounts.trainings,
            "labelled": [images * (i + 1) for i in range(rounds)],
            "auc": {
                name: [over_trainings(table[:, i], (0.0, 1.0)) for i in range(rounds)]
                for name, table in tables.items()
            },
            **{
                f"less_{base}": {
                    name: over_trainings(mean - means[base])
                    for name, mean in means.items()
                    if name != base
                }
                for base in ("random", "entropy")
            },
        }

    @property
    def pool(self) -> Split:
        """The images that can be labelled."""
        return balanced(self.task.train, self.amounts.pool)

    def logits(self, strategy: str, course: int) -> list[Tensor]:
        """Logits (n, K) of the test images after each round of one course."""
        pool, count = self.pool, self.amounts.images
        generator = torch.Generator().manual_seed(self.variant.seed + course)
        order = torch.randperm(len(pool), generator=generator)
        labelled = order[balanced_indices(pool.labels[order], count)]
        found = []
        for i in range(self.amounts.rounds):
            last = i + 1 == self.amounts.rounds
            variant = dataclasses.replace(
                self.variant, seed=self.variant.seed + _SEEDS * (course + 1) + i
            )
            kept = self._round(strategy, variant, pool, labelled, 0 if last else count)
            found.append(kept["logits"])
            labelled = torch.cat([labelled, kept["chosen"]])
        return found

    def _areas(self, strategy: str, course: int, drawn: Tensor) -> Floats:
        """(rounds, 1 + draws)."""
        labels = self.task.test.labels.numpy()
        return np.stack(
            [
                classification_auc(labels, logits.softmax(dim=1).numpy()).of(drawn.numpy())[0]
                for logits in self.logits(strategy, course)
            ]
        )

    def _round(
        self, strategy: str, variant: Variant, pool: Split, labelled: Tensor, count: int
    ) -> dict[str, Tensor]:
        """Train on what is labelled, and choose ``count`` more."""
        small = dataclasses.replace(
            self.task, train=Split(pool.images[labelled], pool.labels[labelled])
        )
        # A hundred trainings of an experiment: augmented they would take as long as all the others.
        recipe = self.recipe.model_copy(
            update={
                "images": self.amounts.seen,
                "fresh": False,
                "augmented": False,
                "strength": 1.0,
            }
        )

        def compute() -> dict[str, Tensor]:
            network = variant.build(small)
            network.load_state_dict(train(small, variant, recipe))
            net = TrainedClassifier(small.name, network, "categorical", "")
            left = torch.ones(len(pool), dtype=torch.bool)
            left[labelled] = False
            rest = torch.arange(len(pool))[left]
            generator = torch.Generator().manual_seed(variant.seed)
            chosen = rest[:0]
            if count:
                priority = STRATEGIES[strategy](net, pool.images[rest], generator)
                chosen = rest[priority.argsort(descending=True, stable=True)[:count]]
            return {"logits": logits_of(network, self.task.test.images), "chosen": chosen}

        key = {
            "labelling": 1,
            "training": training_key(small, variant, recipe),
            "strategy": strategy,
            "count": count,
            "pool": pool.digest(),
            "test": digest(self.task.test.images),
            "versions": versions(),
        }
        title = (
            f"label {small.name} {variant.architecture} {strategy} {len(labelled)} images seed "
            f"{variant.seed}"
        )
        kept: dict[str, Tensor] = self.steps.run(title, key, compute)
        return kept
