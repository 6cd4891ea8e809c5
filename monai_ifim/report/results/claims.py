"""Whether the claim of the page holds, at every network and norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Result,
    comparisons,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import ABSENT, listed
from monai_ifim.report.results.verdicts import (
    FAILS,
    HOLDS,
    UNDECIDED,
    counted,
    off_the_law,
    verdict,
)

KINDS = {
    "random": "random directions inside against outside the eigenspace",
    "attenuation": "attenuating the high component (x − αx_h) against the orthogonal one",
    "masks": "random directions inside the eigenspace against the pixels that attribution selects",
}


class Claim(NamedTuple):
    """One comparison.

    Attributes:
        network: its name in the results.
        at: the norm, as the page writes it.
        outcome: that of ``verdict``.
        beyond: whether the norm is beyond the quadratic regime; None where that is not known.
    """

    network: str
    at: str
    outcome: str
    beyond: bool | None


def claims(result: Result, kind: str) -> list[Claim]:
    """Whether changes of the eigenspace move the prediction more, at every network and norm.

    Args:
        result: of one experiment.
        kind: in ``KINDS``.

    Returns:
        One claim for each ratio that was measured.
    """
    found = [
        Claim(
            network,
            comparison.at,
            verdict(comparison.ratio),
            None if comparison.law is None else off_the_law(comparison.law),
        )
        for network, part in networks_with(result, "perturbation").items()
        for comparison in comparisons(part, kind)
    ]
    return [claim for claim in found if claim.outcome != ABSENT]


def control_claims(result: Result) -> list[Claim]:
    """The claim for random directions at the control networks, which have learned nothing."""
    return [
        Claim(network, comparison.at, outcome, None)
        for control in CONTROL_NETWORKS
        for network, part in networks_with(result, "controls", control).items()
        for comparison in comparisons(part, "random")
        if (outcome := verdict(comparison.ratio)) != ABSENT
    ]


def overall(found: list[Result]) -> Iterator[str]:
    """What the comparisons of all experiments say, a sentence for each kind.

    Args:
        found: the results of all experiments.

    Yields:
        The sentences.
    """
    for kind, words in KINDS.items():
        made = [claim for result in found for claim in claims(result, kind)]
        if made:
            far = [claim.outcome for claim in made if claim.beyond]
            regime = counted(far) if far else "was not tested"
            yield (
                f"For {words}, the claim {counted(claim.outcome for claim in made)}; beyond the "
                f"quadratic regime, where no identity decides, it {regime}."
            )
    controls = [claim.outcome for result in found for claim in control_claims(result)]
    if controls:
        yield (
            "At the control networks (random weights or shuffled labels), the claim for random "
            f"directions {counted(controls)}: it is about the function that a network computes, "
            "not about what the network has learned."
        )


def claim_sentence(result: Result, kind: str) -> str:
    """Where the claim holds, where it is undecided and where it fails, in one experiment."""
    found = claims(result, kind)
    if not found:
        return f"For {KINDS[kind]} nothing was measured."
    texts = []
    for outcome, words in ((HOLDS, "holds"), (UNDECIDED, "is **undecided**"), (FAILS, "**fails**")):
        where = _where(claim for claim in found if claim.outcome == outcome)
        if where:
            texts.append(f"{words} for {where}")
    return f"For {KINDS[kind]} the claim {'; it '.join(texts)}."


def _where(found: Iterable[Claim]) -> str:
    norms: dict[str, list[str]] = {}
    for claim in found:
        at = norms.setdefault(claim.network, [])
        at += [] if claim.at in at else [claim.at]
    names: dict[str, list[str]] = {}  # the networks with the same norms together
    for network, at in norms.items():
        names.setdefault(listed(at), []).append(network_name(network))
    return ", and for ".join(f"{listed(networks)} at {at}" for at, networks in names.items())
