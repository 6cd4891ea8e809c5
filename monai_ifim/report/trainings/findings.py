"""What follows from the numbers, sentence by sentence, also where the answer is no.

A block counts as higher or lower where its two intervals do not overlap, and as undecided where
they do.
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
    good = [each for each in blocks if each.competent]
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


def verdict(blocks: Sequence[Block], first: Get, second: Get) -> tuple[int, int, int]:
    """In how many blocks the first figure is higher, lower, or undecided."""
    higher = lower = 0
    for each in blocks:
        a, b = first(each), second(each)
        higher += a["low"] > b["high"]
        lower += a["high"] < b["low"]
    return higher, lower, len(blocks) - higher - lower


def _counted(blocks: Sequence[Block], first: Get, second: Get) -> str:
    higher, lower, undecided = verdict(blocks, first, second)
    return f"higher in {higher} of {len(blocks)} cases, lower in {lower}, undecided in {undecided}"


def _cosine(kind: str) -> Get:
    return lambda each: block(each.numbers, "template", "cosine", "pixels", kind)


def _agreement(metric: str, kind: str) -> Get:
    def get(each: Block) -> Any:
        found = each.numbers["agreement"][metric]
        return (found.get("all") or found["leading"])[kind]

    return get


def _values(blocks: Sequence[Block], get: Get) -> str:
    return spread([get(each)["value"] for each in blocks])


def _known_answer(blocks: Sequence[Block]) -> str:
    single, pooled = _cosine("single"), _cosine("unit_trace")
    random = [
        each.numbers["untrained_template"]["pixels"]["unit_trace"]["value"] for each in blocks
    ]
    return (
        f"**Pooled is nearer to the known answer.** Its cosine with the ideal template is "
        f"{_values(blocks, pooled)}, that of single images {_values(blocks, single)}: "
        f"{_counted(blocks, pooled, single)}. Random weights pooled: {spread(random)}."
    )


def _pixels(blocks: Sequence[Block]) -> str:
    parts = [
        f"{words} {_values(blocks, _agreement(metric, 'unit_trace'))} (single images "
        f"{_values(blocks, _agreement(metric, 'single'))}; two networks of random weights "
        f"{_values(blocks, _agreement(metric, 'random_weights'))})"
        for metric, words in METRICS.items()
    ]
    counts = _counted(
        blocks, _agreement("low_pass", "unit_trace"), _agreement("pixels", "unit_trace")
    )
    return (
        f"**Two trainings share more after filtering than in pixels.** Mean cos² of pooled "
        f"eigenspaces of two trainings, in {'; in '.join(parts)}. After low-pass filtering it is "
        f"{counts}. Do not read single pixels of a pooled eigenvector."
    )


def _weights(blocks: Sequence[Block]) -> str:
    counts = _counted(blocks, _agreement("low_pass", "unit_trace"), _agreement("low_pass", "equal"))
    shares = [
        each.trainings[0]["pooled"]["equal"]["effective_count"] / each.numbers["images"]
        for each in blocks
    ]
    return (
        f"**Unit traces against equal weights.** The agreement after low-pass filtering is with "
        f"unit traces {counts}. With equal weights {spread(shares)} of the images count."
    )


def _baseline(blocks: Sequence[Block]) -> str:
    counts = _counted(
        blocks, _agreement("low_pass", "unit_trace"), _agreement("low_pass", "mean_jacobian")
    )
    return (
        f"**The mean Jacobian is the baseline.** Against it, the agreement of the pooled "
        f"eigenspaces after low-pass filtering is {counts}."
    )


def _smoothing(blocks: Sequence[Block]) -> Iterator[str]:
    for words, some in (
        ("two classes", [b for b in blocks if b.numbers["directions"] == 1]),
        ("more classes", [b for b in blocks if b.numbers["directions"] > 1]),
    ):
        if some:
            counts = _counted(
                some, _agreement("low_pass", "smoothed"), _agreement("low_pass", "single")
            )
            yield (
                f"**Smoothing, {words}.** Against single images, the agreement of smoothed "
                f"eigenspaces after low-pass filtering is {counts}."
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
        f"**The image's own direction moves the prediction most**: {times('pooled')} times as much "
        f"(KL at equal norm) as the pooled one, {times('other_own')} times as much as another "
        "training's own."
    )
