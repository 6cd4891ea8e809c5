"""What a method has to solve: one forward pass, with the root of its Fisher matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_rank
from monai_ifim.core.families.family import DenseFamily, Family, Likelihood
from monai_ifim.core.families.roots import ContrastRoot, Root
from monai_ifim.core.gradients.forward import Forward
from monai_ifim.core.gradients.vjp import vector_jacobian_products
from monai_ifim.core.solvers.last_layer import head_weight, leading_coordinates
from monai_ifim.core.solvers.rows import orthonormal, random_rows

if TYPE_CHECKING:
    from monai_ifim.core.options import EigenspaceOptions

# A contrast that the columns give up to this share of its length is taken for theirs; columns that
# are this dependent (of their Gram matrix) count as fewer.
_MET, _DEPENDENT = 1e-2, 1e-13


@dataclass
class Columns:
    """Columns of G = Jᵀ A for one forward pass, with the count of what they cost.

    Attributes:
        forward: the pass.
        root: A.
        chunk: how many backward passes to batch, as in ``vector_jacobian_products``.
        offload: whether the result is kept in the CPU's memory.
        passes: backward passes so far.
    """

    forward: Forward
    root: Root
    chunk: int | str | None = None
    offload: bool = False
    passes: int = field(default=0, init=False)

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Jᵀ A r for coordinates (B, M, D), as (B, M, C, *S)."""
        self.passes += coordinates.shape[1]
        return vector_jacobian_products(
            self.forward,
            self.root.cotangents(coordinates),
            chunk=self.chunk,
            offload=self.offload,
        )


class Problem(Protocol):
    """F(x) of a batch of images, as far as it is known before any backward pass.

    Attributes:
        forward: the pass.
        probes: how many random probes measure the trace that was left out.
        random_start: whether ``start`` is random, so that no further random probes are needed to
            find what it cannot see.
        largest: the largest rank that F can have.
        default_rank: eigenpairs to look for when nobody says how many; None for no default.
    """

    forward: Forward
    probes: int
    random_start: bool
    largest: int
    default_rank: int | None

    @property
    def family(self) -> Family:
        """Of the logits."""

    @property
    def columns(self) -> Columns:
        """Of G, F = G Gᵀ."""

    @property
    def contrasts(self) -> ContrastProblem | None:
        """The problem itself where its contrasts can be formed; None for a dense prediction."""

    @property
    def possible(self) -> int:
        """How many directions can matter to any image of the batch."""

    def start(self, count: int) -> Tensor:
        """Orthonormal coordinates to begin an iteration with, (B, count, D)."""


class ContrastProblem:
    """A classifier's: its contrasts are few enough to be formed.

    Args:
        forward: the pass.
        family: of its logits (B, K).
        options: of the eigenspace.

    Attributes:
        cotangents: of the contrasts, (M, B, K).
        factor: B, (B, M, M) in float64.
        width: columns of the result: M, or fewer where the graph shows a narrower last layer.
    """

    probes = 2  # with the few directions of a small K, more would eat up what was saved
    random_start = False
    default_rank: int | None = None

    def __init__(self, forward: Forward, family: Likelihood, options: EigenspaceOptions) -> None:
        self.forward, self.family = forward, family
        logits = forward.logits.detach().as_subclass(Tensor)
        self.cotangents, self.factor = family.contrasts(logits), family.factor(logits)
        _check_shapes(family, logits, self.cotangents, self.factor)
        self.largest = min(len(self.cotangents), forward.images[0].numel())
        check_rank(options.rank, options.energy, self.largest)
        self._named: nn.Linear | None = options.head
        self._weight = head_weight(forward.logits, options.head)
        self.width = len(self.cotangents)
        # Only a layer that the graph shows proves that nothing lies beyond it.
        if self._weight is not None and self._named is None:
            self.width = min(self.width, self._weight.shape[1])
        self._chunk, self._offload = options.vjp_chunk, options.offload

    @property
    def contrasts(self) -> ContrastProblem:
        """This problem."""
        return self

    def gradients(self) -> Tensor:
        """S, (B, M, C, *S): the gradients of all contrasts."""
        return vector_jacobian_products(
            self.forward, self.cotangents, chunk=self._chunk, offload=self._offload
        )

    @cached_property
    def root(self) -> ContrastRoot:
        """A with F = Jᵀ A Aᵀ J."""
        return ContrastRoot.of(self.cotangents, self.factor)

    @cached_property
    def columns(self) -> Columns:
        """Of G = Jᵀ A."""
        return Columns(self.forward, self.root, self._chunk, self._offload)

    @cached_property
    def _leading(self) -> tuple[Tensor, Tensor]:
        return leading_coordinates(self.root, self._weight)

    @property
    def coordinates(self) -> Tensor:
        """Of the root in falling order of what they can do to the logits, (B, Q, D)."""
        return self._leading[0]

    @property
    def weights(self) -> Tensor:
        """How much they can do, (B, Q), falling."""
        return self._leading[1]

    @property
    def possible(self) -> int:
        """How many directions can matter to any image of the batch."""
        # A head that somebody named proves nothing about what lies beyond it.
        return self.count(0) if self._named is None else len(self.cotangents)

    def count(self, share: float) -> int:
        """How many leading directions weigh more than a share of the first, at least one."""
        heavy = self.weights > share * self.weights[:, :1] if share else self.weights > 0
        return max(1, int(heavy.sum(dim=1).max()))

    def contrast_weights(self, coordinates: Tensor) -> Tensor:
        """The contrasts as combinations of the columns of some coordinates.

        Compared are the changes of the last layer's features that both stand for: what is equal
        there has equal gradients.

        Args:
            coordinates: (B, Q, D).

        Returns:
            (B, contrasts, Q) in float64; NaN for a contrast that is not met within 1 %.
        """
        cotangents = self.root.matrix @ coordinates.double().transpose(1, 2)
        features = torch.eye(cotangents.shape[1]).to(cotangents)
        if self._weight is not None:
            features = self._weight.double().T
        columns = torch.nan_to_num(features @ cotangents)
        contrasts = features @ self.cotangents.permute(1, 2, 0).double()
        lengths = columns.norm(dim=1, keepdim=True)
        lengths = torch.where(lengths > 0, lengths, 1)
        columns = columns / lengths
        gram = columns.transpose(1, 2) @ columns
        inverse = torch.linalg.pinv(gram, rtol=_DEPENDENT, hermitian=True)
        weights = inverse @ columns.transpose(1, 2) @ contrasts
        missed = (contrasts - columns @ weights).norm(dim=1)
        met = missed <= _MET * contrasts.norm(dim=1)
        weights = (weights / lengths.transpose(1, 2)).transpose(1, 2)
        return torch.where(met[:, :, None], weights, torch.nan)

    def start(self, count: int) -> Tensor:
        """Leading coordinates (B, count, D), random ones where the last layer gives fewer."""
        leading = self.coordinates[:, :count]
        missing = count - leading.shape[1]
        if missing <= 0:
            return leading
        generator = torch.Generator(leading.device).manual_seed(0)
        chance = random_rows(leading, missing, generator)
        return torch.cat([leading, orthonormal(chance, leading, generator)], dim=1)


def _check_shapes(family: Family, logits: Tensor, contrasts: Tensor, factor: Tensor) -> None:
    batch, outputs = logits.shape
    count = len(contrasts)
    fits = contrasts.shape == (count, batch, outputs) and factor.shape == (batch, count, count)
    if not fits or factor.dtype != torch.float64:
        raise ValueError(
            f"expected contrasts (M, {batch}, {outputs}) and a factor ({batch}, M, M) in float64 "
            f"from {family!r}, got {tuple(contrasts.shape)} and {tuple(factor.shape)} in "
            f"{factor.dtype}; see monai_ifim.core.families.family"
        )


class DenseProblem:
    """A segmentation network's: only products with its contrasts are formed.

    Args:
        forward: the pass.
        family: of its logits (B, K, *S).
        options: of the eigenspace.
    """

    probes = 8
    random_start = True
    contrasts: ContrastProblem | None = None

    def __init__(self, forward: Forward, family: DenseFamily, options: EigenspaceOptions) -> None:
        self.forward, self.family = forward, family
        logits = forward.logits.detach().as_subclass(Tensor)
        root = family.root(logits)
        self.columns = Columns(forward, root, options.vjp_chunk, options.offload)
        self.possible = min(root.size, forward.images[0].numel())
        self.largest = self.possible
        self.default_rank: int | None = min(10, self.possible)
        check_rank(options.rank, options.energy, self.possible)

    def start(self, count: int) -> Tensor:
        """Random coordinates (B, count, D)."""
        logits, root = self.forward.logits, self.columns.root
        generator = torch.Generator(logits.device).manual_seed(0)
        nothing = torch.empty((len(logits), 0, root.size), dtype=root.dtype, device=logits.device)
        return orthonormal(random_rows(nothing, count, generator), nothing, generator)


def problem_of(forward: Forward, family: Family, options: EigenspaceOptions) -> Problem:
    """The problem that a forward pass poses.

    Args:
        forward: the pass.
        family: of its logits; a dense one has a ``root``.
        options: of the eigenspace.

    Returns:
        The problem.

    Raises:
        ValueError: an impossible rank.
    """
    if hasattr(family, "root"):
        return DenseProblem(forward, cast(DenseFamily, family), options)
    return ContrastProblem(forward, cast(Likelihood, family), options)


def contrasts_of(problem: Problem, method: object, energy: float | None) -> ContrastProblem:
    """The problem with its contrasts.

    Args:
        problem: any.
        method: that asks, for the message.
        energy: share of the trace, for the message.

    Returns:
        The same problem.

    Raises:
        ValueError: its contrasts cannot be formed.
    """
    if problem.contrasts is None:
        raise ValueError(
            "expected method 'auto' or 'krylov' and a rank for logits of shape (batch, classes, "
            f"*spatial), got method={method!r}, energy={energy}; for one prediction per image pool "
            "the logits with output_transform"
        )
    return problem.contrasts
