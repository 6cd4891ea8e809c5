"""Our scores of an image and the baselines: of the prediction, the features, the image alone."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.trainings.training import Training
from monai_ifim.experiments.uses.features import class_gaussians, features_of
from monai_ifim.experiments.uses.scored import Scored

OURS = ("trace", "largest_eigenvalue", "flip_distance")
STATISTICS = ("mean", "log_deviation", "log_gradient")
BASELINES = ("entropy", "uncertainty", "margin", "mahalanobis", *STATISTICS)
SCORES = (*OURS, *BASELINES)
_TINY = 1e-300


def network_scores(classifier: TrainedClassifier, images: Tensor) -> dict[str, Tensor]:
    """What F and the probabilities say.

    Args:
        classifier: the network.
        images: (n, C, *S).

    Returns:
        (n,) in float64 each: ``trace`` and ``largest_eigenvalue`` in (input unit)⁻²;
        ``flip_distance``, first-order L2 norm to another answer, in input units; ``entropy`` in
        nats; ``uncertainty``, 1 minus the largest probability; ``margin``, the largest logit minus
        the second one; and the ``predicted`` class in int64.
    """
    family = classifier.family
    parts = []
    for space in classifier.eigenspaces(images):
        logits = space.logits.double()
        first, second = logits.topk(2, dim=1).values.unbind(1)
        parts.append(
            {
                "trace": space.trace,
                "largest_eigenvalue": space.eigenvalues[:, 0],
                "flip_distance": space.flip_distance().distance,
                "entropy": family.entropy(logits),
                "uncertainty": family.uncertainty(logits),
                "margin": first - second,
                "predicted": family.predicted(logits),
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def image_statistics(images: Tensor) -> dict[str, Tensor]:
    """Three numbers of an image that no network has seen.

    Args:
        images: (n, C, *S).

    Returns:
        (n,) in float64 each: ``mean``; ``log_deviation``, log of the standard deviation over all
        entries; ``log_gradient``, log of the mean absolute difference of neighbours.

    >>> ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    >>> {name: round(float(value), 3) for name, value in image_statistics(ramp).items()}
    {'mean': 1.5, 'log_deviation': 0.112, 'log_gradient': -0.693}
    """
    values = images.double()
    steps = [values.diff(dim=axis).abs().flatten(1).mean(dim=1) for axis in range(2, values.ndim)]
    flat = values.flatten(1)
    return {
        "mean": flat.mean(dim=1),
        "log_deviation": _log(flat.std(dim=1, correction=0)),
        "log_gradient": _log(torch.stack(steps).mean(dim=0)),
    }


def training_scores(training: Training, scored: Scored) -> dict[str, dict[str, Tensor]]:
    """Scores that need the network, of all kinds of images.

    Args:
        training: gives the network and keeps the scores.
        scored: the images.

    Returns:
        By the images' name ``network_scores``, and ``mahalanobis``: distance to the nearest class
        mean in the features before the last linear layer, with the covariance within classes of
        training images, shrunk.
    """
    network = training.classifier.network

    def compute() -> dict[str, dict[str, Tensor]]:
        gaussians = class_gaussians(features_of(network, scored.train.images), scored.train.labels)
        return {
            name: {
                **network_scores(training.classifier, images),
                "mahalanobis": gaussians.distances(features_of(network, images)),
            }
            for name, images in scored.images.items()
        }

    found: dict[str, dict[str, Tensor]] = training.step("uses scores", scored.digests, compute)
    return found


def on_log_scale(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Finite scores, with the log of those that are positive and span orders of magnitude.

    Args:
        scores: (n,) each, by name.

    Returns:
        The same, in the order that they had.
    """
    plain = {"margin", *STATISTICS}
    return {name: scores[name] if name in plain else _log(scores[name]) for name in scores}


def _log(values: Tensor) -> Tensor:
    """Finite for 0 and for an infinite distance."""
    return values.clamp(_TINY, 1 / _TINY).log()
