"""Eigenspaces of the whole of F, and of F on a subspace where there is too much to compute.

A subspace has orthonormal coordinates Q of the root A (``families/roots``). With the columns
Y = G Q of G = Jᵀ A, F_Q = Y Yᵀ is F without the part that lies outside of Q, and the trace of that
part is measured with random probes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Approximation, Eigenspace
from monai_ifim.core.gradients.jvp import JacobianVectorProducts
from monai_ifim.core.solvers.iteration import QUANTILES, iterate
from monai_ifim.core.solvers.problem import ContrastProblem, Problem
from monai_ifim.core.solvers.rows import outside, random_rows
from monai_ifim.core.spectrum import combine, inner_products, solve

_PROBES_OF_AN_ERROR = 8


def complete(problem: ContrastProblem, rank: int | None, energy: float | None) -> Eigenspace:
    """Eigenspace of the whole of F, from all its contrasts.

    Args:
        problem: a classifier's.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace.

    Returns:
        The eigenspace.
    """
    return _eigenspace(problem, problem.gradients(), problem.factor, rank, energy)


def on_coordinates(
    problem: ContrastProblem, count: int, rank: int | None, energy: float | None
) -> Eigenspace:
    """Eigenspace of F on the leading coordinates of a classifier.

    Args:
        problem: a classifier's.
        count: how many coordinates; no more are used than can matter.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace of F_Q.

    Returns:
        The eigenspace, with an ``approximation`` when coordinates that can matter are left out.
    """
    coordinates = problem.start(min(count, problem.possible))
    return on_subspace(problem, coordinates, rank, energy, complete=count >= problem.possible)


def on_subspace(
    problem: Problem,
    coordinates: Tensor,
    rank: int | None,
    energy: float | None,
    *,
    complete: bool = False,
) -> Eigenspace:
    """Eigenspace of F on any coordinates, with what lies outside of them measured.

    Args:
        problem: to be solved.
        coordinates: of the root, (B, M, D), orthonormal rows; one backward pass each.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace of F_Q.
        complete: nothing can lie outside, so that nothing is measured.

    Returns:
        The eigenspace, with an ``approximation`` unless it is complete.
    """
    space = _on_subspace(problem, coordinates, problem.columns(coordinates), rank, energy)
    if complete:
        return space
    residual = torch.full_like(space.eigenvalues, torch.nan)
    return _with_rest(problem, space, coordinates, space.trace, residual, 0)


def iterated(problem: Problem, start: Tensor, *, rank: int, tolerance: float) -> Eigenspace:
    """Leading eigenpairs by block Krylov iteration.

    Args:
        problem: to be solved.
        start: coordinates to begin with, (B, M, D), orthonormal rows.
        rank: how many pairs.
        tolerance: their residual.

    Returns:
        The eigenspace; ``gradients`` holds only the leading columns.
    """
    columns = problem.columns
    ritz = iterate(
        columns,
        JacobianVectorProducts(columns.forward),
        columns.root,
        start,
        rank=rank,
        tolerance=tolerance,
        random_start=problem.random_start,
    )
    gradients = combine(ritz.gradients, ritz.leading)
    if columns.offload:
        gradients = gradients.cpu()
    coordinates = ritz.leading.transpose(1, 2) @ ritz.basis.double()
    space = _on_subspace(problem, coordinates, gradients, rank, None)
    trace = ritz.subspace_trace * columns.root.scale.square()
    return _with_rest(
        problem, space, ritz.basis, trace, ritz.residual, ritz.jacobian_vector_products
    )


def _on_subspace(
    problem: Problem,
    coordinates: Tensor,
    gradients: Tensor,
    rank: int | None,
    energy: float | None,
) -> Eigenspace:
    """Of Y Yᵀ for columns Y (B, M, C, *S) of coordinates (B, M, D), scaled as the root is."""
    scale = problem.columns.root.scale
    factor = torch.diag_embed(scale[:, None].expand(-1, gradients.shape[1]))
    space = _eigenspace(problem, gradients, factor, rank, energy)
    if problem.contrasts is None:
        return space
    return replace(space, contrast_weights=problem.contrasts.contrast_weights(coordinates))


def _eigenspace(
    problem: Problem,
    gradients: Tensor,
    factor: Tensor,
    rank: int | None,
    energy: float | None,
) -> Eigenspace:
    images = problem.forward.images
    logits = problem.forward.logits.detach().as_subclass(Tensor)
    gram = inner_products(gradients, gradients, images.device)
    values, trace, kept, mixing = solve(gram, factor, gradients.dtype, rank, energy)
    logits = logits.to(images.dtype)
    return Eigenspace(logits, values, trace, kept, problem.family, gradients, factor, mixing)


def _with_rest(
    problem: Problem,
    space: Eigenspace,
    basis: Tensor,
    subspace_trace: Tensor,
    residual: Tensor,
    products: int,
) -> Eigenspace:
    """The same with the trace of the whole, and what is known of the rest E = F - F_Q."""
    columns, probes = problem.columns, problem.probes
    rest, error = torch.zeros_like(subspace_trace), torch.zeros_like(subspace_trace)
    bound = rest
    if basis.shape[1] < basis.shape[2]:
        generator = torch.Generator(basis.device).manual_seed(1)
        images = columns(outside(random_rows(basis, probes, generator), basis)).flatten(2)
        lengths = torch.linalg.vector_norm(images, dim=2, dtype=torch.float64).square()
        lengths = lengths.to(subspace_trace.device) * columns.root.scale.square()[:, None]
        rest = lengths.mean(dim=1)
        # From fewer, a standard error of so skewed lengths is itself off by any factor.
        told = probes >= _PROBES_OF_AN_ERROR
        error = lengths.std(dim=1) / probes**0.5 if told else torch.full_like(rest, torch.nan)
        bound = rest * probes / QUANTILES[probes]
    approximation = Approximation(
        residual=residual,
        lost_trace=rest,
        lost_trace_bound=bound,
        trace_error=error,
        vector_jacobian_products=columns.passes,
        jacobian_vector_products=products,
    )
    return replace(space, trace=subspace_trace + rest, approximation=approximation)
