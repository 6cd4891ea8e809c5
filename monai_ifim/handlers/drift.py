"""How far a pooled eigenspace is from that of the epoch before, and from a reference."""

from __future__ import annotations

import logging
import math

from torch import Tensor

from monai_ifim.core import PooledEigenspace
from monai_ifim.handlers.pooling import IFIMPooling
from monai_ifim.messages import reason

logger = logging.getLogger(__name__)

METRIC = "ifim_pooled_"


class Drift:
    """Compares the pooled eigenspaces of one epoch after another.

    Args:
        choices: with the number of directions that are compared.
    """

    def __init__(self, choices: IFIMPooling) -> None:
        self._choices = choices
        self._others: dict[str, Tensor] = {}
        reference = choices.reference
        if isinstance(reference, PooledEigenspace):
            self._others["reference"] = reference.eigenvectors[: choices.angle_rank]
        self._warned: set[str] = set()

    def metrics(self, space: PooledEigenspace) -> dict[str, float]:
        """Numbers of an epoch; the next one is compared with it.

        Args:
            space: of the epoch, on the CPU.

        Returns:
            By name; angles in degrees.
        """
        found = {f"{METRIC}images": float(space.count)}
        found[f"{METRIC}stable_rank"] = float(space.stable_rank)
        for name, directions in self._others.items():
            found |= self._angles(space, name, directions)
        self._others["before"] = space.eigenvectors[: self._choices.angle_rank].clone()
        return found

    def _angles(self, space: PooledEigenspace, name: str, directions: Tensor) -> dict[str, float]:
        rank, blur = self._choices.angle_rank, self._choices.blur
        try:
            if directions.shape[1:] != space.eigenvectors.shape[1:]:
                raise ValueError(
                    f"expected directions of the shape {tuple(space.eigenvectors.shape[1:])}, got "
                    f"{tuple(directions.shape[1:])}; preprocess the images in the same way"
                )
            angles = space.angles(directions, blur, rank=rank).rad2deg()
        except ValueError as error:  # another shape, or too few directions
            if name not in self._warned:
                told = {"before": "the epoch before"}.get(name, f"the {name}")
                logger.warning("no angle to %s: %s", told, reason(error))
            self._warned.add(name)
            return {}
        largest = {f"{METRIC}angle_{name}": float(angles.max())}
        if not all(map(math.isfinite, largest.values())):
            return {}
        return (
            largest if rank == 1 else largest | {f"{METRIC}angle_{name}_mean": float(angles.mean())}
        )
