"""The smallest change to another answer, by a search that knows nothing of what shall predict it.

``verified_flip`` starts at the first-order distance and heads for the answer that is nearest to
first order, which would favour that predictor. Here every image's search starts at the same share
of its own norm, and each other answer is searched for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ifim.core import at_rest
from monai_ifim.core.flips import margins_of
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batches
from monai_ifim.questions.search import Search

# Shares of the image's norm, and steps of each attack: DDN with 60 reaches from 0.05 to 18 times
# the norm that it starts with.
SEARCH = {"start": 0.01, "ddn": 60, "pgd": 20}


def smallest_changes(classifier: TrainedClassifier, images: Tensor) -> Tensor:
    """L2 norm of the smallest change to another answer that DDN or PGD finds.

    DDN searches each other answer on its own, PGD all of them at once.

    Args:
        classifier: whose answers they are.
        images: (n, C, *S).

    Returns:
        (n,) in float64, infinite where none was found.

    Raises:
        ModuleNotFoundError: foolbox is not installed.
    """
    return torch.cat([_smallest(classifier, batch) for batch in batches(images)])


def _smallest(classifier: TrainedClassifier, images: Tensor) -> Tensor:
    family = classifier.family
    with at_rest(classifier.network, images.device):
        with torch.no_grad():
            logits = classifier.network(images)
        size = torch.linalg.vector_norm(images.flatten(1), dim=1)
        margins = margins_of(family, logits, logits).abs()
        # Each margin counts as 1, so that the attacks' loss has a gradient.
        weights = 1 / margins.clamp_min(torch.finfo(logits.dtype).tiny)

        def found(method: str, weights: Tensor) -> Tensor:
            search = Search(
                predict=classifier.network,
                images=images,
                family=family,
                logits=logits,
                scale=SEARCH["start"] * torch.where(size > 0, size, 1),
                weights=weights,
            )
            best, there = search.nearest(method, int(SEARCH[method]))
            return torch.where(there, search.lengths(best), torch.inf)

        answers = torch.eye(margins.shape[1], device=images.device, dtype=weights.dtype)
        norms = [found("ddn", weights * answer) for answer in answers]
        norms.append(found("pgd", weights))
    return torch.stack(norms).amin(dim=0)
