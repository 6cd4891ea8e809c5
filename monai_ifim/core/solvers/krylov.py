"""The leading eigenpairs, by iteration."""

from __future__ import annotations

from dataclasses import dataclass

from monai_ifim.core.checks import check_rank, check_tolerance
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.solvers.approximations import iterated, on_coordinates
from monai_ifim.core.solvers.problem import Problem, contrasts_of


@dataclass(frozen=True)
class Krylov:
    """Block Krylov iteration for a few eigenpairs among many directions.

    Attributes:
        rank: how many eigenpairs, where the call does not say; None for no default (10 for a
            dense prediction).
        tolerance: residual ‖F v - λ v‖ / λ₁ below which a pair has converged. At the default the
            ten leading eigenvalues of a thousand classes were within 1e-3 of themselves, and
            their span within an angle of 1e-2 (benchmarks/large_k.py).

    Raises:
        ValueError: a rank below 1, or a tolerance out of (0, 1).
    """

    rank: int | None = None
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_tolerance(self.tolerance)

    def solve(self, problem: Problem, rank: int | None, energy: float | None) -> Eigenspace:
        """Leading eigenpairs of F.

        Args:
            problem: to be solved.
            rank: how many; None for this method's own.
            energy: must be None: the trace is not known before all directions are.

        Returns:
            The eigenspace; its ``approximation`` says how far the pairs have converged.

        Raises:
            ValueError: no rank.
        """
        rank = self._rank(problem, rank, energy)
        # Twice the rank is cheaper than one more round: the last layer's order is not quite F's.
        first = rank if problem.random_start else 2 * rank
        classes = problem.contrasts
        if classes is not None and problem.possible <= first:
            space = on_coordinates(classes, problem.possible, rank, None)
            return space.padded(min(rank, classes.width))
        return iterated(problem, problem.start(first), rank=rank, tolerance=self.tolerance)

    def _rank(self, problem: Problem, rank: int | None, energy: float | None) -> int:
        rank = self.rank if rank is None else rank
        check_rank(rank, energy, problem.largest)
        if rank is None and energy is None:
            rank = problem.default_rank
        if rank is None:
            contrasts_of(problem, self, energy)
            got = "none" if energy is None else f"energy={energy}"
            raise ValueError(
                "expected rank, how many eigenpairs to iterate for, with method='krylov', got "
                f"{got}; pass rank, or method='exact'"
            )
        return rank
