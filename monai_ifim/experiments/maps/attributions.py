"""Attribution maps of a prediction by the established methods.

Every image is attributed on its own, so that its maps do not depend on the rest of the batch;
what a method has to evaluate for it (steps, noisy copies, windows) is batched instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_ifim.core import (
    Likelihood,
    OutputTransform,
    as_leaf,
    as_likelihood,
    at_rest,
    run_forward,
    unwrap,
)
from monai_ifim.core.checks import check_finite_images, check_finite_logits, check_images
from monai_ifim.experiments.logits import one_prediction
from monai_ifim.experiments.maps.methods import METHODS, AttributionMethod, OutcomeLogit, as_methods

# Voxels evaluated at a time when no batch size is given: one volume of 64 x 64 x 64.
_VOXELS = 1 << 18


def attribution_maps(
    network: nn.Module,
    images: Tensor,
    generator: torch.Generator,
    *,
    likelihood: str | Likelihood = "categorical",
    output_transform: OutputTransform | None = None,
    methods: Sequence[str | AttributionMethod] = tuple(METHODS),
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Signed attributions of the logit of each image's predicted outcome.

    The logit is that of the most probable class; for sigmoids that of the label whose logit is
    largest in absolute value, times its sign, so that a positive attribution always speaks for
    the outcome that was predicted.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S), floating point.
        generator: of the noise, on the CPU; used by random methods (SmoothGrad) alone. The same
            state and batch size give the same maps on the same kind of device.
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or a family.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        methods: names in ``METHODS``, or objects with other options, for example
            ``SmoothedGradient(samples=4)``.
        batch_size: evaluations of the network at a time; by default as many images as hold
            2^18 voxels, at least 1 and at most 32.

    Returns:
        (B, C, *S) by name, in the order of ``methods``, in the images' dtype, detached. A map of
        zeros is possible: a network may be locally constant.

    Raises:
        TypeError: images or output of the wrong type.
        ValueError: an unknown method, a number out of range, a method that does not apply (no
            layer for Grad-CAM), a dense prediction, or values that are not finite.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    >>> images = torch.randn(2, 1, 6, 7)
    >>> _ = network(images)
    >>> maps = attribution_maps(network, images, torch.Generator(), methods=["occlusion"])
    >>> maps["occlusion"].shape
    torch.Size([2, 1, 6, 7])
    """
    chosen = as_methods(methods)
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"expected batch_size of at least 1, got {batch_size}; leave it out for the usual one"
        )
    check_images(images)
    check_finite_images(images)
    images, network = images.detach().as_subclass(Tensor), unwrap(network)
    chosen = [method.prepared(network, images) for method in chosen]
    size = batch_size or min(32, max(1, _VOXELS // math.prod(images.shape[2:])))
    found: dict[str, list[Tensor]] = {method.name: [] for method in chosen}
    with at_rest(network, images.device):
        if any(method.random for method in chosen):
            _seed(images.device, generator)
        logits = _logits(network, images.split(size), output_transform)
        family = as_likelihood(likelihood)
        family.check(logits)
        outcomes = family.outcome_logits(logits)
        for image, (index, sign) in zip(images.split(1), outcomes, strict=True):
            leaf = as_leaf(image)
            logit = OutcomeLogit(network, output_transform, index, sign)
            for method in chosen:
                values = method.attribute(logit, leaf, size).detach().to(images.dtype)
                _check_map(values, method.name, len(found[method.name]))
                found[method.name].append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def _logits(
    network: nn.Module, parts: Sequence[Tensor], output_transform: OutputTransform | None
) -> Tensor:
    passes = (run_forward(network, part, output_transform=output_transform) for part in parts)
    logits = torch.cat([one_prediction(forward.logits.detach()) for forward in passes])
    check_finite_logits(logits)
    return logits


def _check_map(values: Tensor, method: str, image: int) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"expected finite attributions, got NaN or infinity from {method} for image {image} "
            "of the batch (counted from 0); look for sqrt, log or a division at zero in the "
            "network's forward, or leave it out"
        )


def _seed(device: torch.device, generator: torch.Generator) -> None:
    """Seed the global stream that captum draws from; ``at_rest`` restores it."""
    seed = int(torch.randint(2**62, (), generator=generator))
    # torch.manual_seed would also seed devices whose state is not restored.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
