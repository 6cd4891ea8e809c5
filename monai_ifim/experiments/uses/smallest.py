"""The smallest change to another answer, by a search that knows nothing of what shall predict it.

``verified_flip`` starts at the first-order distance, which would favour that predictor. Here every
image's search starts at the same share of its own norm, with the same attacks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ifim.core import at_rest
from monai_ifim.core.flips import margins_of
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batches
from monai_ifim.questions.search import Search

# Steps of each attack. DDN with 60 reaches from 0.05 to 18 times the norm that it starts with.
SEARCHES = {"ddn": 60, "pgd": 20}
START = 0.01  # of the image's norm


def smallest_changes(classifier: TrainedClassifier, images: Tensor) -> Tensor:
    """L2 norm of the smallest change to another answer that DDN or PGD finds.

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
        # The nearest answer's margin counts as 1, so that the attacks' loss has a gradient.
        margins = margins_of(family, logits, logits).abs()
        nearest = margins.amin(dim=1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
        search = Search(
            predict=classifier.network,
            images=images,
            family=family,
            logits=logits,
            scale=START * torch.where(size > 0, size, 1),
            weights=(1 / nearest).expand_as(margins),
        )
        norms = []
        for method, steps in SEARCHES.items():
            best, found = search.nearest(method, steps)
            norms.append(torch.where(found, search.lengths(best), torch.inf))
    return torch.stack(norms).amin(dim=0)
