"""The method that fits the problem."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from monai_ifim.core.checks import check_rank, check_tolerance
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.gradients.jvp import NoForwardProductsError
from monai_ifim.core.solvers.exact import Exact
from monai_ifim.core.solvers.iteration import LARGEST_BASIS
from monai_ifim.core.solvers.krylov import Krylov
from monai_ifim.core.solvers.problem import Problem
from monai_ifim.core.solvers.solver import Solver
from monai_ifim.core.solvers.truncated import Truncated

# From so many directions on, iterating for a few eigenpairs beats computing all.
_MANY = 64


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Auto:
    """Chooses among the other methods.

    Exact for a classifier; truncated where a tolerance is given; Krylov where the rank asked for
    is at most 66 and an eighth of 64 or more directions, or the prediction is dense.

    Attributes:
        tolerance: of the method that is chosen; None for an exact answer or its default.
        at_most: how many eigenpairs where the call does not say; all of them where F has fewer.

    Raises:
        ValueError: a tolerance out of (0, 1), or a number below 1.
    """

    tolerance: float | None = None
    at_most: int | None = None

    def __post_init__(self) -> None:
        check_rank(self.at_most)
        if self.tolerance is not None:
            check_tolerance(self.tolerance)

    def choose(self, problem: Problem, rank: int | None) -> Solver:
        """The method for a problem.

        Args:
            problem: to be solved.
            rank: how many eigenpairs are wanted, None for all.

        Returns:
            The method, with this one's tolerance.
        """
        iteration = Krylov() if self.tolerance is None else Krylov(tolerance=self.tolerance)
        if problem.contrasts is None:
            return iteration
        width = problem.contrasts.width
        few = rank is not None and rank <= width // 8 and 3 * rank <= LARGEST_BASIS
        # A pass that cannot be repeated may know no J d.
        if few and width >= _MANY and problem.forward.function is not None:
            return iteration
        return Exact() if self.tolerance is None else Truncated(self.tolerance)

    def solve(self, problem: Problem, rank: int | None, energy: float | None) -> Eigenspace:
        """Leading eigenpairs by the method that fits.

        Args:
            problem: to be solved.
            rank: at most so many.
            energy: or the fewest that reach this share of the trace.

        Returns:
            The eigenspace.

        Raises:
            ValueError: as the chosen method.
            NoForwardProductsError: a dense prediction of a network that can be differentiated
                neither in forward mode nor twice.
        """
        if rank is None and energy is None and self.at_most is not None:
            rank = min(self.at_most, problem.largest)
        chosen = self.choose(problem, rank)
        try:
            return chosen.solve(problem, rank, energy)
        except NoForwardProductsError as error:
            if problem.contrasts is None:  # nothing else can serve a dense prediction
                raise
            logger.info("no Jacobian-vector products, computing all directions: %s", error)
            return Exact().solve(problem, rank, energy)
