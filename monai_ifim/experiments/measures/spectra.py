"""Scores of an image: what the spectrum of F and the probabilities say about its prediction.

Each score is higher where the prediction is the more fragile. The first two are F's, the last two
know the probabilities alone: they are what the spectrum has to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_ifim.core import Likelihood, OutputTransform, as_likelihood, eigenspace
from monai_ifim.core.families import require
from monai_ifim.experiments.logits import one_prediction
from monai_ifim.metrics import effective_rank

SCORES = ("trace", "largest_eigenvalue", "entropy", "uncertainty")


def prediction_scores(
    network: nn.Module,
    images: Tensor,
    *,
    likelihood: str | Likelihood = "categorical",
    output_transform: OutputTransform | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Prediction, its uncertainty and the spectrum of F, for each image.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S).
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or a family.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        batch_size: images at a time; the eigenspace of one batch is held, never more.
        progress: called with the numbers of images done and in all, after every batch.

    Returns:
        Tensors on the CPU, (B,) in float64 unless said otherwise. ``trace`` and
        ``largest_eigenvalue`` in (input unit)⁻²; ``entropy`` of the prediction in nats, for
        several labels the sum over them; ``uncertainty``, 1 minus the probability of the most
        probable outcome, with all its digits where that is nearly 1; ``effective_rank``, as
        ``SpectrumMetric`` has it; ``probabilities`` (B, K); ``predicted`` class, (B,) in int64,
        for several labels (B, L) of 0 and 1.

    Raises:
        ValueError: a family without entropy, a dense prediction, a batch size below 1, or images
            that ``eigenspace`` refuses.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    >>> _ = nn.init.zeros_(network[1].weight), nn.init.zeros_(network[1].bias)
    >>> scores = prediction_scores(network, torch.rand(3, 1, 6))
    >>> [round(scores[name][0].item(), 3) for name in SCORES]
    [0.0, 0.0, 0.693, 0.5]
    """
    family = as_likelihood(likelihood)
    require(family, "entropy", "uncertainty", "predicted", "probabilities")
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}; 1 needs the least memory")
    parts: list[dict[str, Tensor]] = []
    done = 0
    for batch in images.split(batch_size):
        parts.append(_scores(network, batch, family, output_transform))
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _scores(
    network: nn.Module, images: Tensor, family: Likelihood, output_transform: OutputTransform | None
) -> dict[str, Tensor]:
    """Scores of one batch; its eigenspace is gone on return."""
    space = eigenspace(network, images, likelihood=family, output_transform=output_transform)
    logits = one_prediction(space.logits).double()
    scores = {
        "trace": space.trace,
        "largest_eigenvalue": space.eigenvalues[:, 0],
        "entropy": family.entropy(logits),
        "uncertainty": family.uncertainty(logits),
        "effective_rank": effective_rank(space.eigenvalues),
        "probabilities": family.probabilities(logits),
        "predicted": family.predicted(logits),
    }
    return {name: value.cpu() for name, value in scores.items()}
