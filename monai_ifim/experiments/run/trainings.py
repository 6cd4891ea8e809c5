"""Several trainings of every network of an experiment, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.networks.trained import trained, untrained
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.networks.training import Recipe
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.statistics import classification_scores
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.labelled import Task, balanced
from monai_ifim.experiments.trainings.agreement import between, within
from monai_ifim.experiments.trainings.metrics import Seen, metrics_of
from monai_ifim.experiments.trainings.moves import moves
from monai_ifim.experiments.trainings.pictures import pictures
from monai_ifim.experiments.trainings.template import template_agreement, untrained_agreement
from monai_ifim.experiments.trainings.training import Amounts, Training
from monai_ifim.experiments.uses.labelling import LabellingCourse
from monai_ifim.experiments.uses.measurement import uses
from monai_ifim.experiments.uses.scored import Scored, no_foreign_images, scored_images

_UNTRAINED = 4  # networks with random weights


class TrainingsOfTask:
    """Trains each network several times, and compares the trainings.

    Args:
        settings: of the experiment.
        task: its images.
        steps: keeps every training and every measurement.
        data: folder of the clinical data sets, for images of another kind.
        say: called with lines for people.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        steps: Steps,
        data: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.settings, self.task, self.steps = settings, task, steps
        self.data, self.say = data, say
        self.images = balanced(task.test, settings.measures.pooled_images).images
        self._found: dict[str, list[Training]] = {}

    @cached_property
    def metrics(self) -> Mapping[str, Seen]:
        """In what directions are compared."""
        return metrics_of(self.task.train)

    @cached_property
    def scored(self) -> Scored | None:
        """Among which wrong predictions, corrupted and foreign images are to be found."""
        measures = self.settings.measures
        if not measures.used_images:
            return None
        found = scored_images(
            self.task, measures.used_images, measures.corruptions, self.settings.seed, self.data
        )
        if not found.foreign:
            self.say(no_foreign_images(self.task))
        return found

    def measure(self, name: str) -> list[dict[str, Any]]:
        """The trainings of one network, the shortest first.

        Args:
            name: of the network, in ``settings.networks``.

        Returns:
            A block of numbers ready for JSON for each number of images seen.

        Raises:
            ValueError: a training that diverged.
        """
        recipe = self.settings.recipe_of(name)
        return [
            self._block(name, recipe.model_copy(update={"images": length}))
            for length in self.settings.lengths_of(name)
        ]

    def across(self) -> dict[str, Any] | None:
        """The longest trainings of different networks compared, of those measured so far."""
        found = between(list(self._found.values()), self.metrics)
        return found and {"networks": list(self._found), **found}

    def labelling(self) -> dict[str, Any] | None:
        """Images to label chosen in several ways, for the first network; None without rounds."""
        measures, name = self.settings.measures, next(iter(self.settings.networks))
        if not measures.labelling.rounds:
            return None
        return LabellingCourse(
            self.task,
            self.settings.variant_of(name),
            self.settings.recipe_of(name),
            measures.labelling,
            self.steps,
        ).measure(measures.image_draws)

    def _block(self, name: str, recipe: Recipe) -> dict[str, Any]:
        variant = self.settings.variant_of(name)
        seeds = range(self.settings.seed, self.settings.seed + self.settings.trainings_of(name))
        trainings = [
            self._training(
                trained(self.task, dataclasses.replace(variant, seed=s), recipe, self.steps)
            )
            for s in seeds
        ]
        self._found[name] = trainings
        random = [
            self._training(
                untrained(
                    self.task, dataclasses.replace(variant, seed=self.settings.seed + 1000 + i)
                ),
                smoothed=0,
            )
            for i in range(_UNTRAINED)
        ]
        moved = self.settings.measures.moved_images
        longest = self.settings.recipe_of(name).images
        return {
            "recipe": recipe.model_dump(),
            "width": variant.width,
            "max_pool": variant.max_pool,
            "images": len(self.images),
            "directions": trainings[0].rank,
            "trainings": [self._described(training) for training in trainings],
            **self._known_answer(trainings, random),
            "pictures": self._pictures(trainings) if recipe.images == longest else None,
            "agreement": within(trainings, random, self.metrics),
            "moves": moves(trainings, self.task.train, moved) if moved else None,
            "uses": self._uses(trainings) if recipe.images == longest else None,
        }

    def _pictures(self, trainings: Sequence[Training]) -> dict[str, Any] | None:
        return pictures(trainings, None if self.task.signal is None else self.task.templates)

    def _uses(self, trainings: Sequence[Training]) -> dict[str, Any] | None:
        count = self.settings.measures.flip_images
        flipped = balanced(self.task.test, count).images if count else None
        return uses(trainings, self.scored, flipped, self.say)

    def _known_answer(
        self, trainings: Sequence[Training], random: Sequence[Training]
    ) -> dict[str, Any]:
        if self.task.signal is None:
            return {"template": None, "untrained_template": None}
        templates = self.task.templates
        return {
            "template": template_agreement(trainings, templates, self.metrics),
            "untrained_template": untrained_agreement(random, templates, self.metrics),
        }

    def _training(self, classifier: TrainedClassifier, smoothed: int | None = None) -> Training:
        measures = self.settings.measures
        amounts = Amounts(
            images=len(self.images),
            smoothed=measures.smoothed_images if smoothed is None else smoothed,
            draws=measures.image_draws,
            seed=self.settings.seed,
        )
        return Training(classifier, self.images, len(self.task.classes), amounts, self.steps)

    def _described(self, training: Training) -> dict[str, Any]:
        """Accuracy and AUC without intervals, and what the pooled eigenspaces hold."""
        test = self.task.test
        logits = training.step(
            "logits",
            [test.digest()],  # more of them than are pooled
            lambda: logits_of(training.classifier.network, test.images),
        )
        scores = classification_scores(
            test.labels, training.classifier.family, logits, resamples=10
        )
        return {
            **{name: found and found["value"] for name, found in scores.items()},
            "pooled": training.summary(),
        }
