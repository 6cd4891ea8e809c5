"""What follows from the numbers, sentence by sentence, also where the answer is no.

A case counts as higher or lower where the interval of the difference, from the same trainings and
images, does not contain 0, and as undecided where it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from monai_ifim.report.results.measured import block
from monai_ifim.report.results.numbers import spread
from monai_ifim.report.trainings.blocks import METRICS, Block

Get = Callable[[Block], Any]


def findings(blocks: Sequence[Block]) -> Iterator[str]:
    """Sentences about networks above the bar.

    Args:
        blocks: all of them.

    Yields:
        One sentence or two a finding.
    """
    good = [each for each in blocks if each.competent and len(each.trainings) > 1]
    known = [each for each in good if each.numbers["template"]]
    if known:
        yield _known_answer(known)
    if good:
        yield _pixels(good)
        yield _weights(good)
        yield _baseline(good)
    yield from _smoothing(good)
    moved = [each for each in good if each.numbers["moves"]]
    if moved:
        yield _moves(moved)


def drift_findings(drift: dict[str, Any]) -> Iterator[str]:
    """What the angles of ``benchmarks.drift`` say, after low-pass filtering.

    Args:
        drift: of ``drift.json``.

    Yields:
        A sentence for the leading direction and one for all K - 1: the angles, and how many of each
        kind are above those of two halves of the images (their intervals do not overlap).
    """
    tables = [network["angles"]["low_pass"] for network in drift["networks"].values()]
    halves = "other half of the images"
    for words, rows in (
        ("leading direction", [table["1"] for table in tables]),
        ("largest angle of K - 1 directions", [table[max(table, key=int)] for table in tables]),
    ):
        parts = [f"two halves of the images differ by {_angles(rows, halves)}"]
        for kind in rows[0]:
            if kind != halves:
                above = sum(row[kind]["low"] > row[halves]["high"] for row in rows)
                parts.append(f"{kind} {_angles(rows, kind)}, in {above} of {len(rows)} above that")
        yield f"**Drift, {words}**, low-pass filtered: {'; '.join(parts)}."


def _angles(rows: Sequence[dict[str, Any]], kind: str) -> str:
    return f"{spread([row[kind]['value'] for row in rows])}°"


def verdict(differences: Sequence[Any]) -> tuple[int, int, int]:
    """How many of the differences are above 0, below, or undecided."""
    above = sum(each["low"] > 0 for each in differences)
    below = sum(each["high"] < 0 for each in differences)
    return above, below, len(differences) - above - below


def _counted(differences: Sequence[Any], than: str) -> str:
    above, below, undecided = verdict(differences)
    return (
        f"higher than {than} in {above} of {len(differences)} cases, lower in {below}, undecided "
        f"in {undecided}"
    )


def _cosine(kind: str) -> Get:
    return lambda each: block(each.numbers, "template", "cosine", "pixels", kind)


def _agreement(metric: str, kind: str) -> Get:
    def get(each: Block) -> Any:
        found = each.numbers["agreement"][metric]
        return (found.get("all") or found["leading"])[kind]

    return get


def _less(blocks: Sequence[Block], kind: str) -> list[Any]:
    """How much higher the agreement of unit traces is than another, after low-pass filtering."""
    return [_agreement("low_pass", "unit_trace_less")(each)[kind] for each in blocks]


def _values(blocks: Sequence[Block], get: Get) -> str:
    return spread([get(each)["value"] for each in blocks])


def _known_answer(blocks: Sequence[Block]) -> str:
    random = [each.numbers["untrained_template"]["pixels"]["unit_trace"] for each in blocks]
    less = [each.numbers["template"]["unit_trace_less"]["single"] for each in blocks]
    return (
        f"**The known answer.** Cosine with the known template: of single images "
        f"{_values(blocks, _cosine('single'))}, smoothed {_values(blocks, _cosine('smoothed'))}, "
        f"pooled {_values(blocks, _cosine('unit_trace'))}; of random weights pooled "
        f"{spread([each['value'] for each in random])}. Pooled is {_counted(less, 'single')}."
    )


def _pixels(blocks: Sequence[Block]) -> str:
    parts = [
        f"{words} {_values(blocks, _agreement(metric, 'unit_trace'))} (single images "
        f"{_values(blocks, _agreement(metric, 'single'))}; two networks of random weights "
        f"{_values(blocks, _agreement(metric, 'random_weights'))})"
        for metric, words in METRICS.items()
    ]
    return (
        f"**What two trainings share.** Mean cos² of their pooled eigenspaces, in "
        f"{'; in '.join(parts)}. After low-pass filtering, pooled is "
        f"{_counted(_less(blocks, 'single'), 'single')}."
    )


def _weights(blocks: Sequence[Block]) -> str:
    shares = [
        each.trainings[0]["pooled"]["equal"]["effective_count"] / each.numbers["images"]
        for each in blocks
    ]
    return (
        f"**Unit traces against equal weights.** Agreement after low-pass filtering is with unit "
        f"traces {_counted(_less(blocks, 'equal'), 'with equal weights')}. With equal weights "
        f"{spread(shares)} of the images count."
    )


def _baseline(blocks: Sequence[Block]) -> str:
    counts = _counted(_less(blocks, "mean_jacobian"), "its own")
    return (
        f"**The mean Jacobian, the baseline.** Pooled eigenspaces have an agreement after low-pass "
        f"filtering that is {counts}."
    )


def _smoothing(blocks: Sequence[Block]) -> Iterator[str]:
    for words, some in (
        ("two classes", [b for b in blocks if b.numbers["directions"] == 1]),
        ("more classes", [b for b in blocks if b.numbers["directions"] > 1]),
    ):
        if some:
            yield (
                f"**Smoothing, {words}.** Agreement after low-pass filtering: single images "
                f"{_values(some, _agreement('low_pass', 'single'))}, smoothed "
                f"{_values(some, _agreement('low_pass', 'smoothed'))}. Pooled (unit traces) is "
                f"{_counted(_less(some, 'smoothed'), 'smoothed')}."
            )


def _moves(blocks: Sequence[Block]) -> str:
    def times(name: str) -> str:
        return spread(
            [
                each.numbers["moves"]["ratios"]["own"]["value"]
                / each.numbers["moves"]["ratios"][name]["value"]
                for each in blocks
            ]
        )

    return (
        f"**The image's own direction** moves the prediction {times('pooled')} times as much (KL "
        f"at equal norm) as the pooled one, {times('other_own')} times as much as another "
        "training's own at the same image."
    )
