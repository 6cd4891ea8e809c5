"""What F is good for, on the trainings of one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from monai_ifim.experiments.trainings.training import Training
from monai_ifim.experiments.uses.finding import findings
from monai_ifim.experiments.uses.flips import flips
from monai_ifim.experiments.uses.scored import Scored


def uses(
    trainings: Sequence[Training],
    scored: Scored | None,
    flipped: Tensor | None,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """All uses that are asked for.

    Args:
        trainings: of one network.
        scored: images among which something is to be found, or None.
        flipped: images (n, C, *S) whose distance to another answer is looked for, or None.
        say: called with a line for people where a library is missing.

    Returns:
        ``findings``; under ``flips`` what that function gives, None where it was not asked for or
        foolbox is not installed, and under ``flips_missing`` which of these, empty where measured.
        None where nothing is asked for.
    """
    if scored is None and flipped is None:
        return None
    found = (
        {"images": 0, "errors": [], "cases": []} if scored is None else findings(trainings, scored)
    )
    if flipped is None:
        return {**found, "flips": None, "flips_missing": "not asked for (flip_images: 0)"}
    try:
        return {**found, "flips": flips(trainings, flipped), "flips_missing": ""}
    except ModuleNotFoundError as error:
        say(f"changes to another answer are not measured: {error}")
        return {**found, "flips": None, "flips_missing": str(error)}
