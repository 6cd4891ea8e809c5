"""What every method is able to do."""

from __future__ import annotations

from typing import Protocol

from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.solvers.problem import Problem


class Solver(Protocol):
    """A way from a problem to its leading eigenpairs, with options of its own."""

    def solve(self, problem: Problem, rank: int | None, energy: float | None) -> Eigenspace:
        """Leading eigenpairs.

        Args:
            problem: one forward pass and its predictive family.
            rank: at most so many; None for all that the method finds.
            energy: or the fewest that reach this share of the trace.

        Returns:
            The eigenspace. An image that is not finite gets NaN and rank 0.

        Raises:
            ValueError: the method does not apply to this problem; the message names one that does.
        """
