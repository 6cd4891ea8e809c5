"""What the spectrum of F tells about an image: a wrong prediction, or a corrupted input.

Each score is higher where the prediction is the more fragile. The first two are F's, the last two
know the probabilities alone: they are what the spectrum has to be compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from monai_ifim.core import (
    Bernoulli,
    Categorical,
    Likelihood,
    OutputTransform,
    as_likelihood,
    eigenspace,
)
from monai_ifim.experiments.statistics.bootstrap import Floats, Interval
from monai_ifim.experiments.statistics.roc import auc_interval, paired_auc_interval
from monai_ifim.metrics import effective_rank

SCORES = ("trace", "largest_eigenvalue", "entropy", "uncertainty")

_FEWEST = 5  # errors, and correct predictions, for an AUC that says something


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
        likelihood: see ``eigenspace``.
        output_transform: see ``eigenspace``.
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
        ValueError: another family, a batch size below 1, or images that ``eigenspace`` refuses.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    >>> _ = nn.init.zeros_(network[1].weight), nn.init.zeros_(network[1].bias)
    >>> scores = prediction_scores(network, torch.rand(3, 1, 6))
    >>> [round(scores[name][0].item(), 3) for name in SCORES]
    [0.0, 0.0, 0.693, 0.5]
    """
    family = as_likelihood(likelihood)
    if not isinstance(family, Categorical | Bernoulli):
        raise ValueError(
            f"expected the categorical or the Bernoulli family, got {type(family).__name__}; "
            "compute the uncertainty of other families from their probabilities"
        )
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


def error_detection(
    scores: Mapping[str, Tensor],
    labels: Tensor,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval] | None:
    """How well each score finds the wrong predictions.

    Args:
        scores: from ``prediction_scores``.
        labels: true classes, of the shape of ``scores["predicted"]``; a prediction of several
            labels is wrong when one of them is.
        level: of the intervals.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.

    Returns:
        For each of ``SCORES`` the area under the ROC curve: the chance that a wrong prediction
        scores higher than a correct one. Below 0.5 wrong predictions score lower; it is left as
        it is, never turned round. None with fewer than 5 errors or fewer than 5 correct
        predictions, too few for an area.

    Raises:
        ValueError: labels of another shape, or scores that are not finite.
    """
    predicted = scores["predicted"]
    if labels.shape != predicted.shape:
        raise ValueError(
            f"expected labels of shape {tuple(predicted.shape)}, got {tuple(labels.shape)}; pass "
            "the true class of each image (or 0 and 1 for each of several labels)"
        )
    wrong = (labels.cpu() != predicted.cpu()).reshape(len(predicted), -1).any(dim=1)
    errors = int(wrong.sum())
    if min(errors, len(wrong) - errors) < _FEWEST:
        return None
    return {
        name: auc_interval(
            wrong.numpy(), _array(scores[name]), level=level, resamples=resamples, seed=seed
        )
        for name in SCORES
    }


def corruption_detection(
    clean_scores: Mapping[str, Tensor],
    corrupted_scores: Mapping[str, Tensor],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """How well each score tells corrupted images from the same images before.

    Args:
        clean_scores: from ``prediction_scores``.
        corrupted_scores: of the same images in the same order, corrupted.
        level: of the intervals.
        resamples: of the bootstrap over images, both versions of an image together.
        seed: of the bootstrap.

    Returns:
        For each of ``SCORES`` the area under the ROC curve: the chance that a corrupted image
        scores higher than a clean one. Below 0.5 corrupted images score lower, which tells them
        apart as well; it is left as it is, never turned round.

    Raises:
        ValueError: fewer than 2 images, different counts, or scores that are not finite.
    """
    return {
        name: paired_auc_interval(
            _array(clean_scores[name]),
            _array(corrupted_scores[name]),
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for name in SCORES
    }


def _array(scores: Tensor) -> Floats:
    return scores.detach().cpu().double().numpy()


def _scores(
    network: nn.Module,
    images: Tensor,
    family: Categorical | Bernoulli,
    output_transform: OutputTransform | None,
) -> dict[str, Tensor]:
    """Scores of one batch; its eigenspace is gone on return."""
    space = eigenspace(network, images, likelihood=family, output_transform=output_transform)
    logits = space.logits.double()
    if isinstance(family, Categorical):
        predicted = logits.argmax(dim=1)
        entropy, uncertainty = _categorical(logits)
    else:
        predicted = (logits > 0).long()
        predicted = predicted[:, 0] if logits.shape[1] == 1 else predicted
        entropy, uncertainty = _bernoulli(logits)
    scores = {
        "trace": space.trace,
        "largest_eigenvalue": space.eigenvalues[:, 0],
        "entropy": entropy,
        "uncertainty": uncertainty,
        "effective_rank": effective_rank(space.eigenvalues),
        "probabilities": family.probabilities(logits),
        "predicted": predicted,
    }
    return {name: value.cpu() for name, value in scores.items()}


def _categorical(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and 1 - max p, from sums of terms that are all positive.

    With d_c = z_r - z_c >= 0 and o = sum over c != r of exp(-d_c), the odds against the most
    probable class r: 1 - p_r = o / (1 + o), and H = log(1 + o) + sum over c of p_c d_c.
    """
    top, reference = logits.max(dim=1, keepdim=True)
    lead = top - logits
    odds = torch.exp(-lead).scatter(1, reference, 0).sum(dim=1)
    probabilities = torch.softmax(logits, dim=1)
    return torch.log1p(odds) + (probabilities * lead).sum(dim=1), odds / (1 + odds)


def _bernoulli(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same for labels that are independent: the entropy is the sum over them."""
    lead = logits.abs()
    surprise = -logsigmoid(lead)  # of the more probable answer
    entropy = surprise + lead * torch.sigmoid(-lead)
    return entropy.sum(dim=1), -torch.expm1(-surprise.sum(dim=1))
