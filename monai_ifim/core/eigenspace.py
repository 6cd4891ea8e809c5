"""The eigenspace of the input-dependent Fisher information matrix, as a value.

F(x) = E_{y ~ p(.|x)}[grad log p(y|x) grad log p(y|x)ᵀ] = S B Bᵀ Sᵀ with the N x M matrix S of
contrast gradients (``gradients``) and the M x M factor B (``families``). Its nonzero
eigenvalues are those of the M x M Gram matrix Bᵀ (SᵀS) B, so the N x N matrix F is never formed.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362; SPIE Medical Imaging 2026,
doi 10.1117/12.3088115.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_ifim.core.changes.perturbation import Perturbation
from monai_ifim.core.checks import check_rank
from monai_ifim.core.families import Family
from monai_ifim.core.flips import FlipDistance, flip_distance
from monai_ifim.core.spectrum import combine, inner_products


@dataclass(frozen=True, eq=False)
class Approximation:
    """How far an eigenspace is from the exact one, when directions were left out.

    With F_Q, what F is on the subspace that was searched: F = F_Q + E with E positive
    semidefinite, so every eigenvalue of F lies between that of F_Q and that plus tr(E).

    Attributes:
        residual: ‖F v - λ v‖ / λ₁ of each eigenpair, (B, R) in float64 (an upper bound of it);
            NaN where it was not computed.
        lost_trace: tr(E), (B,) in float64, estimated without bias from random probes.
        lost_trace_bound: exceeds tr(E) with a probability of 99 %, (B,).
        trace_error: standard error of the trace, (B,); NaN where two probes alone were made, as
            for a classifier: ``lost_trace_bound`` holds there.
        vector_jacobian_products: how many passes backwards were made.
        jacobian_vector_products: how many passes forwards (or twice backwards).
    """

    residual: Tensor
    lost_trace: Tensor
    lost_trace_bound: Tensor
    trace_error: Tensor
    vector_jacobian_products: int
    jacobian_vector_products: int


@dataclass(frozen=True, eq=False, repr=False)
class Eigenspace:
    """Leading eigenpairs of F(x) for each image of a batch.

    Attributes:
        logits: (B, K), or (B, K, *S) of a dense prediction, of the images' dtype.
        eigenvalues: (B, R) in float64, descending, 0 where not kept. Units: (input unit)⁻².
        trace: (B,) in float64, of the whole of F (not only of what is kept); with an
            ``approximation`` it is an estimate.
        rank: (B,) integers, how many eigenpairs are kept. Dropped are those beyond ``rank`` or
            ``energy``, and those that are rounding: below 1e-14 of the largest eigenvalue, or
            from gradients that are parallel to within 1e-5 (3e-4 in float32). What is kept is
            orthonormal to 1e-5.
        likelihood: the predictive family.
        gradients: S as (B, M, C, *S), the gradients of the contrasts; on the CPU if offloaded.
        factor: B as (B, M, M) in float64.
        mixing: T as (B, M, R) in float64; the eigenvectors are the columns of S T.
        approximation: what was left out, and how much that can matter; None when F is complete.
            ``sensitivity`` and ``quadratic_form`` are then those of the part that is there.
        contrast_weights: the family's contrasts as combinations of ``gradients``, (B, contrasts,
            M) in float64, NaN for those that these do not give; None where ``gradients`` are the
            contrasts themselves, and for dense predictions.
        perturbation: A of the changes x + A u that were considered, None for all changes. F is then
            AᵀFA: the eigenvectors are those of u, and ``changes`` what they do to the image.
    """

    logits: Tensor
    eigenvalues: Tensor
    trace: Tensor
    rank: Tensor
    likelihood: Family
    gradients: Tensor
    factor: Tensor
    mixing: Tensor
    approximation: Approximation | None = None
    contrast_weights: Tensor | None = None
    perturbation: Perturbation | None = None

    def __repr__(self) -> str:
        """One line: how many images, of which shape, and the ranges of rank and trace."""
        batch, *shape = self._image_shape()
        exact = "exact" if self.approximation is None else "approximate"
        return (
            f"Eigenspace({batch} image{'s' if batch > 1 else ''} of shape {tuple(shape)}, "
            f"rank {_range(self.rank)}, trace {_range(self.trace)}, {self.likelihood!r}, {exact})"
        )

    @property
    def eigenvectors(self) -> Tensor:
        """Eigenvectors as (B, R, C, *S): orthonormal where kept, 0 elsewhere.

        Formed when asked. The sign is such that along +v the contrast to which the prediction
        reacts most (for a softmax: the other class that gains or loses most) rises.
        """
        return self._combine(self.mixing)

    @property
    def changes(self) -> Tensor:
        """What a step along each eigenvector does to the image, (B, R, C, *S).

        The eigenvectors themselves, but for a perturbation A: A v.
        """
        if self.perturbation is None:
            return self.eigenvectors
        return self.perturbation.apply(self.eigenvectors.transpose(0, 1)).transpose(0, 1)

    def coefficients(self, images: Tensor) -> Tensor:
        """Inner products of the images with the kept eigenvectors.

        Args:
            images: (B, C, *S).

        Returns:
            (B, R) in float64, 0 where not kept.
        """
        products = self._products(images)
        return torch.einsum("bmr,bm->br", self.mixing, products)

    def split(self, images: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """High-sensitivity component x_h = V Vᵀ x and orthogonal component x - x_h.

        Args:
            images: (B, C, *S), in the network's input space.
            rank: use only the leading ``rank`` of the kept eigenvectors.

        Returns:
            Both components, each (B, C, *S), with the metadata that a tensor subclass such as
            MONAI's MetaTensor carries. They add up to the images and are orthogonal.

        Raises:
            ValueError: rank out of range, or images of another shape.
        """
        check_rank(rank, None, self.mixing.shape[2])
        high = self.synthesis(self.coefficients(images)[:, :rank]).to(images.dtype)
        orth = images.detach().as_subclass(Tensor) - high
        return like(high, images), like(orth, images)

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """The combination of the leading eigenvectors with these coefficients.

        Args:
            coefficients: (B, R) or fewer columns, for example from ``coefficients(images)``.

        Returns:
            (B, C, *S).
        """
        mixing = self.mixing[:, :, : coefficients.shape[1]]
        return self.combination(torch.einsum("bmr,br->bm", mixing, coefficients))

    def combination(self, weights: Tensor) -> Tensor:
        """The combination of the contrast gradients with these weights, S w.

        Args:
            weights: (B, M).

        Returns:
            (B, C, *S).
        """
        return self._combine(weights[:, :, None])[:, 0]

    def sensitivity(self) -> Tensor:
        """Diagonal of the whole of F: how much the prediction reacts to each pixel alone.

        Returns:
            (B, C, *S) in float64, because a confident prediction's values lie below the range
            of float32.
        """
        scale = self.factor.abs().amax(dim=(1, 2), keepdim=True)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        total = self.factor.new_zeros(self._image_shape())
        for column in (self.factor / scale).unbind(dim=2):
            total += self._combine(column[:, :, None])[:, 0].double().square()
        return total * scale.square().view(-1, *[1] * (total.ndim - 1))

    def shares(self, masks: Tensor) -> Tensor:
        """Shares of the trace that lie in regions: how much of the sensitivity is where.

        Args:
            masks: (B, Q, C, *S) booleans or weights, with axes of length 1 where images or channels
                share them; ``label_masks`` makes them from a label map. Shares of masks that cover
                every voxel once add up to 1.

        Returns:
            (B, Q) in float64; 0 where the trace is 0.

        Raises:
            ValueError: masks of another grid.
        """
        diagonal = self.sensitivity()
        batch, *shape = diagonal.shape
        sizes = [batch, masks.shape[1] if masks.ndim > 1 else 0, *shape]
        pairs = zip(masks.shape, sizes, strict=False)
        if masks.ndim != len(sizes) or any(m not in (1, n) for m, n in pairs):
            raise ValueError(
                f"expected masks (B, Q, C, *S) for images {tuple(diagonal.shape)}, axes of length "
                f"1 allowed, got {tuple(masks.shape)}; bring them to the grid of the preprocessed "
                "images, with the same transforms (nearest neighbours)"
            )
        total = diagonal.flatten(1).sum(dim=1)
        columns = [
            (mask.to(diagonal).square() * diagonal).flatten(1).sum(dim=1)
            for mask in masks.unbind(1)
        ]
        return torch.stack(columns, dim=1) / torch.where(total == 0, 1, total)[:, None]

    def channel_shares(self) -> Tensor:
        """Shares of the trace of each channel.

        Returns:
            (B, C) in float64; 0 where the trace is 0.
        """
        parts = self.sensitivity().flatten(2).sum(dim=2)
        total = parts.sum(dim=1, keepdim=True)
        return parts / torch.where(total == 0, 1, total)

    def quadratic_form(self, d: Tensor) -> Tensor:
        """Value of dᵀ F d, twice the leading term of KL(p(x) || p(x + d)).

        Args:
            d: change of the images, (B, C, *S).

        Returns:
            (B,) in float64.

        Raises:
            ValueError: d of another shape than the images.
        """
        return self.responses(d).square().sum(dim=1)

    def responses(self, d: Tensor) -> Tensor:
        """Products with the root of F: r = Bᵀ Sᵀ d, so that dᵀ F d' = r · r'.

        Args:
            d: change of the images, (B, C, *S).

        Returns:
            (B, M) in float64.

        Raises:
            ValueError: d of another shape than the images.
        """
        return torch.einsum("bmk,bm->bk", self.factor, self._products(d))

    def flip_distance(self) -> FlipDistance:
        """How far each image is from another answer, to first order, without a further pass.

        The smallest of (z_w - z_c) / ‖∇z_w - ∇z_c‖ over the classes c beside the most probable
        one w; of one sigmoid |z| / ‖∇z‖, of several labels that of the nearest label. Exact for
        logits that are affine in the image; for others only a search for the smallest change
        verifies it.

        Returns:
            Distance, answer and unit direction; ``compared`` says which answers were compared
            where a method left directions out.

        Raises:
            ValueError: a dense prediction or a regression, which has no answer to change.
        """
        return flip_distance(self)

    def padded(self, columns: int) -> Eigenspace:
        """With so many columns for eigenpairs, those that are not there as zeros.

        Args:
            columns: at least as many as there are.

        Returns:
            The same eigenspace; the number of columns no longer depends on the images.
        """
        missing = (0, columns - self.eigenvalues.shape[1])
        approximation = self.approximation
        if approximation is not None:
            residual = pad(approximation.residual, missing)
            approximation = replace(approximation, residual=residual)
        return replace(
            self,
            eigenvalues=pad(self.eigenvalues, missing),
            mixing=pad(self.mixing, missing),
            approximation=approximation,
        )

    def _image_shape(self) -> tuple[int, ...]:
        return (self.gradients.shape[0], *self.gradients.shape[2:])

    def _products(self, images: Tensor) -> Tensor:
        """Sᵀ x as (B, M) in float64."""
        if tuple(images.shape) != self._image_shape():
            raise ValueError(
                f"expected images of shape {self._image_shape()}, got {tuple(images.shape)}; pass "
                "the batch that the eigenspace was computed from, or changes of it"
            )
        values = images.detach().as_subclass(Tensor)
        return inner_products(self.gradients, values[:, None], self.factor.device)[:, :, 0]

    def _combine(self, weights: Tensor) -> Tensor:
        """S W for weights (B, M, R), as (B, R, C, *S)."""
        gradients = self.gradients
        if (weights.abs() > torch.finfo(gradients.dtype).max / 2).any():  # NaN compares false
            # Weights go with 1 / |S|: of the tiniest gradients they exceed the dtype's range.
            size = gradients.flatten(1).abs().amax(dim=1)
            size = torch.where(size > 0, size, torch.ones_like(size))
            gradients = gradients / size.view(-1, *[1] * (gradients.ndim - 1))
            weights = weights * size.to(weights)[:, None, None]
        return combine(gradients, weights)


def _range(values: Tensor) -> str:
    """Smallest and largest of (B,) values, one number where they are the same."""
    least, most = (f"{value:.3g}" for value in torch.aminmax(values))
    return least if least == most else f"{least} to {most}"


def like(values: Tensor, images: Tensor) -> Tensor:
    """The values as the images' own kind of tensor, which gives its metadata to its results.

    Args:
        values: plain, of the images' shape.
        images: perhaps of a subclass.

    Returns:
        The values, or a tensor of that subclass.
    """
    if type(images) is Tensor:
        return values
    return torch.empty_like(images).copy_(values)
