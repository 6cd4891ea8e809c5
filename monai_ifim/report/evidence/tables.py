"""The tables of several trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_ifim.report.evidence.blocks import KINDS, METRICS, Block
from monai_ifim.report.evidence.comparisons import adjusted, power
from monai_ifim.report.evidence.finding import Finding
from monai_ifim.report.markdown import table
from monai_ifim.report.results.measured import Bar, Result, block, network_name
from monai_ifim.report.results.numbers import ABSENT, count, interval, number, percent

MOVES = {
    "own": "own, of this image",
    "other_own": "another training's own",
    "pooled": "pooled",
    "other_pooled": "another training's pooled",
    "mean_jacobian": "mean Jacobian",
    "class_means": "difference of class means",
    "complement": "orthogonal component",
}


def bar_words(bar: Bar) -> str:
    """What it is of, and how much.

    >>> bar_words(Bar("auc", 0.95))
    'AUC 0.950'
    """
    return f"{'AUC' if bar.score == 'auc' else bar.score} {number(bar.least)}"


def network_table(blocks: Sequence[Block]) -> str:
    """How good the networks are, beside the bar, the largest class and chance."""
    rows = []
    for each in blocks:
        task = each.result["task"]
        auc = f"{number(each.mean('auc'))} ({_range([t['auc'] for t in each.trainings])})"
        shares = (task["majority"], 1 / len(task["classes"]))
        guess = ", ".join(percent(round(share, 3)) for share in shares)
        bar = bar_words(each.bar) if each.bar else "none"
        rows.append([*_who(each), auc, bar, number(each.mean("accuracy")), guess])
    header = ["Task", "Network", "Images seen", "Trainings", "AUC (range)", "bar"]
    return table([*header, "accuracy", "largest class, chance"], rows)


def recipe_table(blocks: Sequence[Block]) -> str:
    """How the networks were trained, where it differs."""
    rows = []
    for each in blocks:
        recipe = each.numbers["recipe"]
        rows.append(
            [
                *_who(each),
                count(each.numbers["width"]),
                "" if each.max_pool else "no first max-pooling",
                count(recipe["batch_size"]),
                f"{recipe['learning_rate']:g}",
                percent(recipe["warm_up"]),
                "augmented" if recipe.get("augmented") else "",
                f"{each.strength:g}",
            ]
        )
    header = ["Task", "Network", "Images seen", "Trainings", "width, if not the usual", "network"]
    return table(
        [*header, "batch size", "learning rate", "warm-up", "images", "signals at first, times"],
        rows,
    )


def finding_table(findings: Sequence[Finding]) -> str:
    """Every comparison behind the findings."""
    rows = []
    for each in findings:
        shown = [power(c.difference) if each.ratio else c.difference for c in each.cases]
        corrected = adjusted([case.difference for case in each.cases])
        for case, found, p in zip(each.cases, shown, corrected, strict=True):
            name = f"`{case.who.task}`, {case.who.name}"
            trained = str(len(case.who.trainings)) if each.trained else "none"
            rows.append([each.quantity, name, trained, interval(found), _small(p)])
    return table(["Comparison", "Network", "Trainings", "Value", "p, corrected"], rows)


def answer_table(blocks: Sequence[Block]) -> str:
    """Cosine with the ideal template, of networks whose task has one."""
    rows = [
        [
            *_who(each),
            *(
                interval(block(each.numbers, "template", "cosine", "pixels", kind))
                for kind in KINDS
            ),
            interval(block(each.numbers, "untrained_template", "pixels", "unit_trace")),
        ]
        for each in blocks
        if each.numbers["template"]
    ]
    header = ["Task", "Network", "Images seen", "Trainings", *KINDS.values()]
    return table([*header, "random weights, pooled"], rows)


def count_table(blocks: Sequence[Block]) -> str:
    """Cosine with the template by the number of pooled images (unit traces)."""
    shown = [each for each in blocks if each.numbers["template"]]
    counts = sorted(
        {row["images"] for each in shown for row in each.numbers["template"]["by_count"]}
    )
    rows = []
    for each in shown:
        found = {row["images"]: row for row in each.numbers["template"]["by_count"]}
        cells = [number(block(found.get(n), "unit_trace", "value")) for n in counts]
        rows.append([*_who(each), *cells])
    header = ["Task", "Network", "Images seen", "Trainings"]
    return table([*header, *map(str, counts)], rows)


def agreement_table(blocks: Sequence[Block], metric: str, ranks: str) -> str:
    """Agreement between trainings of one network in one metric.

    Args:
        blocks: of networks.
        metric: in ``METRICS``.
        ranks: ``leading`` or ``all``.

    Returns:
        The table; for two classes both are the same.
    """
    rows = []
    for each in blocks:
        found = each.numbers["agreement"][metric]
        cells = found.get(ranks) or found["leading"]
        controls = [cells["random_weights"], cells["to_random_weights"]]
        rows.append(
            [*_who(each), *(interval(cells.get(k)) for k in KINDS), *map(interval, controls)]
        )
    header = ["Task", "Network", "Images seen", "Trainings", *KINDS.values()]
    return table([*header, "two of random weights", "to random weights"], rows)


def across_table(results: Sequence[Result]) -> str:
    """Agreement between trainings of different networks."""
    rows = []
    for result in results:
        found = result.get("across")
        if not found:
            continue
        names = [network_name(name) for name in found["networks"]]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        ranks = "all" if "all" in found["pixels"] else "leading"
        for i, (first, second) in enumerate(pairs):
            for metric, words in METRICS.items():
                kinds = found[metric][ranks]
                cells = [interval(kinds[k][i]) if k in kinds else ABSENT for k in KINDS]
                rows.append([_short(result), f"{first} – {second}", words, *cells])
    return table(["Task", "Networks", "Compared in", *KINDS.values()], rows)


def moves_table(blocks: Sequence[Block]) -> str:
    """KL along directions of equal norm, relative to random ones."""
    rows = [
        [
            *_who(each),
            *(interval(block(each.numbers, "moves", "ratios", name)) for name in MOVES),
        ]
        for each in blocks
        if each.numbers["moves"]
    ]
    return table(["Task", "Network", "Images seen", "Trainings", *MOVES.values()], rows)


def pooled_table(blocks: Sequence[Block]) -> str:
    """How many images count, and how many directions are stable."""
    rows = []
    for each in blocks:
        unit, equal = ([t["pooled"][w] for t in each.trainings] for w in ("unit_trace", "equal"))
        rows.append(
            [
                *_who(each),
                count(each.numbers["images"]),
                _range([entry["effective_count"] for entry in equal]),
                _range([entry["shares"][0] for entry in unit]),
                _counts([entry["stable_rank"] for entry in unit]),
                str(each.numbers["directions"]),
                f"{number(max(entry['angle_to_resampled'] for entry in [*unit, *equal]))}°",
            ]
        )
    header = ["Task", "Network", "Images seen", "Trainings", "Images pooled"]
    return table(
        [
            *header,
            "effective, equal weights",
            "share of the first direction",
            "stable",
            "K − 1",
            "sketch",
        ],
        rows,
    )


def drift_table(drift: dict[str, Any], metric: str) -> str:
    """Angles between pooled eigenspaces of checkpoints and preprocessings."""
    rows = []
    for name, network in drift["networks"].items():
        for rank, angles in network["angles"][metric].items():
            cells = [interval(angle, "°") for angle in angles.values()]
            rows.append([name, str(network["pooled_images"]), rank, *cells])
    kinds = next(iter(drift["networks"].values()))["angles"][metric]["1"]
    return table(["Bundle's network", "Images", "Directions", *kinds], rows)


def _small(p: float) -> str:
    """A p-value, whose further digits an approximation does not give."""
    return number(p) if p >= 0.001 else "< 0.001"


def _who(each: Block) -> list[str]:
    return [_short(each.result), each.name, count(each.seen), str(len(each.trainings))]


def _short(result: Result) -> str:
    return f"`{result['task']['name']}`"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _counts(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
