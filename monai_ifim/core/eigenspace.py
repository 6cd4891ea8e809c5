"""The eigenspace of the input-dependent Fisher information matrix.

F(x) = E_{y ~ p(.|x)}[grad log p(y|x) grad log p(y|x)ᵀ] = S B Bᵀ Sᵀ with the N x M matrix S of
contrast gradients (``gradients``) and the M x M factor B (``likelihoods``). Its nonzero
eigenvalues are those of the M x M Gram matrix Bᵀ (SᵀS) B, so the N x N matrix F is never formed.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362; SPIE Medical Imaging 2026,
doi 10.1117/12.3088115.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ifim.core.at_rest import at_rest, unwrap
from monai_ifim.core.checks import (
    check_finite_gradients,
    check_finite_images,
    check_finite_logits,
    check_images,
    check_rank,
)
from monai_ifim.core.gradients import (
    Forward,
    OutputTransform,
    run_forward,
    vector_jacobian_products,
)
from monai_ifim.core.likelihoods import Likelihood, as_likelihood

# Values of S per block that is taken to float64 at a time: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Eigenspace:
    """Leading eigenpairs of F(x) for each image of a batch.

    Attributes:
        logits: (B, K), of the images' dtype.
        eigenvalues: (B, R) in float64, descending, 0 where not kept. Units: (input unit)⁻².
        trace: (B,) in float64, of the whole of F (not only of what is kept).
        rank: (B,) integers, how many eigenpairs are kept. Dropped are those beyond ``rank`` or
            ``energy``, and those that are rounding: below 1e-14 of the largest eigenvalue, or
            (in float32) from gradients that are parallel to within 3e-4.
        likelihood: the predictive family.
        gradients: S as (B, M, C, *S), the gradients of the contrasts.
        factor: B as (B, M, M) in float64.
        mixing: T as (B, M, R) in float64; the eigenvectors are the columns of S T.
    """

    logits: Tensor
    eigenvalues: Tensor
    trace: Tensor
    rank: Tensor
    likelihood: Likelihood
    gradients: Tensor
    factor: Tensor
    mixing: Tensor

    @property
    def eigenvectors(self) -> Tensor:
        """Eigenvectors as (B, R, C, *S): orthonormal where kept, 0 elsewhere.

        Formed when asked. The sign is such that along +v the contrast to which the prediction
        reacts most (for a softmax: the other class that gains or loses most) rises.
        """
        return self._combine(self.mixing)

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
            Both components, each (B, C, *S). They add up to the images and are orthogonal.

        Raises:
            ValueError: rank out of range, or images of another shape.
        """
        check_rank(rank, None, self.mixing.shape[2])
        high = self.synthesis(self.coefficients(images)[:, :rank]).to(images.dtype)
        return high, images.detach().as_subclass(Tensor) - high

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """The combination of the leading eigenvectors with these coefficients.

        Args:
            coefficients: (B, R) or fewer columns, for example from ``coefficients(images)``.

        Returns:
            (B, C, *S).
        """
        mixing = self.mixing[:, :, : coefficients.shape[1]]
        weights = torch.einsum("bmr,br->bm", mixing, coefficients)
        return self._combine(weights[:, :, None])[:, 0]

    def sensitivity(self) -> Tensor:
        """Diagonal of the whole of F: how much the prediction reacts to each pixel alone.

        Returns:
            (B, C, *S) in float64, because a confident prediction's values lie below the range
            of float32.
        """
        scale = self.factor.abs().amax(dim=(1, 2), keepdim=True)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        total = self.gradients.new_zeros(self._image_shape(), dtype=torch.float64)
        for column in (self.factor / scale).unbind(dim=2):
            total += self._combine(column[:, :, None])[:, 0].double().square()
        return total * scale.square().view(-1, *[1] * (total.ndim - 1))

    def quadratic_form(self, d: Tensor) -> Tensor:
        """Value of dᵀ F d, twice the leading term of KL(p(x) || p(x + d)).

        Args:
            d: change of the images, (B, C, *S).

        Returns:
            (B,) in float64.

        Raises:
            ValueError: d of another shape than the images.
        """
        return torch.einsum("bmk,bm->bk", self.factor, self._products(d)).square().sum(dim=1)

    def _image_shape(self) -> tuple[int, ...]:
        return (self.gradients.shape[0], *self.gradients.shape[2:])

    def _products(self, images: Tensor) -> Tensor:
        """Sᵀ x as (B, M) in float64."""
        if tuple(images.shape) != self._image_shape():
            raise ValueError(
                f"expected images of shape {self._image_shape()}, got {tuple(images.shape)}; pass "
                "the batch that the eigenspace was computed from, or changes of it"
            )
        values = images.detach().as_subclass(Tensor).to(self.gradients.device)
        return _inner_products(self.gradients, values[:, None])[:, :, 0]

    def _combine(self, weights: Tensor) -> Tensor:
        """S W for weights (B, M, R), as (B, R, C, *S)."""
        dtype, gradients = self.gradients.dtype, self.gradients.flatten(2)
        if (weights.abs() > torch.finfo(dtype).max / 2).any():  # NaN, too, compares false
            # Weights go with 1 / |S|: of the tiniest gradients they exceed the dtype's range.
            size = gradients.abs().amax(dim=(1, 2), keepdim=True)
            size = torch.where(size > 0, size, torch.ones_like(size))
            gradients, weights = gradients / size, weights * size.double()
        with torch.autocast(gradients.device.type, enabled=False):
            flat = weights.to(dtype).transpose(1, 2) @ gradients
        return flat.view(*flat.shape[:2], *self.gradients.shape[2:])


def eigenspace(
    network: nn.Module,
    images: Tensor,
    *,
    likelihood: str | Likelihood = "categorical",
    rank: int | None = None,
    energy: float | None = None,
    output_transform: OutputTransform | None = None,
    vjp_chunk: int | None = None,
    autocast: bool = False,
) -> Eigenspace:
    """Leading eigenspace of the input-dependent Fisher information matrix F(x).

    Exact, with K - 1 backward passes to the input for K classes. The network is run in eval
    mode without autocast and is left as it was, also after an exception.

    Args:
        network: trained classifier, (B, C, *S) to logits (B, K).
        images: (B, C, *S), preprocessed as the network expects them.
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or an object.
        rank: keep at most this many eigenpairs; all of them by default.
        energy: keep, for each image, the fewest that reach this share of the trace of F.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        vjp_chunk: how many backward passes to batch; None is a loop, the least memory.
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
        space = decompose(forward, family, rank=rank, energy=energy, vjp_chunk=vjp_chunk)
    check_finite_gradients(space.trace)
    return space


def decompose(
    forward: Forward,
    likelihood: Likelihood,
    *,
    rank: int | None = None,
    energy: float | None = None,
    vjp_chunk: int | None = None,
) -> Eigenspace:
    """Eigenspace from a forward pass whose graph was kept, to be called inside ``at_rest``.

    Args:
        forward: the pass.
        likelihood: the predictive family.
        rank: see ``eigenspace``.
        energy: see ``eigenspace``.
        vjp_chunk: see ``eigenspace``.

    Returns:
        The eigenspace. An image whose logits or gradients are not finite gets NaN throughout,
        and rank 0; the other images of its batch are untouched.

    Raises:
        ValueError: the logits do not fit the family, or an impossible rank or energy.
    """
    logits = forward.logits.detach().as_subclass(Tensor)
    likelihood.check(logits)
    contrasts = likelihood.contrasts(logits)
    check_rank(rank, energy, min(len(contrasts), forward.images[0].numel()))
    gradients = vector_jacobian_products(forward, contrasts, chunk=vjp_chunk)
    factor = likelihood.factor(logits)
    gram = _inner_products(gradients, gradients)
    values, trace, kept, mixing = _solve(gram, factor, gradients.dtype, rank, energy)
    return Eigenspace(
        logits=logits.to(forward.images.dtype),
        eigenvalues=values,
        trace=trace,
        rank=kept,
        likelihood=likelihood,
        gradients=gradients,
        factor=factor,
        mixing=mixing,
    )


def _inner_products(left: Tensor, right: Tensor) -> Tensor:
    """(B, M, ...) and (B, L, ...) to (B, M, L), accumulated in float64 block by block.

    A Gram matrix in float32 loses the small eigenvalues: for singular values 1e-3 apart they
    were 20 % off, against 1e-8 in float64.
    """
    same = left is right
    left, right = left.flatten(2), right.flatten(2)
    block = max(1, _BLOCK // (left.shape[0] * max(left.shape[1], right.shape[1])))
    total = left.new_zeros(left.shape[0], left.shape[1], right.shape[1], dtype=torch.float64)
    for start in range(0, left.shape[2], block):
        stop = start + block
        a = left[:, :, start:stop].double()
        b = a if same else right[:, :, start:stop].double()
        total += a @ b.transpose(1, 2)
    return total


def _solve(
    gram: Tensor, factor: Tensor, dtype: torch.dtype, rank: int | None, energy: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues (B, R), trace (B,), kept (B,) and T (B, M, R) from SᵀS and B, in float64."""
    bad = ~torch.isfinite(gram).flatten(1).all(dim=1) | ~torch.isfinite(factor).flatten(1).all(1)
    gram = torch.where(bad[:, None, None], 0, gram)
    factor = torch.where(bad[:, None, None], 0, factor)

    # Scaled, because the smallest probabilities square to subnormal numbers.
    size = factor.abs().amax(dim=(1, 2), keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    factor, unit = factor / size, size[:, 0].square()
    small = factor.transpose(1, 2) @ gram @ factor
    values, vectors = torch.linalg.eigh((small + small.transpose(1, 2)) / 2)
    # Rounding leaves eigenvalues that are zero at -1e-16 of the largest; they are cut off below.
    values, vectors = values.flip(1), vectors.flip(2)
    trace = small.diagonal(dim1=1, dim2=2).sum(dim=1)

    keep = values > _noise(gram, factor @ vectors, values, dtype)
    if energy is not None:
        before = values.cumsum(dim=1) - values
        keep &= before < energy * trace[:, None]
    if rank is not None:
        keep, values, vectors = keep[:, :rank], values[:, :rank], vectors[:, :, :rank]
    values = torch.where(keep, values, 0)
    scale = torch.where(keep, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0)
    mixing = (factor @ vectors) * scale[:, None, :]
    mixing = mixing * _signs(gram, factor, mixing)[:, None, :]

    values, trace = values * unit, trace * unit[:, 0]
    keep = keep & (values > 0)
    mixing = torch.where(keep[:, None, :], mixing, 0)
    nan = torch.nan
    return (
        torch.where(bad[:, None], nan, values),
        torch.where(bad, nan, trace),
        torch.where(bad, 0, keep.sum(dim=1)),
        torch.where(bad[:, None, None], nan, mixing),
    )


def _noise(gram: Tensor, directions: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """What an eigenvalue must exceed (B, R) to be signal: both limits are relative to S and B.

    An eigenvector S t is lost when its length comes from cancellation among the columns of S,
    whose rounding is eps: below sqrt(eps) of the lengths that are summed, its direction is
    rounding. A small probability alone does not cancel anything, so it is no reason to drop it.
    And eigenvalues below 1e-14 of the largest are beyond a float64 eigensolver.
    """
    lengths = gram.diagonal(dim1=1, dim2=2)
    summed = torch.einsum("bm,bmr->br", lengths, directions.square())
    solver = 1e-14 * values[:, :1].clamp_min(0)
    return torch.maximum(torch.finfo(dtype).eps * summed, solver)


def _signs(gram: Tensor, factor: Tensor, mixing: Tensor) -> Tensor:
    """+1 or -1 (B, R) that makes the strongest contrast rise along each eigenvector."""
    slopes = gram @ mixing  # derivative of each contrast along each eigenvector
    weighted = slopes * factor.norm(dim=2, keepdim=True)
    strongest = weighted.abs().argmax(dim=1, keepdim=True)
    return torch.where(slopes.gather(1, strongest)[:, 0] < 0, -1.0, 1.0).to(mixing.dtype)
