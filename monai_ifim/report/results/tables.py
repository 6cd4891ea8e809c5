"""The tables over all experiments that belong to no single measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monai_ifim.report.markdown import table
from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Comparison,
    Result,
    block,
    cells,
    comparisons,
    known,
    network_name,
)
from monai_ifim.report.results.numbers import ABSENT, count, interval, number
from monai_ifim.report.results.verdicts import HOLDS, verdict


def ratio_table(results: list[Result], kind: str) -> str:
    """Ratio of the mean KL at equal norm, with what follows from its interval.

    Args:
        results: of all experiments.
        kind: ``random`` or ``attenuation``.

    Returns:
        The table; one column for each norm that any experiment measured.
    """
    parts = [
        (r, n, part, found)
        for r, n, part in cells(results, "perturbation")
        if (found := comparisons(part, kind))
    ]
    norms = _norms(comparison for *_, found in parts for comparison in found)
    rows = []
    for result, network, part, found in parts:
        law = ", ".join(number(comparison.law) for comparison in found)
        row = [result["title"], network_name(network), count(part.get("images"))]
        rows.append([*row, *_judged(found, norms), law])
    unit = "" if kind == "attenuation" else " of the norm"
    header = ["Task", "Network", "Images", *(f"{at}{unit}" for at in norms)]
    return table([*header, "KL / law"], rows)


def control_ratio_table(results: list[Result]) -> str:
    """The ratio for random directions at the control networks, which have learned nothing."""
    parts = [
        (r, n, words, found)
        for control, words in CONTROL_NETWORKS.items()
        for r, n, part in cells(results, "controls", control)
        if (found := comparisons(part, "random"))
    ]
    parts.sort(key=lambda part: results.index(part[0]))
    norms = _norms(comparison for *_, found in parts for comparison in found)
    rows = [
        [result["title"], network_name(network), words, *_judged(found, norms)]
        for result, network, words, found in parts
    ]
    return table(["Task", "Network", "Control", *(f"{at} of the norm" for at in norms)], rows)


def _norms(found: Iterable[Comparison]) -> list[str]:
    """Norms in rising order, as the page writes them."""
    return sorted({comparison.at for comparison in found}, key=lambda at: float(at.strip("α =%")))


def _judged(found: Iterable[Comparison], norms: list[str]) -> list[str]:
    """A cell for each norm: the ratio, its interval and the verdict."""
    ratios = {comparison.at: comparison.ratio for comparison in found}
    return [_with_verdict(ratios.get(at)) for at in norms]


def _with_verdict(ratio: Any) -> str:
    words = verdict(ratio)
    if words == ABSENT:
        return ABSENT
    return f"{interval(ratio)} {words if words == HOLDS else f'**{words}**'}"


def network_table(results: list[Result]) -> str:
    """Which networks were trained, how good they are, and how good one could be."""
    rows = []
    for result, network, part in cells(results, "training"):
        best = block(result, "task", "ideal", "auc")
        who = "ideal" if block(result, "task", "known_answer") == "exact" else "best linear"
        row = [result["title"], network_name(network), count(part.get("parameters"))]
        row += [count(part.get("images_seen")), count(block(result, "task", "test"))]
        row += [interval(part.get("accuracy")), interval(part.get("auc"))]
        rows.append([*row, f"{number(best)} ({who})" if known(best) else "not known"])
    header = ["Task", "Network", "Parameters", "Images seen", "Test images", "Accuracy", "AUC"]
    return table([*header, "AUC of the reference observer"], rows)
