"""Detection: wrong predictions and changed images found by one number of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from monai_ifim.report.markdown import folded, table
from monai_ifim.report.results.measured import (
    Result,
    block,
    cells,
    known,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import ABSENT, count, each, interval, listed
from monai_ifim.report.results.panels import dots, grid, heading, label_rows, legend, same_range
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import NEUTRAL, NO_INFORMATION, SCORES, style
from monai_ifim.report.results.verdicts import compare, counted

WRONG = "wrong prediction"


def _draw(result: Result) -> Figure | None:
    """AUC of the scores for wrong predictions and for every change of the images."""
    parts = networks_with(result, "detection")
    found = {name: _events(part) for name, part in parts.items()}
    events = dict.fromkeys(event for aucs in found.values() for event in aucs)
    if not events:
        return None
    order = sorted(events, key=lambda event: event != WRONG)  # the others as they were measured
    columns = [heading(n, part.get("images"), _noun(part)) for n, part in parts.items()]
    title = f"{result['title']}: wrong predictions and changed images, detected by one number"
    panels = grid(title, columns, [0.9 + 0.42 * len(events)])
    axes = panels.rows[0]
    for axis, aucs in zip(axes, found.values(), strict=True):
        for place, event in enumerate(order):
            for offset, score in zip((-0.27, -0.09, 0.09, 0.27), SCORES, strict=True):
                auc = block(aucs.get(event), score)
                dots(axis, [place + offset], [auc], score, upright=False)
        axis.axvline(0.5, color=NEUTRAL, linestyle=":", linewidth=1.1)
        axis.set_xlabel("AUC")
    same_range(axes)
    label_rows(axes[0], [event.replace("_", " ") for event in order])
    legend(panels.legends[0], SCORES, NO_INFORMATION)
    return panels.figure


def _events(part: Any) -> dict[str, Any]:
    """What is detected, with the AUC of every score."""
    wrong = {WRONG: part["error_auc"]} if part.get("error_auc") else {}
    return wrong | (part.get("corruption_auc") or {})


def _noun(part: Any) -> str:
    return f"images\n{part['errors']} of them wrong" if known(part.get("errors")) else "images"


def _sentences(result: Result) -> Iterator[str]:
    parts = networks_with(result, "detection")
    errors = {n: part["error_auc"] for n, part in parts.items() if part.get("error_auc")}
    scores = {"the trace of F": "trace", "1 − the largest probability": "uncertainty"}
    found = {w: each((n, block(part, s)) for n, part in errors.items()) for w, s in scores.items()}
    texts = [f"by {words} with an AUC of {aucs}" for words, aucs in found.items() if aucs]
    if texts:
        yield f"Wrong predictions are distinguished from right ones {'; '.join(texts)}."
    changed = [a for part in parts.values() for a in (part.get("corruption_auc") or {}).values()]
    for aucs, words in ((list(errors.values()), "wrong predictions"), (changed, "changed images")):
        outcomes = [_better(block(a, "trace"), block(a, "entropy")) for a in aucs]
        outcomes = [outcome for outcome in outcomes if outcome != ABSENT]
        if outcomes:
            better = f"That the trace of F detects {words} better than the entropy"
            yield f"{better} {counted(outcomes)}."


def _better(first: Any, second: Any) -> str:
    """Whether an AUC is further from 0.5, on either side, than another; by intervals apart."""
    return compare(_distance(first), _distance(second))


def _distance(auc: Any) -> dict[str, float] | None:
    """Interval of the distance of an AUC from 0.5."""
    if not measured(auc) or not (known(auc.get("low")) and known(auc.get("high"))):
        return None
    low, high = auc["low"] - 0.5, auc["high"] - 0.5
    nearest = 0.0 if low < 0 < high else min(abs(low), abs(high))
    return {"value": abs(auc["value"] - 0.5), "low": nearest, "high": max(abs(low), abs(high))}


def _overview(results: list[Result]) -> str:
    """How well wrong predictions are distinguished from right ones."""
    rows = []
    for result, network, part in cells(results, "detection", "error_auc"):
        whole = result["networks"][network]["detection"]
        row = [result["title"], network_name(network)]
        row += [f"{count(whole.get('errors'))} of {count(whole.get('images'))}"]
        rows.append([*row, *_aucs(part)])
    return table(["Task", "Network", "Wrong", *SCORE_NAMES], rows)


def _changes(result: Result) -> Iterator[str]:
    """How well changed images are distinguished from unchanged ones."""
    rows = [
        [event.replace("_", " "), network_name(network), *_aucs(aucs)]
        for _, network, events in cells([result], "detection", "corruption_auc")
        for event, aucs in events.items()
    ]
    if rows:
        text = table(["Change", "Network", *SCORE_NAMES], sorted(rows, key=lambda row: row[0]))
        yield folded("AUC for changed against unchanged images", text)


SCORE_NAMES = [style(score).label[0].upper() + style(score).label[1:] for score in SCORES]


def _aucs(found: Any) -> list[str]:
    return [interval(block(found, score)) for score in SCORES]


def _gaps(result: Result) -> Iterator[str]:
    parts = networks_with(result, "detection")
    silent = [network_name(name) for name, part in parts.items() if not part.get("error_auc")]
    if silent:
        yield f"wrong predictions by the trace ({listed(silent)})"


DETECTION = Section(
    name="detection",
    alt="AUC for wrong predictions and changed images",
    draw=_draw,
    sentences=_sentences,
    below=_changes,
    overview=_overview,
    gaps=_gaps,
)
