"""What networks that were trained once say: changes inside and outside, attribution, controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_ifim.report.evidence.blocks import Single
from monai_ifim.report.evidence.comparisons import (
    geometric_mean,
    logarithm,
    minus,
    negative,
    network_mean,
)
from monai_ifim.report.evidence.figures import Panel, stacked
from monai_ifim.report.evidence.finding import Case, Finding
from monai_ifim.report.evidence.findings import told
from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Interval,
    block,
    bounded,
    comparisons,
    one_ratio,
)
from monai_ifim.report.results.numbers import interval, listed, number, plural, spread
from monai_ifim.report.results.style import METHODS, style

_MOST = 6  # panels of metrics beside each other
_ONE_SHUFFLE = (
    " (over the test images of one network each, not over shuffles: a network may know the classes "
    "a little, or wrongly)"
)
_MAPS = {
    "rank_correlation": "rank correlation with\nthe iFIM map",
    "deletion": "deletion area\n(low: pixels matter)",
    "insertion": "insertion area\n(high: pixels matter)",
}


def inside_ratio(part: Any) -> Interval | None:
    """Mean KL inside to outside the eigenspace, one number: the geometric mean over the norms."""
    return one_ratio(each.ratio for each in comparisons(part, "random"))


def single_findings(singles: Sequence[Single], *, alarm: bool) -> Iterator[Finding]:
    """What networks above the bar say.

    Args:
        singles: above the bar.
        alarm: whether to say how wrong predictions are found.

    Yields:
        One finding for each question that was measured.
    """
    wrong = [
        Case(each, minus(aucs["trace"], aucs["entropy"]))
        for each in singles
        if (aucs := block(each.numbers, "detection", "error_auc"))
        and bounded(aucs.get("trace"))
        and bounded(aucs.get("entropy"))
    ]
    if alarm and wrong:
        yield _alarm(wrong)
    yield from _inside(singles)


def _alarm(cases: Sequence[Case]) -> Finding:
    def auc(score: str) -> str:
        found = [block(case.who.numbers, "detection", "error_auc", score) for case in cases]
        return interval(network_mean(found))

    finding = Finding(
        "Does the trace find wrong predictions better than the entropy of the prediction?",
        cases,
        f"Mean AUC: trace {auc('trace')}, entropy {auc('entropy')}.",
        "Trace less entropy",
    )
    return _unpaired(finding, len(cases))


_INSIDE: dict[str, tuple[str, ...]] = {
    "trained": ("perturbation",),
    "with random weights (one each)": ("controls", "random_weights"),
    "trained on shuffled labels": ("controls", "shuffled_labels"),
}


def _inside(singles: Sequence[Single]) -> Iterator[Finding]:
    untrained = [
        (each, ratio)
        for each in singles
        if (ratio := inside_ratio(block(each.numbers, "controls", "random_weights")))
    ]
    if not untrained:
        return
    trained = [r for each, _ in untrained if (r := inside_ratio(each.numbers.get("perturbation")))]
    finding = Finding(
        "Must a network have learned for changes inside the eigenspace to move the prediction more "
        "than others?",
        [Case(each, negative(logarithm(ratio))) for each, ratio in untrained],
        f"Mean KL inside divided by outside, at equal norm: trained "
        f"{interval(geometric_mean(trained)) if trained else 'not measured'}, random weights "
        f"{interval(geometric_mean([ratio for _, ratio in untrained]))}.",
        "Outside divided by inside, random weights",
        ratio=True,
        trained=False,
    )
    yield told(finding, "No", "A ratio above 1 is no evidence of learning.")


def _unpaired(finding: Finding, count: int) -> Finding:
    """A finding of which so many differences come from ``minus``: where nothing is shown, why."""
    if not count:
        return finding
    return told(
        finding,
        "Not shown",
        f"Of {count} of {plural(len(finding.cases), 'network')} both are of the same images but "
        "were compared as if of different ones: the intervals are too wide, and a gain or a loss "
        "may have been missed.",
    )


def inside_sentence(singles: Sequence[Single]) -> str:
    """Changes inside against outside, of networks above the bar and of untrained ones."""
    rows = [
        {words: inside_ratio(block(each.numbers, *keys)) for words, keys in _INSIDE.items()}
        for each in singles
    ]
    found = {words: [r for row in rows if (r := row[words])] for words in _INSIDE}
    parts = [
        f"{interval(geometric_mean(ratios))} for networks {words} (above 1 for "
        f"{sum(r['low'] > 1 for r in ratios)} of {len(ratios)})"
        for words, ratios in found.items()
        if ratios
    ]
    if not parts:
        return ""
    text = (
        "Random changes inside the eigenspace against random ones outside, at equal norm, ratio of "
        f"the mean KL (one number a network, over its norms): {listed(parts)}."
    )
    if [each.tally.answer for each in _inside(singles)] == ["No"]:
        text += " A ratio above 1 is no evidence of learning; its size may depend on it."
    every = [ratios for row in rows if all(ratios := list(row.values()))]
    if every and len(every) < len(rows):
        means = [
            f"{number(geometric_mean([r for r in column if r])['value'])} {words}"
            for words, column in zip(_INSIDE, zip(*every, strict=True), strict=True)
        ]
        text += f" Of the {plural(len(every), 'network')} with all three: {listed(means)}."
    return text


def map_panels(singles: Sequence[Single]) -> list[Panel]:
    """Metrics of Quantus where they were measured, our own otherwise; a row for each method."""
    shown = [
        Panel(_metric(name, better), stacked(found))
        for name, better in _metrics(singles).items()
        if (found := list(_quantus(singles, name)))
    ]
    if shown:
        return shown[:_MOST]
    panels = [Panel(label, stacked(list(_maps(singles, key)))) for key, label in _MAPS.items()]
    return [panel for panel in panels if panel.rows]


def _who(each: Single) -> str:
    return f"{each.task} {each.network}"


def _metrics(singles: Sequence[Single]) -> dict[str, str]:
    """Names of Quantus' metrics, and which end is better: higher, lower, or neither."""
    return {
        name: block(about, "better") or ""
        for each in singles
        for name, about in (block(each.numbers, "quantus", "metrics") or {}).items()
    }


def _metric(name: str, better: str) -> str:
    return name.replace("_", " ") + (f"\n({better} is better)" if better else "")


def _quantus(singles: Sequence[Single], metric: str) -> Iterator[tuple[str, str, Interval]]:
    for each in singles:
        for method, found in (block(each.numbers, "quantus", "methods") or {}).items():
            if bounded(block(found, metric)):
                yield method, _who(each), found[metric]


def _maps(singles: Sequence[Single], key: str) -> Iterator[tuple[str, str, Interval]]:
    present = [m for each in singles for m in block(each.numbers, "maps", "methods") or {}]
    for method in dict.fromkeys([*METHODS, *present]):  # a user's own after the known ones
        for each in singles:
            found = block(each.numbers, "maps", "methods", method, key)
            if bounded(found):
                yield method, _who(each), found


def map_findings(singles: Sequence[Single]) -> Iterator[Finding]:
    """Whether the pixels of the sensitivity map matter more than those of the best other map."""
    for key, sign, words in (
        ("deletion", -1, "deleting the sensitivity map's pixels change the prediction faster"),
        ("insertion", 1, "inserting the sensitivity map's pixels bring the prediction back faster"),
    ):
        rows = stacked(list(_maps(singles, key)))
        own = rows.pop("ifim", None)
        if not own or not rows:
            continue
        means = {method: network_mean(list(found.values())) for method, found in rows.items()}
        best = max(means, key=lambda method: sign * means[method]["value"])
        cases, unpaired = [], 0
        for each in singles:
            methods = block(each.numbers, "maps", "methods") or {}
            mine, other = (block(methods, name, key) for name in ("ifim", best))
            if not (bounded(mine) and bounded(other)):
                continue
            gain = block(methods, best, f"{key}_advantage")
            if not bounded(gain):  # results of an earlier version
                gain = minus(mine, other) if sign > 0 else minus(other, mine)
                unpaired += 1
            cases.append(Case(each, gain))
        if cases:
            finding = Finding(
                f"Does {words} than the best other map's?",
                cases,
                f"Mean area: sensitivity map {interval(network_mean(list(own.values())))}, "
                f"{style(best).label} {interval(means[best])}.",
                f"Advantage in {key} area",
            )
            yield _unpaired(finding, unpaired)


def map_sentences(singles: Sequence[Single]) -> Iterator[str]:
    """How the sensitivity map stands beside attribution maps."""
    for finding in map_findings(singles):
        yield finding.sentence
    rows = stacked(list(_maps(singles, "rank_correlation")))
    if rows:
        closest = max(rows, key=lambda method: network_mean(list(rows[method].values()))["value"])
        yield (
            f"Most like the sensitivity map is {style(closest).label}, rank correlation "
            f"{interval(network_mean(list(rows[closest].values())))}."
        )
    yield from _quantus_sentence(singles)


def _quantus_sentence(singles: Sequence[Single]) -> Iterator[str]:
    parts = []
    for metric, better in _metrics(singles).items():
        rows = stacked(list(_quantus(singles, metric)))
        values = {m: network_mean(list(found.values()))["value"] for m, found in rows.items()}
        if better and "ifim" in values:
            own = values["ifim"]
            first = 1 + sum(v > own if better == "higher" else v < own for v in values.values())
            last = first + sum(v == own for v in values.values()) - 1
            rank = f"{first}" if first == last else f"{first} to {last}"
            parts.append(f"{metric.replace('_', ' ')} {rank} of {len(values)}")
    if parts:
        count = sum(bool(block(each.numbers, "quantus", "methods")) for each in singles)
        yield (
            f"Rank of the sensitivity map by Quantus (means over {plural(count, 'network')}; among "
            "the others are two of its own variants, random numbers, and the edges of the image): "
            f"{listed(parts)}."
        )


def control_panels(singles: Sequence[Single]) -> list[Panel]:
    """AUC and cosine with the template of trained networks and of those that cannot know it."""
    panels = []
    for label, trained, control, border in (
        ("AUC, test set", ("training", "auc"), "auc", 0.5),
        ("cosine with the template", ("agreement", "cosine"), "cosine", None),
    ):
        rows = [
            (name, _who(each), found)
            for name, keys in (
                ("trained", trained),
                ("random_weights", ("controls", "random_weights", control)),
                ("shuffled_labels", ("controls", "shuffled_labels", control)),
            )
            for each in singles
            if bounded(found := block(each.numbers, *keys))
        ]
        if rows:
            panels.append(Panel(label, stacked(rows), border))
    return panels


def control_sentences(singles: Sequence[Single]) -> Iterator[str]:
    """Whether the controls fail where they must."""
    for name, words in CONTROL_NETWORKS.items():
        aucs = [block(each.numbers, "controls", name, "auc") for each in singles]
        aucs = [auc for auc in aucs if bounded(auc)]
        if aucs:
            after = _ONE_SHUFFLE if "labels" in name else ""
            odd = sum(not auc["low"] <= 0.5 <= auc["high"] for auc in aucs)
            yield (
                f"AUC with {words}: {interval(network_mean(aucs))} on average; the interval of "
                f"{odd} of {plural(len(aucs), 'network')} does not contain 0.5{after}."
            )
    angles = [block(each.numbers, "controls", "two_seeds", "angle") for each in singles]
    angles = [angle for angle in angles if bounded(angle)]
    if angles:
        yield (
            f"Two trainings that differ in the seed have one image's eigenspaces "
            f"{spread([angle['value'] for angle in angles])}° apart "
            f"({plural(len(angles), 'network')})."
        )
    tops = [rows[-1] for each in singles if (rows := block(each.numbers, "controls", "layers"))]
    turned = [top["angle"]["value"] for top in tops if bounded(top.get("angle"))]
    if turned:
        yield (
            f"With {spread([100 * top['share'] for top in tops])} % of the parameters randomised "
            f"one image's eigenspace has turned by {spread(turned)}° "
            f"({plural(len(turned), 'network')})."
        )
    exact = [a for each in singles if (a := block(each.numbers, "controls", "float64", "angle"))]
    if exact:
        yield f"Between float32 and float64 it turns by at most {number(max(exact))}° (median)."
