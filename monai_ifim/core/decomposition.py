"""From a network and its images to the eigenspace of the Fisher information matrix.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362; SPIE Medical Imaging 2026,
doi 10.1117/12.3088115.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ifim.core.approximations import Columns, iterated, on_coordinates
from monai_ifim.core.at_rest import at_rest, unwrap
from monai_ifim.core.checks import (
    check_finite_gradients,
    check_finite_images,
    check_finite_logits,
    check_images,
    check_iterated_rank,
    check_method,
    check_rank,
    check_share,
)
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.gradients import (
    Forward,
    OutputTransform,
    run_forward,
    vector_jacobian_products,
)
from monai_ifim.core.krylov import LARGEST_BASIS, orthonormal, random_rows
from monai_ifim.core.likelihoods import Categorical, Likelihood, as_likelihood
from monai_ifim.core.roots import ContrastRoot
from monai_ifim.core.spectrum import inner_products, solve
from monai_ifim.core.voxelwise import VoxelwiseCategorical
from monai_ifim.core.waist import head_weight, leading_coordinates

# From so many directions on, iterating for a few eigenpairs beats computing all.
_MANY = 64
# At this residual the ten leading eigenvalues of a thousand classes were within 1e-3 of themselves,
# and their span within an angle of 1e-2 (benchmarks/large_k.py).
_RESIDUAL = 1e-3
# Pairs of a dense prediction when nobody says how many.
_DENSE_RANK = 10


def eigenspace(
    network: nn.Module,
    images: Tensor,
    *,
    likelihood: str | Likelihood = "categorical",
    rank: int | None = None,
    energy: float | None = None,
    method: str = "auto",
    tolerance: float | None = None,
    head: nn.Linear | None = None,
    output_transform: OutputTransform | None = None,
    vjp_chunk: int | str | None = "auto",
    offload: bool = False,
    autocast: bool = False,
) -> Eigenspace:
    """Leading eigenspace of the input-dependent Fisher information matrix F(x).

    Exact, with K - 1 backward passes to the input for K classes, unless K is large or the output
    is an image. The network is run in eval mode without autocast and is left as it was, also
    after an exception.

    Args:
        network: trained classifier, (B, C, *S) to logits (B, K); or a segmentation network, to
            logits (B, K, *S'), whose prediction is a softmax at each voxel.
        images: (B, C, *S), preprocessed as the network expects them.
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or an object.
        rank: keep at most this many eigenpairs; all of them by default.
        energy: keep, for each image, the fewest that reach this share of the trace of F.
        method: ``"exact"``: every direction that can matter. ``"truncated"``: without the
            directions to which the last linear layer and the probabilities give less than
            ``tolerance`` of the largest weight. ``"krylov"``: the leading ``rank`` pairs,
            iterated until their residual is below ``tolerance``. ``"auto"``: exact for a
            classifier; truncated where a tolerance is given; Krylov where the rank asked for is
            at most 66 and an eighth of 64 or more directions, or the prediction is dense (10
            pairs by default). The result's ``approximation`` says what was left out.
        tolerance: relative to the largest; 1e-6 by default where truncated, 1e-3 for Krylov.
        head: a linear layer whose weights order the directions, where the graph of the pass does
            not show the last one; no direction is left out on its word.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        vjp_chunk: how many backward passes to batch; ``"auto"`` is what was measured to be
            fastest, a few batches for small images on a CPU and else a loop; None is always a
            loop, the least memory. Halved when a GPU's memory does not suffice.
        offload: keep the gradients in the CPU's memory, also when the images are on a GPU.
        autocast: leave the caller's autocast on (it is switched off by default, because
            reduced precision puts the gradients several percent off).

    Returns:
        The eigenspace, on the device and in the dtype of the images.

    Raises:
        TypeError: network, images or output of the wrong type.
        ValueError: shapes, values or choices that make the answer meaningless; the message says
            what was expected, what came, and how to mend it.

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
    network = unwrap(network)
    family = as_likelihood(likelihood)
    check_images(images)
    check_finite_images(images)
    with at_rest(network, images.device, autocast=autocast):
        forward = run_forward(network, images, output_transform=output_transform)
        check_finite_logits(forward.logits)
        space = decompose(
            forward,
            family,
            rank=rank,
            energy=energy,
            method=method,
            tolerance=tolerance,
            head=head,
            vjp_chunk=vjp_chunk,
            offload=offload,
        )
    check_finite_gradients(space.trace)
    return space


def decompose(
    forward: Forward,
    likelihood: Likelihood,
    *,
    rank: int | None = None,
    energy: float | None = None,
    method: str = "auto",
    tolerance: float | None = None,
    head: nn.Linear | None = None,
    vjp_chunk: int | str | None = "auto",
    offload: bool = False,
) -> Eigenspace:
    """Eigenspace from a forward pass whose graph was kept, to be called inside ``at_rest``.

    Args:
        forward: the pass.
        likelihood: the predictive family.
        rank: see ``eigenspace``.
        energy: see ``eigenspace``.
        method: see ``eigenspace``.
        tolerance: see ``eigenspace``.
        head: see ``eigenspace``.
        vjp_chunk: see ``eigenspace``.
        offload: see ``eigenspace``.

    Returns:
        The eigenspace. An image whose logits or gradients are not finite gets NaN throughout,
        and rank 0; the other images of its batch are untouched.

    Raises:
        ValueError: the logits do not fit the family, or an impossible choice.
    """
    check_method(method, tolerance)
    logits = forward.logits.detach().as_subclass(Tensor)
    if logits.ndim > 2:
        _check_dense(method, energy, likelihood)
        return _dense(forward, logits, rank, tolerance, vjp_chunk, offload)
    likelihood.check(logits)
    contrasts, factor = likelihood.contrasts(logits), likelihood.factor(logits)
    check_rank(rank, energy, min(len(contrasts), forward.images[0].numel()))
    weight = head_weight(forward.logits, head)
    # Only a layer that the graph shows proves that nothing lies beyond it.
    width = len(contrasts)
    if weight is not None and head is None:
        width = min(width, weight.shape[1])
    if method == "auto":
        method = _choice(rank, tolerance, width, forward.function is not None)
    check_share(method, energy)
    if method == "exact" and width == len(contrasts):
        gradients = vector_jacobian_products(forward, contrasts, chunk=vjp_chunk, offload=offload)
        gram = inner_products(gradients, gradients, logits.device)
        values, trace, kept, mixing = solve(gram, factor, gradients.dtype, rank, energy)
        logits = logits.to(forward.images.dtype)
        return Eigenspace(logits, values, trace, kept, likelihood, gradients, factor, mixing)
    root = ContrastRoot.of(contrasts, factor)
    columns = Columns(forward, root, vjp_chunk, offload)
    coordinates, weights = leading_coordinates(root, weight)
    possible = _count(weights > 0) if head is None else len(contrasts)
    if method == "krylov":
        rank = check_iterated_rank(rank, energy)
        first = 2 * rank  # cheaper than one more round: the head's order is not quite that of F
        if possible > first:
            tolerance = _RESIDUAL if tolerance is None else tolerance
            start = _start(coordinates[:, :first], first)
            return iterated(columns, likelihood, start, rank=rank, tolerance=tolerance, probes=2)
        count = possible
    elif method == "truncated":
        tolerance = 1e-6 if tolerance is None else tolerance
        count = max(_count(weights > tolerance * weights[:, :1]), rank or 1)
    else:
        count = possible
    # Two probes: with the few directions of a small K, more would eat up what was saved.
    space = on_coordinates(
        columns,
        likelihood,
        coordinates[:, :count],
        rank=rank,
        energy=energy,
        probes=2 if count < possible else 0,
    )
    return space.padded(width if rank is None else min(rank, width))


def _choice(rank: int | None, tolerance: float | None, width: int, repeatable: bool) -> str:
    """The method for so many directions; a pass that cannot be repeated may know no J d."""
    few = rank is not None and rank <= width // 8 and 3 * rank <= LARGEST_BASIS
    if few and width >= _MANY and repeatable:
        return "krylov"
    return "exact" if tolerance is None else "truncated"


def _start(coordinates: Tensor, count: int) -> Tensor:
    """As many coordinates, random ones where the head gives fewer."""
    missing = count - coordinates.shape[1]
    if missing <= 0:
        return coordinates
    generator = torch.Generator(coordinates.device).manual_seed(0)
    chance = random_rows(coordinates, missing, generator)
    further = orthonormal(chance, coordinates, generator)
    return torch.cat([coordinates, further], dim=1)


def _count(chosen: Tensor) -> int:
    """How many leading columns hold all chosen ones of every image; at least one."""
    return max(1, int(chosen.sum(dim=1).max()))


def _dense(
    forward: Forward,
    logits: Tensor,
    rank: int | None,
    tolerance: float | None,
    vjp_chunk: int | str | None,
    offload: bool,
) -> Eigenspace:
    family = VoxelwiseCategorical()
    family.check(logits)
    columns = Columns(forward, family.root(logits), vjp_chunk, offload)
    largest = min(columns.root.size, forward.images[0].numel())
    rank = min(_DENSE_RANK, largest) if rank is None else rank
    check_rank(rank, None, largest)
    generator = torch.Generator(logits.device).manual_seed(0)
    nothing = logits.new_empty((len(logits), 0, columns.root.size), dtype=columns.root.dtype)
    start = orthonormal(random_rows(nothing, rank, generator), nothing, generator)
    tolerance = _RESIDUAL if tolerance is None else tolerance
    return iterated(columns, family, start, rank=rank, tolerance=tolerance, probes=8, scouts=False)


def _check_dense(method: str, energy: float | None, likelihood: object) -> None:
    """Refuse what a dense prediction cannot have.

    Args:
        method: one of ``METHODS``.
        energy: share of the trace.
        likelihood: the family that was asked for.

    Raises:
        ValueError: exact or truncated method, an energy, or another family than the categorical.
    """
    mend = "for one prediction per image pool the logits with output_transform"
    if not isinstance(likelihood, (Categorical, VoxelwiseCategorical)):
        raise ValueError(
            "expected likelihood='categorical' for logits of shape (batch, classes, *spatial), "
            f"got {likelihood!r}; two channels [0, z] say the same as one sigmoid, or {mend}"
        )
    if method not in ("auto", "krylov") or energy is not None:
        raise ValueError(
            "expected method 'auto' or 'krylov' and a rank for logits of shape (batch, classes, "
            f"*spatial), got method={method!r}, energy={energy}; {mend}"
        )
