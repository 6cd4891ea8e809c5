"""The tables of the page: every task and network in one row, every number with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from monai_ifim.report.markdown import table
from monai_ifim.report.results.measured import (
    CONTROLS,
    Comparison,
    Result,
    block,
    cells,
    comparisons,
    known,
    map_methods,
    network_name,
    scaled,
)
from monai_ifim.report.results.numbers import (
    ABSENT,
    FAILS,
    HOLDS,
    compare,
    interval,
    number,
    percent,
    verdict,
)


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
    places = _places(comparison for *_, found in parts for comparison in found)
    rows = []
    for result, network, part, found in parts:
        ratios = {comparison.at: comparison.ratio for comparison in found}
        line = [_judged(ratios.get(at)) for at in places]
        line.append(", ".join(number(comparison.law) for comparison in found))
        images = number_of(part.get("images"))
        rows.append([result["title"], network_name(network), images, *line])
    unit = "" if kind == "attenuation" else " of the norm"
    header = ["Task", "Network", "Images", *(f"{at}{unit}" for at in places)]
    return table([*header, "KL by law"], rows)


def untaught_table(results: list[Result]) -> str:
    """The ratio for random directions at networks that have learned nothing."""
    parts = [
        (r, n, words, found)
        for control, words in CONTROLS.items()
        for r, n, part in cells(results, "controls", control)
        if (found := comparisons(part, "random"))
    ]
    parts.sort(key=lambda part: results.index(part[0]))
    places = _places(comparison for *_, found in parts for comparison in found)
    rows = []
    for result, network, words, found in parts:
        ratios = {comparison.at: comparison.ratio for comparison in found}
        line = [_judged(ratios.get(at)) for at in places]
        rows.append([result["title"], network_name(network), words, *line])
    return table(["Task", "Network", "Control", *(f"{at} of the norm" for at in places)], rows)


def _places(found: Iterable[Comparison]) -> list[str]:
    """Norms in rising order, as they are written."""
    return sorted({comparison.at for comparison in found}, key=lambda at: float(at.strip("α =%")))


def _judged(ratio: Any) -> str:
    words = verdict(ratio)
    if words == ABSENT:
        return ABSENT
    return f"{interval(ratio)} {words if words == HOLDS else f'**{words}**'}"


def number_of(count: Any) -> str:
    """A count in full.

    >>> number_of(12000), number_of(None)
    ('12,000', '–')
    """
    return f"{count:,}" if known(count) else ABSENT


def network_table(results: list[Result]) -> str:
    """What was trained, how good it is, and how good one could be."""
    rows = []
    for result, network, part in cells(results, "training"):
        best = block(result, "task", "ideal", "auc")
        who = "ideal" if block(result, "task", "known_answer") == "exact" else "best linear"
        row = [result["title"], network_name(network), number_of(part.get("parameters"))]
        row += [number_of(part.get("images_seen")), number_of(block(result, "task", "test"))]
        row += [interval(part.get("accuracy")), interval(part.get("auc"))]
        rows.append([*row, f"{number(best)} ({who})" if known(best) else "not known"])
    header = ["Task", "Network", "Parameters", "Images seen", "Test images", "Accuracy", "AUC"]
    return table([*header, "AUC of the known observer"], rows)


def law_table(results: list[Result]) -> str:
    """How exact the quadratic law is, and how far it reaches."""
    rows = []
    for result, network, law in cells(results, "law"):
        error, radius = block(law, "float64_error"), block(law, "radius")
        row = [result["title"], network_name(network), number_of(law.get("images"))]
        row += [number(block(error, "median")), number(block(error, "worst"))]
        row += [number(_at(block(radius, "percentiles"), 2))]
        shares = block(radius, "relative_to_image_norm")
        row += [
            f"{percent(_at(shares, 2))} ({percent(_at(shares, 0))} to {percent(_at(shares, 4))})"
        ]
        row += [
            number(_at(block(radius, "fisher_length"), 2)),
            interval(law.get("radius_confidence")),
        ]
        row += [
            interval(scaled(law.get("radius_correct"), 100), " %"),
            interval(scaled(law.get("radius_wrong"), 100), " %"),
        ]
        rows.append(row)
    header = ["Task", "Network", "Images", "Median error", "Worst error", "Median radius"]
    header += ["Share of the image's norm, median (5 to 95 %)", "Median radius · √λ₁"]
    header += [
        "Spearman of radius and confidence",
        "Radius, prediction right",
        "Radius, prediction wrong",
    ]
    return table(header, rows)


def _at(numbers: Any, index: int) -> Any:
    return numbers[index] if isinstance(numbers, list) and len(numbers) > index else None


def agreement_table(results: list[Result]) -> str:
    """Cosines with the known template, beside those of networks that cannot know it.

    The interval of the random weights is over networks, all others are over images.
    """
    rows = []
    for result, network, part in cells(results, "agreement"):
        controls = block(result["networks"][network], "controls")
        untaught = [
            block(controls, name, "cosine") for name in ("random_weights", "shuffled_labels")
        ]
        low, high = _at(part.get("percentiles"), 0), _at(part.get("percentiles"), 2)
        exact = block(result, "task", "known_answer") == "exact"
        row = [result["title"], network_name(network), "ideal" if exact else "best linear"]
        row += [number_of(part.get("images")), interval(part.get("cosine"))]
        row += [f"{number(low)} to {number(high)}", number(part.get("chance"))]
        rows.append([*row, *map(interval, untaught), above_controls(part.get("cosine"), untaught)])
    header = ["Task", "Network", "Template", "Images", "Median cosine", "10 to 90 % of the images"]
    header += ["Chance", "Random weights", "Shuffled labels", "Above both controls"]
    return table(header, rows)


def above_controls(trained: Any, untaught: Sequence[Any]) -> str:
    """Whether the trained network's interval lies above those of all controls that were run."""
    words = [compare(trained, other) for other in untaught]
    words = [word for word in words if word != ABSENT]
    if not words:
        return "no control"
    if all(word == HOLDS for word in words):
        return "yes" if len(words) == len(untaught) else "yes (one control)"
    return "**no**" if FAILS in words else "**undecided**"


def detection_table(results: list[Result]) -> str:
    """How well wrong predictions are told from right ones."""
    rows = []
    for result, network, part in cells(results, "detection", "error_auc"):
        whole = result["networks"][network]["detection"]
        row = [result["title"], network_name(network)]
        row += [f"{number_of(whole.get('errors'))} of {number_of(whole.get('images'))}"]
        rows.append([*row, *_scores(part)])
    return table(["Task", "Network", "Wrong", *SCORES.values()], rows)


def corruption_table(result: Result) -> str:
    """How well changed images of one experiment are told from unchanged ones."""
    rows = [
        [event.replace("_", " "), network_name(network), *_scores(aucs)]
        for _, network, events in cells([result], "detection", "corruption_auc")
        for event, aucs in events.items()
    ]
    return table(["Change", "Network", *SCORES.values()], sorted(rows, key=lambda row: row[0]))


SCORES = {
    "trace": "Trace of F",
    "largest_eigenvalue": "Largest eigenvalue",
    "entropy": "Entropy",
    "uncertainty": "1 − largest probability",
}


def _scores(aucs: Any) -> list[str]:
    return [interval(block(aucs, score)) for score in SCORES]


def map_table(result: Result) -> str:
    """The maps of one experiment."""
    rows = [
        [network_name(network), METHODS.get(method, method)]
        + [interval(numbers.get(key)) for key in ("rank_correlation", "inside")]
        + [interval(numbers.get("angle"), "°")]
        + [interval(numbers.get(key)) for key in ("deletion", "insertion")]
        for network, methods in map_methods(result).items()
        for method, numbers in methods.items()
    ]
    header = ["Network", "Map", "Rank correlation with the iFIM map", "Energy in the eigenspace"]
    return table([*header, "Angle", "Deletion area", "Insertion area"], rows)


METHODS = {
    "ifim": "iFIM sensitivity",
    "gradient": "gradient",
    "integrated_gradients": "integrated gradients",
    "smoothgrad": "SmoothGrad",
    "grad_cam": "Grad-CAM",
    "occlusion": "occlusion",
}
