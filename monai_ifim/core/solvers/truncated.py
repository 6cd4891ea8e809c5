"""Without the directions that weigh next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ifim.core.checks import check_tolerance
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.solvers.approximations import on_coordinates
from monai_ifim.core.solvers.problem import Problem, contrasts_of


@dataclass(frozen=True)
class Truncated:
    """Leaves out directions of small weight, and measures what that may have lost.

    Attributes:
        tolerance: directions to which the last linear layer and the probabilities give less than
            this share of the largest weight are left out.

    Raises:
        ValueError: a tolerance out of (0, 1).
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_tolerance(self.tolerance)

    def solve(self, problem: Problem, rank: int | None, energy: float | None) -> Eigenspace:
        """Eigenpairs of what is kept.

        Args:
            problem: a classifier's.
            rank: keep at most so many.
            energy: must be None: the share would be of what is kept.

        Returns:
            The eigenspace; its ``approximation`` says what was left out.

        Raises:
            ValueError: an energy, or a dense prediction.
        """
        classes = contrasts_of(problem, self, energy)
        if energy is not None:
            raise ValueError(
                "expected rank, or neither, where directions are left out, got "
                f"energy={energy}: the share would be of what is kept; leave tolerance out"
            )
        count = max(classes.count(self.tolerance), rank or 1)
        space = on_coordinates(classes, count, rank, None)
        return space.padded(classes.width if rank is None else min(rank, classes.width))
