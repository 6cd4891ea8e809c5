"""Methods: from products with the Jacobian to the leading eigenpairs of F."""

from __future__ import annotations

from typing import Any

from monai_ifim.core.solvers.auto import Auto
from monai_ifim.core.solvers.exact import Exact
from monai_ifim.core.solvers.krylov import Krylov
from monai_ifim.core.solvers.solver import Solver
from monai_ifim.core.solvers.truncated import Truncated

__all__ = ["METHODS", "Auto", "Exact", "Krylov", "Solver", "Truncated", "as_solver"]

METHODS: dict[str, type[Any]] = {
    "auto": Auto,
    "exact": Exact,
    "truncated": Truncated,
    "krylov": Krylov,
}


def as_solver(method: str | Solver, tolerance: float | None = None) -> Solver:
    """Solver of that name, or the method itself.

    Args:
        method: a name in ``METHODS``, or an object with ``solve``.
        tolerance: for a method that is named; None for its default.

    Returns:
        The method.

    Raises:
        ValueError: an unknown name, or a tolerance that the method does not have.

    >>> as_solver("krylov", 1e-2)
    Krylov(rank=None, tolerance=0.01)
    """
    if not isinstance(method, str) and (isinstance(method, type) or not hasattr(method, "solve")):
        raise ValueError(
            f"expected method as a name from {tuple(METHODS)} or an object such as Exact(), got "
            f"{method!r}; of a class, make an object"
        )
    named: type[Any] | None = METHODS.get(method) if isinstance(method, str) else type(method)
    if named is None:
        raise ValueError(
            f"expected method from {tuple(METHODS)}, got {method!r}; leave it out for 'auto'"
        )
    if tolerance is None:
        made: Solver = named() if isinstance(method, str) else method
        return made
    if not isinstance(method, str):
        raise ValueError(
            f"expected no tolerance beside the method {method!r}, got {tolerance}; give it to the "
            "method"
        )
    if not hasattr(named(), "tolerance"):
        having = [name for name, kind in METHODS.items() if hasattr(kind(), "tolerance")]
        raise ValueError(
            f"expected no tolerance with method={method!r}, got {tolerance}; choose from {having}, "
            "or leave tolerance out"
        )
    with_tolerance: Solver = named(tolerance=tolerance)
    return with_tolerance
