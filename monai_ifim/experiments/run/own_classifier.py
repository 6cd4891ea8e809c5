"""The same measurements on a trained classifier from outside: any bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_ifim.bundle import load_bundle_classifier, load_bundle_images
from monai_ifim.experiments.environment import environment
from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.maps.methods import AttributionMethod
from monai_ifim.experiments.measures.controls import controls
from monai_ifim.experiments.measures.measurement import measure_all
from monai_ifim.experiments.measures.subject import LabelledImages, Subject
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.statistics import classification_scores
from monai_ifim.experiments.statistics.classification import has_classes
from monai_ifim.experiments.steps import Steps, digest

logger = logging.getLogger(__name__)


def measure_bundle(
    settings: Settings,
    steps: Steps,
    bundle: Path,
    data: Path,
    *,
    likelihood: str = "",
    methods: Sequence[AttributionMethod] = (),
) -> dict[str, Any]:
    """Perturbation curves, law, detection, maps and controls of a bundle's network.

    Args:
        settings: how many images for what.
        steps: keeps every measurement.
        bundle: its folder.
        data: images, laid out as the bundle reads them.
        likelihood: ``categorical`` or ``bernoulli``; recognised when empty.
        methods: attribution methods beside the established ones.

    Returns:
        All numbers, ready for JSON, in the form that ``run_experiment`` gives. Images that are
        constant after preprocessing are left out, and labels that are not one class an image.

    Raises:
        ValueError: no bundle, no images, images that its network cannot take, or a dense
            prediction.
    """
    before = steps.seconds
    loaded = load_bundle_classifier(bundle, likelihood=likelihood)
    images, labels, names = load_bundle_images(bundle, data, limit=settings.test)
    listed = len(names)
    images, labels, names = _varied(images, labels, names, data)
    classifier = TrainedClassifier(loaded.name, loaded.network, loaded.likelihood, loaded.digest)
    logits = logits_of(classifier.network, images)
    if labels is not None and not has_classes(labels, classifier.family, logits):
        logger.warning("labels are left out: they are not one class for each image")
        labels = None
    known = [] if labels is None else [labels]
    sample = LabelledImages(images, labels, digest(images, *known, *names))
    subject = Subject(classifier, sample, settings.measures, steps, settings.seed, tuple(methods))
    network = {
        "training": {
            "parameters": sum(p.numel() for p in loaded.network.parameters()),
            "images_seen": None,
            **classification_scores(labels, classifier.family, logits),
        },
        **measure_all(subject),
        "agreement": None,
        "controls": controls(subject),
    }
    return {
        "experiment": loaded.name,
        "title": f"Bundle {loaded.name}",
        "profile": settings.profile,
        "missing": "",
        "settings": settings.model_dump(),
        "environment": environment(),
        "task": _described(loaded.name, images, data),
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


def _varied(
    images: Tensor, labels: Tensor | None, names: list[str], data: Path
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Those images that are not constant, at least two of them."""
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
    return images, labels, names


def _described(name: str, images: Tensor, data: Path) -> dict[str, Any]:
    return {
        "name": name,
        "classes": [],
        "shape": list(images.shape[2:]),
        "train": None,
        "test": len(images),
        "source": f"images in {data.name}, preprocessed by the bundle",
        "known_answer": None,
        "ideal": None,
    }
