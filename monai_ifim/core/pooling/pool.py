"""What has been pooled so far of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families.family import Likelihood
from monai_ifim.core.pooling.pooled import PooledEigenspace, Totals
from monai_ifim.core.pooling.sketch import Rows, Sketch, pooled, root_columns
from monai_ifim.core.spectrum import combine


class Pool:
    """What has been pooled so far.

    Args:
        rank: eigenpairs to keep.
        size: rows of each sketch.
        weights: as in ``pooled_eigenspace``.
        control: whether a network of random weights is pooled beside it.
    """

    def __init__(
        self, rank: int, size: int, weights: str | Sequence[float] | Tensor, control: bool
    ) -> None:
        self._rank, self._size, self._weights = rank, size, weights
        self._halves = (Sketch(size), Sketch(size))
        self._totals, self._likelihood = Totals(), ""
        self._jacobian: Tensor | None = None
        self._has_jacobian = True
        self._control = Pool(rank, size, weights, control=False) if control else None

    @property
    def count(self) -> int:
        """Images that were pooled."""
        return self._totals.count

    @property
    def left_out(self) -> int:
        """Images without a direction."""
        return self._totals.left_out

    def add(
        self, space: Eigenspace, chosen: Tensor, given: Tensor | None, other: Eigenspace | None
    ) -> None:
        """Add some images of a batch.

        Args:
            space: of the batch.
            chosen: which of its images, (B,) booleans.
            given: their weights (B,), None where a rule makes them.
            other: of the same batch with random weights.
        """
        if self._control is not None and other is not None:
            self._control.add(other, chosen, given, None)
        unit = isinstance(self._weights, str) and self._weights == "unit_trace"
        chosen = chosen.to(space.trace.device)
        usable = chosen & torch.isfinite(space.trace)
        usable &= (space.trace > 0) if unit else (space.trace >= 0)
        weights = torch.ones_like(space.trace) if given is None else given.to(space.trace)
        norms = weights
        if unit:
            weights = 1 / torch.where(usable, space.trace, 1)
        usable &= weights > 0
        traces = (weights * space.trace)[usable]
        self._totals += Totals(
            count=int(usable.sum()),
            weight=float(norms[usable].sum()),
            first=float(traces.sum()),
            second=float(traces.square().sum()),
            left_out=int((chosen & ~usable).sum()),
        )
        rows = root_columns(space, torch.where(usable, weights, 1))
        before = self._totals.count - int(usable.sum())
        order = before + usable.cumsum(0) - 1
        for parity, half in enumerate(self._halves):
            mine = usable & (order % 2 == parity)
            if bool(mine.any()):
                parts = (value[mine.to(value.device)] for value in vars(rows).values())
                half.add(pooled(Rows(*parts)))
        self._likelihood = repr(space.likelihood)
        self._add_jacobian(space, usable)

    def _add_jacobian(self, space: Eigenspace, usable: Tensor) -> None:
        """The sum over images of the gradients of the logits, inside the span of the contrasts."""
        known = hasattr(space.likelihood, "contrasts") and space.contrast_weights is None
        self._has_jacobian &= known and space.logits.shape[1] <= self._size
        if not self._has_jacobian or not bool(usable.any()):
            return
        contrasts = cast(Likelihood, space.likelihood).contrasts(space.logits[usable])
        inverse = torch.linalg.pinv(contrasts.transpose(0, 1).transpose(1, 2).double())
        gradients = space.gradients[usable.to(space.gradients.device)]
        total = combine(gradients, inverse.to(space.factor.device)).sum(dim=0)
        self._jacobian = total if self._jacobian is None else self._jacobian + total

    def result(self) -> PooledEigenspace:
        """The pooled eigenspace of what was added."""
        first, second = self._halves
        assert first.rows is not None
        empty = replace(first.rows, values=first.rows.values[:, :0])
        nothing = torch.zeros_like(empty.trace)
        empty = replace(empty, trace=nothing, bound=nothing)
        control = self._control
        return PooledEigenspace(
            halves=(first.rows, empty if second.rows is None else second.rows),
            totals=self._totals,
            rank=self._rank,
            weights=self._weights if isinstance(self._weights, str) else "numbers",
            likelihood=self._likelihood,
            mean_jacobian=(
                self._jacobian / self.count
                if self._has_jacobian and self._jacobian is not None
                else None
            ),
            control=None if control is None or not control.count else control.result(),
        )
