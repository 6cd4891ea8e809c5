"""One experiment: train the networks of a configuration and measure them, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from monai_ifim.core import Eigenspace
from monai_ifim.core.angles import principal_angles
from monai_ifim.experiments.environment import environment, versions
from monai_ifim.experiments.measures.controls import chance_angle
from monai_ifim.experiments.measures.measurement import LabelledImages, Measurement
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    largest_angles,
    template_cosines,
)
from monai_ifim.experiments.networks.training import (
    Variant,
    balanced,
    estimate_statistics,
    logits_of,
    train,
    training_key,
)
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.statistics.intervals import (
    accuracy_interval,
    mean_interval,
    median_interval,
)
from monai_ifim.experiments.statistics.roc import classification_auc_interval
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.tasks.task import MissingDataError, Task, load_task

Say = Callable[[str], None]
_UNTRAINED = 8  # networks with random weights
_UNTRAINED_IMAGES = 300  # for the AUC of each of them


def run_experiment(
    settings: Settings,
    steps: Steps,
    *,
    data: Path | None = None,
    say: Say = print,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Train and measure every network of an experiment.

    Args:
        settings: what to do.
        steps: keeps every training and every measurement; those found there are not repeated.
        data: folder of the clinical data sets.
        say: called with lines for people.
        keep: called with the numbers so far after every network.

    Returns:
        All numbers, ready for JSON; without networks, and with the reason under ``missing``, when
        the images of a clinical task are not there. A network that fails is reported under
        ``failures``, and costs no other its result; ``complete`` is then false.
    """
    before = steps.seconds
    result: dict[str, Any] = {
        "experiment": settings.name,
        "title": settings.title,
        "profile": settings.profile,
        "missing": "",
        "settings": dataclasses.asdict(settings),
        "environment": environment(),
        "networks": {},
    }
    try:
        task = load_task(
            settings.task,
            train=settings.train,
            test=settings.test,
            size=settings.size,
            data=data,
        )
    except MissingDataError as error:
        say(f"{settings.name}: {error}")
        return {**result, "missing": str(error), "complete": False, "seconds": 0.0}
    result["task"] = _described(task)
    result.update(failures={}, complete=False)
    with tqdm(settings.networks, desc=settings.name, unit="network", disable=None) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            try:
                result["networks"][name] = _Network(settings, task, steps, name).measure()
            except (ValueError, RuntimeError) as error:
                say(f"{settings.name} {name}: {error}")
                result["failures"][name] = str(error)
            keep({**result, "seconds": steps.seconds - before})
    complete = not result["failures"]
    return {**result, "complete": complete, "seconds": steps.seconds - before}


def _described(task: Task) -> dict[str, Any]:
    ideal = None
    if task.signal is not None and task.known_answer == "exact":
        logits = task.signal.ideal_logits(task.test.images)
        ideal = {
            "accuracy": float((logits.argmax(dim=1) == task.test.labels).double().mean()),
            "auc": classification_auc_interval(
                task.test.labels.numpy(), logits.softmax(dim=1).numpy(), resamples=10
            ).value,
        }
    return {
        "name": task.name,
        "classes": list(task.classes),
        "shape": list(task.shape[1:]),
        "train": len(task.train),
        "test": len(task.test),
        "source": task.source,
        "known_answer": task.known_answer,
        "ideal": ideal,
    }


class _Network:
    """One architecture on one task."""

    def __init__(self, settings: Settings, task: Task, steps: Steps, name: str) -> None:
        self.settings = settings
        self.task = task
        self.steps = steps
        self.name = name
        width = settings.networks[name].get("width")
        self.variant = Variant(name, width=width, seed=settings.seed)

    def measure(self) -> dict[str, Any]:
        """Everything about this network."""
        classifier = self._trained(self.variant)
        measured = self._measurement(classifier)
        return {
            "training": {
                "parameters": sum(p.numel() for p in classifier.network.parameters()),
                "width": self.variant.width,
                "images_seen": self.settings.recipe.images,
                **self._accuracy(classifier),
            },
            **measured.all(self.settings.seed),
            "agreement": self._agreement(classifier),
            "controls": self._controls(classifier, measured),
        }

    def _measurement(self, classifier: TrainedClassifier) -> Measurement:
        test = self.task.test
        sample = LabelledImages(test.images, test.labels, self.task.digest())
        return Measurement(classifier, sample, self.settings.measures, self.steps)

    def _controls(self, classifier: TrainedClassifier, measured: Measurement) -> dict[str, Any]:
        found = measured.controls(self.settings.seed)
        if not self.settings.measures.control_images:
            return found
        spaces = self._spaces(classifier)
        return {
            **found,
            "random_weights": self._untrained(spaces),
            "shuffled_labels": self._again(spaces, shuffled=True),
            "two_seeds": self._two_seeds(spaces),
        }

    def _trained(self, variant: Variant) -> TrainedClassifier:
        name = f"{self.settings.name} {self.name}" + "".join(
            f" {text}"
            for text, chosen in (
                (f"seed {variant.seed}", variant.seed != self.settings.seed),
                ("shuffled labels", variant.shuffled),
                (f"{variant.limit} images", variant.limit is not None),
            )
            if chosen
        )
        recipe = self.settings.recipe
        weights = self.steps.run(
            f"train {name}",
            training_key(self.task, variant, recipe),
            lambda: train(self.task, variant, recipe),
        )
        network = variant.build(self.task)
        network.load_state_dict(weights)
        return TrainedClassifier(name, network, "categorical", digest(*weights.values()))

    def _accuracy(
        self, classifier: TrainedClassifier, limit: int | None = None, resamples: int = 1000
    ) -> dict[str, Any]:
        """Accuracy and AUC on the test images, or on so many of them."""
        test = self.task.test if limit is None else balanced(self.task.test, limit)
        labels = test.labels
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
        probabilities = logits.softmax(dim=1).numpy()
        auc = classification_auc_interval(labels.numpy(), probabilities, resamples=resamples)
        return {
            "accuracy": accuracy_interval(labels.numpy(), probabilities.argmax(axis=1)).as_dict(),
            "auc": auc.as_dict(),
        }

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
            "cosine": median_interval(cosines).as_dict(),
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
        rows = []
        for count in (*self.settings.training_sizes, len(self.task.train)):
            limit = count if count < len(self.task.train) else None
            classifier = self._trained(dataclasses.replace(self.variant, limit=limit))
            cosines = self._cosine(classifier)
            rows.append(
                {
                    "images": count,
                    "cosine": None if cosines is None else median_interval(cosines).as_dict(),
                    **self._accuracy(classifier),
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
            aucs.append(self._accuracy(other, limit=_UNTRAINED_IMAGES, resamples=2)["auc"]["value"])
            angles.append(float(largest_angles(spaces, self._spaces(other)).median()))
        assert first is not None
        return {
            "networks": _UNTRAINED,
            "cosine": mean_interval(cosines).as_dict() if cosines else None,
            "auc": mean_interval(aucs).as_dict(),
            "angle": mean_interval(angles).as_dict(),
            "ratios": self._measurement(first).plain_ratios(self.settings.seed),
        }

    def _random(self, number: int) -> TrainedClassifier:
        """A network that was never trained, with batch statistics of the training images."""
        variant = dataclasses.replace(self.variant, seed=self.settings.seed + 1000 + number)
        network = variant.build(self.task)
        estimate_statistics(network, self.task.train.images[:256].split(64))
        name = f"{self.settings.name} {self.name} random weights {number}"
        return TrainedClassifier(
            name, network, "categorical", digest(*network.state_dict().values())
        )

    def _again(self, spaces: list[Eigenspace], **changes: Any) -> dict[str, Any] | None:
        """The network trained once more, with something changed."""
        if self.name not in self.settings.controls:
            return None
        other = self._trained(dataclasses.replace(self.variant, **changes))
        cosines = self._cosine(other)
        return {
            "cosine": None if cosines is None else median_interval(cosines).as_dict(),
            "angle": median_interval(largest_angles(spaces, self._spaces(other))).as_dict(),
            "ratios": self._measurement(other).plain_ratios(self.settings.seed),
            **self._accuracy(other),
        }

    def _two_seeds(self, spaces: list[Eigenspace]) -> dict[str, Any] | None:
        compared = self._again(spaces, seed=self.settings.seed + 1)
        chance = chance_angle(spaces, self.settings.seed)
        return None if compared is None else {**compared, "chance_angle": chance}
