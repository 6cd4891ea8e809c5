"""Whether the claim of the page holds, at every network and norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Result,
    comparisons,
    counting,
    network_name,
    networks_standing,
    networks_with,
    one_ratio,
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


def overall(found: list[Result]) -> Iterator[str]:
    """What the comparisons of all experiments say, a sentence for each kind.

    Each network that counts does so once, with the geometric mean over its norms.

    Args:
        found: the results of all experiments.

    Yields:
        The sentences.
    """
    above = [networks_standing(result, counting(found)) for result in found]
    for kind, words in KINDS.items():
        parts = [p for result in above for p in networks_with(result, "perturbation").values()]
        made = [comparisons(part, kind) for part in parts]
        every = _outcomes([[c.ratio for c in each] for each in made])
        if every:
            far = _outcomes(
                [[c.ratio for c in each if c.law and off_the_law(c.law)] for each in made]
            )
            regime = counted(far, "networks") if far else "was not tested"
            yield (
                f"For {words}, the claim {counted(every, 'networks')}; beyond the quadratic "
                f"regime, where no identity decides, it {regime}."
            )
    controls = _outcomes(
        [
            [comparison.ratio for comparison in comparisons(part, "random")]
            for control in CONTROL_NETWORKS
            for result in above
            for part in networks_with(result, "controls", control).values()
        ]
    )
    if controls:
        yield (
            "At the control networks (random weights or shuffled labels), the claim for random "
            f"directions {counted(controls, 'networks')}: it is about the function that a network "
            "computes, not about what the network has learned."
        )


def _outcomes(ratios: Iterable[list[Any]]) -> list[str]:
    """One verdict for each network that has ratios."""
    return [verdict(ratio) for each in ratios if (ratio := one_ratio(each))]


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
