"""Trainings that are kept, so that no network is trained twice."""

from __future__ import annotations

from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.networks.training import (
    Recipe,
    Variant,
    estimate_statistics,
    train,
    training_key,
)
from monai_ifim.experiments.steps import Steps, digest
from monai_ifim.experiments.tasks.labelled import Task


def trained(task: Task, variant: Variant, recipe: Recipe, steps: Steps) -> TrainedClassifier:
    """The classifier of a training, from an earlier run or trained now.

    Args:
        task: images.
        variant: what to train.
        recipe: how.
        steps: keeps the weights.

    Returns:
        The network in eval mode, named after all that distinguishes trainings of one task.

    Raises:
        ValueError: a training that diverged.
    """
    name = f"{task.name} {variant.architecture} {recipe.images} images seen seed {variant.seed}"
    if variant.shuffled:
        name += " shuffled labels"
    if variant.limit is not None:
        name += f" of {variant.limit}"
    weights = steps.run(
        f"train {name}",
        training_key(task, variant, recipe),
        lambda: train(task, variant, recipe),
    )
    network = variant.build(task)
    network.load_state_dict(weights)
    return TrainedClassifier(name, network, "categorical", digest(*weights.values()))


def untrained(task: Task, variant: Variant) -> TrainedClassifier:
    """The classifier before any training, with batch statistics of training images.

    Args:
        task: images.
        variant: its seed chooses the weights.

    Returns:
        The network in eval mode.
    """
    network = variant.build(task)
    estimate_statistics(network, task.train.images[:256].split(64))
    name = f"{task.name} {variant.architecture} random weights {variant.seed}"
    return TrainedClassifier(name, network, "categorical", digest(*network.state_dict().values()))
