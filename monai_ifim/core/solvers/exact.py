"""Every direction that can matter."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.solvers.approximations import complete, on_coordinates
from monai_ifim.core.solvers.problem import Problem, contrasts_of


@dataclass(frozen=True)
class Exact:
    """All eigenpairs of a classifier, with as many backward passes as it has contrasts.

    Fewer where the last linear layer is narrower than that: nothing lies beyond its features.
    """

    def solve(self, problem: Problem, rank: int | None, energy: float | None) -> Eigenspace:
        """Eigenpairs of the whole of F.

        Args:
            problem: a classifier's.
            rank: keep at most so many.
            energy: or the fewest that reach this share of the trace.

        Returns:
            The eigenspace, without an ``approximation`` unless a named head was too narrow.

        Raises:
            ValueError: a dense prediction.
        """
        classes = contrasts_of(problem, self, energy)
        if classes.width == len(classes.cotangents):
            return complete(classes, rank, energy)
        space = on_coordinates(classes, classes.possible, rank, energy)
        return space.padded(classes.width if rank is None else min(rank, classes.width))
