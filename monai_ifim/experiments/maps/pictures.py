"""Maps of a few images as pictures, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.experiments.maps.explainers import Explain, predicted_classes
from monai_ifim.experiments.pictures import plane, rounded


def map_pictures(
    network: nn.Module, images: Tensor, explained_by: Mapping[str, Explain]
) -> dict[str, Any]:
    """What each method finds at each image, for the predicted class.

    Args:
        network: categorical classifier in eval mode; left as it was.
        images: (N, C, *S).
        explained_by: functions in Quantus' form, by name.

    Returns:
        ``predicted``, the N classes; ``images`` and, by name, ``maps``: N pictures each, in rows
        of numbers whose largest magnitude is 1; of the first channel, and of volumes the plane
        through the middle.
    """
    targets = predicted_classes(network, images)
    found = {
        name: torch.as_tensor(explain(model=network, inputs=images.numpy(), targets=targets))
        for name, explain in explained_by.items()
    }
    return {
        "predicted": targets.tolist(),
        "images": [rounded(plane(image)) for image in images],
        "maps": {name: [rounded(plane(each)) for each in maps] for name, maps in found.items()},
    }
