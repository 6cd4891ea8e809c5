"""The same measurements on a trained classifier from outside: anybody's bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_ifim.classification_bundle import load_bundle_classifier, load_bundle_images
from monai_ifim.core import as_likelihood
from monai_ifim.experiments.environment import environment
from monai_ifim.experiments.measurement import LabelledImages, Measurement
from monai_ifim.experiments.roc import classification_auc_interval
from monai_ifim.experiments.settings import Settings
from monai_ifim.experiments.statistics import accuracy_interval
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.trained_classifier import TrainedClassifier
from monai_ifim.experiments.training import logits_of


def measure_bundle(
    settings: Settings, steps: Steps, bundle: Path, data: Path, *, likelihood: str = ""
) -> dict[str, Any]:
    """Perturbation curves, law, detection, maps and controls of a bundle's network.

    Args:
        settings: how many images for what.
        steps: keeps every measurement.
        bundle: its folder.
        data: images, laid out as the bundle reads them.
        likelihood: ``categorical`` or ``bernoulli``; recognised when empty.

    Returns:
        All numbers, ready for JSON, in the form that ``run_experiment`` gives.

    Raises:
        ValueError: no bundle, no images, or images that its network cannot take.
    """
    before = steps.seconds
    loaded = load_bundle_classifier(bundle, likelihood=likelihood)
    images, labels, names = load_bundle_images(bundle, data, limit=settings.test)
    if labels is not None and labels.ndim != 1:
        labels = None
    known = [] if labels is None else [labels]
    classifier = TrainedClassifier(loaded.name, loaded.network, loaded.likelihood, loaded.digest)
    sample = LabelledImages(images, labels, digest(images, *known, *names))
    measured = Measurement(classifier, sample, settings.measures, steps)
    network = {
        "training": {
            "parameters": sum(p.numel() for p in loaded.network.parameters()),
            "images_seen": None,
            **_accuracy(classifier, images, labels),
        },
        **measured.all(settings.seed),
        "agreement": None,
        "controls": measured.controls(settings.seed),
    }
    return {
        "experiment": loaded.name,
        "title": f"Bundle {loaded.name}",
        "profile": settings.profile,
        "missing": "",
        "settings": dataclasses.asdict(settings),
        "environment": environment(),
        "task": {
            "name": loaded.name,
            "classes": [],
            "shape": list(images.shape[2:]),
            "train": None,
            "test": len(images),
            "source": f"images in {data.name}, preprocessed by the bundle",
            "known_answer": None,
            "ideal": None,
        },
        "networks": {loaded.name: network},
        "complete": True,
        "seconds": steps.seconds - before,
    }


def _accuracy(
    classifier: TrainedClassifier, images: Tensor, labels: Tensor | None
) -> dict[str, Any]:
    if labels is None:
        return {"accuracy": None, "auc": None}
    logits = logits_of(classifier.network, images)
    probabilities = as_likelihood(classifier.likelihood).probabilities(logits)
    if classifier.likelihood == "bernoulli":
        if probabilities.shape[1] > 1:
            return {"accuracy": None, "auc": None}
        predicted = (logits[:, 0] > 0).long()
    else:
        predicted = logits.argmax(dim=1)
    accuracy = accuracy_interval(labels.numpy(), predicted.numpy()).as_dict()
    if classifier.likelihood == "bernoulli" or set(labels.tolist()) != set(range(logits.shape[1])):
        return {"accuracy": accuracy, "auc": None}
    return {
        "accuracy": accuracy,
        "auc": classification_auc_interval(labels.numpy(), probabilities.numpy()).as_dict(),
    }
