"""The sensitivity map in the form in which Quantus asks for attributions."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from monai_ifim.core import (
    Eigenspace,
    OptionKeywords,
    PooledEigenspace,
    chosen_options,
    eigenspace,
    smoothed_eigenspace,
    taken_in,
    warn_of_another,
    with_option_keywords,
)


@with_option_keywords
def quantus_explain(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    noise: float = 0.0,
    samples: int = 16,
    seed: int = 0,
    space: PooledEigenspace | str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    **keywords: Any,
) -> np.ndarray:
    """The sensitivity map √diag F of each image, as an ``explain_func`` of Quantus.

    F is about the whole predictive distribution, so the map does not depend on ``targets``: metrics
    that compare the maps of several targets (``RandomLogit``) find the same map for all of them.
    Quantus itself is not needed by this function; it is not installed with this package.

    Args:
        model: classifier, as Quantus hands it on; left as it was.
        inputs: images (B, C, *S), an array or a tensor.
        targets: ignored.
        noise: average F over white noise of this standard deviation in input units.
        samples: draws of the noise.
        seed: of the draws.
        space: a pooled eigenspace or its file; the map is then that of F inside its ``rank``
            leading directions, or the stable ones.
        device: where to compute; that of the model by default.
        keywords: the fields of ``EigenspaceOptions``, for example ``likelihood``.

    Returns:
        (B, C, *S) in float64, at least 0.

    Raises:
        ValueError: images, options or a pooled eigenspace that do not fit.

    Source: A. Hedström et al., "Quantus: An Explainable AI Toolkit for Responsible Evaluation of
    Neural Network Explanations and Beyond", JMLR 24 (2023), for the interface.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    >>> quantus_explain(network, np.zeros((2, 1, 6), dtype=np.float32), np.array([0, 1])).shape
    (2, 1, 6)
    """
    parameter = next(model.parameters(), torch.zeros(0))
    images = torch.as_tensor(inputs).to(device or parameter.device, parameter.dtype)
    pooled, options = taken_in(space, chosen_options(None, cast(OptionKeywords, keywords)))
    warn_of_another(pooled, model)
    if noise:
        found = smoothed_eigenspace(
            model, images, noise=noise, samples=samples, seed=seed, options=options
        )
    else:
        found = eigenspace(model, images, options=options)
    diagonal = found.sensitivity() if pooled is None else sensitivity_inside(found, pooled)
    values: np.ndarray = diagonal.sqrt().cpu().numpy()
    return values


def sensitivity_inside(space: Eigenspace, pooled: PooledEigenspace) -> Tensor:
    """Diagonal of P F(x) P, with P the projection onto a pooled eigenspace.

    Args:
        space: of the images.
        pooled: whose directions count.

    Returns:
        (B, C, *S) in float64.
    """
    total: Tensor | float = 0.0
    for column in space.factor.unbind(dim=2):
        root = space.combination(column).double()
        total = total + pooled.synthesis(pooled.coefficients(root)).square()
    assert isinstance(total, Tensor)
    return total
