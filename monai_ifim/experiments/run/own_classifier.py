"""The same measurements on a trained classifier from outside: anybody's bundle."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.bundle import load_bundle_classifier, load_bundle_images
from monai_ifim.core import as_likelihood
from monai_ifim.experiments.environment import environment
from monai_ifim.experiments.measures.measurement import LabelledImages, Measurement
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.networks.training import logits_of
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.statistics.intervals import accuracy_interval
from monai_ifim.experiments.statistics.roc import classification_auc_interval
from monai_ifim.experiments.steps import Steps, digest

logger = logging.getLogger(__name__)


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
        All numbers, ready for JSON, in the form that ``run_experiment`` gives. Images that are
        constant after preprocessing are left out, and labels that are not one class an image.

    Raises:
        ValueError: no bundle, no images, or images that its network cannot take.
    """
    before = steps.seconds
    loaded = load_bundle_classifier(bundle, likelihood=likelihood)
    images, labels, names = load_bundle_images(bundle, data, limit=settings.test)
    listed = len(names)
    varied = images.flatten(1).amax(dim=1) > images.flatten(1).amin(dim=1)
    if not bool(varied.all()):
        blank = [name for name, kept in zip(names, varied.tolist(), strict=True) if not kept]
        logger.warning("left out, constant after preprocessing: %s", ", ".join(blank))
        images, names = images[varied], [name for name in names if name not in blank]
        labels = None if labels is None else labels[varied]
    if len(images) < 2:
        raise ValueError(
            f"expected at least 2 images that are not constant in {data}, got {len(images)}; one "
            "alone has no interval"
        )
    if labels is not None and not _fits(labels, loaded.network, images, loaded.likelihood):
        logger.warning("labels are left out: they are not one class for each image")
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
        "bundle": {
            "likelihood": loaded.likelihood,
            "digest": loaded.digest,
            "files": names,
            "left_out": listed - len(names),
        },
        "networks": {loaded.name: network},
        "complete": True,
        "seconds": steps.seconds - before,
    }


def _fits(labels: Tensor, network: nn.Module, images: Tensor, likelihood: str) -> bool:
    """Whether there is one class number for each image, and the network has such a class."""
    outputs = logits_of(network, images[:1]).shape[1]
    if likelihood == "bernoulli" and outputs > 1:
        return False
    classes = outputs if likelihood == "categorical" else 2
    return labels.ndim == 1 and bool(((labels >= 0) & (labels < classes)).all())


def _accuracy(
    classifier: TrainedClassifier, images: Tensor, labels: Tensor | None
) -> dict[str, Any]:
    if labels is None:
        return {"accuracy": None, "auc": None}
    logits = logits_of(classifier.network, images)
    probabilities = as_likelihood(classifier.likelihood).probabilities(logits)
    if classifier.likelihood == "bernoulli":  # one logit: two classes
        probabilities = torch.cat([1 - probabilities, probabilities], dim=1)
    table = probabilities.numpy()
    accuracy = accuracy_interval(labels.numpy(), table.argmax(axis=1)).as_dict()
    if set(labels.tolist()) != set(range(table.shape[1])):
        return {"accuracy": accuracy, "auc": None}
    auc = classification_auc_interval(labels.numpy(), table)
    return {"accuracy": accuracy, "auc": auc.as_dict()}
