"""From a network and its images to the eigenspace of the Fisher information matrix.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362; SPIE Medical Imaging 2026,
doi 10.1117/12.3088115.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import (
    check_finite_factor,
    check_finite_gradients,
    check_finite_images,
    check_finite_logits,
    check_images,
)
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families import family_of
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.forward import Forward, lacks_batch_axis, run_forward
from monai_ifim.core.gradients.independence import IndependenceCheck
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)
from monai_ifim.core.solvers.problem import problem_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_option_keywords
def eigenspace(
    network: nn.Module,
    images: Tensor,
    *,
    options: EigenspaceOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Eigenspace:
    """Leading eigenspace of the input-dependent Fisher information matrix F(x).

    Exact, with K - 1 backward passes to the input for K classes, unless K is large or the output
    is an image. The network is run in eval mode without autocast and is left as it was, also
    after an exception.

    Args:
        network: trained classifier, (B, C, *S) to logits (B, K); or a segmentation network, to
            logits (B, K, *S'), whose prediction is a softmax at each voxel. One of several inputs
            comes through ``SeveralInputs``.
        images: (B, C, *S), preprocessed as the network expects them.
        options: a value that holds all choices; instead of ``keywords``.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5``:

            - likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or an object.
            - classes, groups: the prediction given that one of some classes is true, or with
              classes taken together: ``classes=[0, 2]``, ``groups=[[0], [1, 2]]``.
            - perturbation: which changes are considered, such as ``Mask`` of a region; all of them
              by default.
            - rank: keep at most this many eigenpairs; all of them by default.
            - energy: keep, for each image, the fewest that reach this share of the trace of F.
            - method: ``"exact"``, ``"truncated"``, ``"krylov"``, ``"auto"`` (``Auto`` says which
              one that is), or an object. The result's ``approximation`` says what was left out.
            - tolerance: of a method that is named: 1e-6 where truncated, 1e-3 for Krylov.
            - output_transform: chooses the logits when the network returns a tuple or a dict.
            - head, vjp_chunk, offload, autocast: see ``EigenspaceOptions``.

    Returns:
        The eigenspace, on the device and in the dtype of the images.

    Raises:
        TypeError: network, images or output of the wrong type.
        ValueError: shapes, values or choices that make the answer meaningless; the message says
            what was expected, what came, and how to fix it.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> images = torch.randn(2, 1, 3, 4)
    >>> space = eigenspace(network, images)
    >>> space.eigenvalues.shape
    torch.Size([2, 2])
    >>> high, orth = space.split(images)
    >>> torch.allclose(high + orth, images)
    True
    >>> eigenspace(network, images, rank=3)
    Traceback (most recent call last):
        ...
    ValueError: expected 1 <= rank <= 2 (the largest rank of F here), got rank=3; leave rank out \
to keep every eigenpair
    """
    options = chosen_options(options, keywords)
    network = unwrap(network)
    check_images(images)
    check_finite_images(images)
    with at_rest(network, images.device, autocast=options.autocast):
        try:
            forward = run_forward(network, images, output_transform=options.output_transform)
        except Exception as error:
            memory = isinstance(error, torch.OutOfMemoryError)
            if memory or not lacks_batch_axis(network, images, options.output_transform):
                raise
            raise ValueError(
                "expected images of shape (batch, channel, *spatial) that the network takes, got "
                f"{tuple(images.shape)} ({type(error).__name__}: {error}); perhaps it is one image "
                "without the axis of the batch: the network takes images[None]"
            ) from error
        check_finite_logits(forward.logits)
        space = decompose(forward, options, network=network)
    check_finite_factor(space.factor, space.likelihood)
    check_finite_gradients(space.trace)
    return space


def decompose(
    forward: Forward,
    options: EigenspaceOptions | None = None,
    *,
    network: nn.Module | None = None,
) -> Eigenspace:
    """Eigenspace from a forward pass whose graph was kept, to be called inside ``at_rest``.

    Args:
        forward: the pass.
        options: choices about the eigenspace; its ``output_transform`` and ``autocast`` belong to
            the pass, and are not used here.
        network: that made the pass; it is then asked only once whether it treats the images of a
            batch one by one.

    Returns:
        The eigenspace. An image whose logits or gradients are not finite gets NaN throughout,
        and rank 0; the other images of its batch are unaffected.

    Raises:
        ValueError: the logits do not fit the family, an impossible choice, or images of a batch
            that influence each other.
    """
    options = EigenspaceOptions() if options is None else options
    logits = forward.logits.as_subclass(Tensor)
    with torch.no_grad():  # its graph shows whether the network ends in a sigmoid
        family = family_of(options.family, logits)
    changes = options.perturbation
    if changes is not None:
        changes.check(forward.images)
        forward = replace(forward, perturbation=changes)
    problem = problem_of(forward, family, options)
    independence = IndependenceCheck(forward, network)
    independence.of_gradients()
    space = options.solver.solve(problem, options.rank, options.energy)
    independence.of_logits()
    return space if changes is None else replace(space, perturbation=changes)
