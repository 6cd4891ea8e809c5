"""What the method is good for: the blocks ``uses`` and ``labelling`` of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_ifim.report.evidence.blocks import Block
from monai_ifim.report.evidence.comparisons import mean, tally, together
from monai_ifim.report.evidence.figures import Panel, stacked
from monai_ifim.report.evidence.finding import Case, Finding
from monai_ifim.report.results.measured import Interval, Result, block, bounded
from monai_ifim.report.results.numbers import interval, listed, percent, spread
from monai_ifim.report.results.style import style

OWN = ("trace", "largest_eigenvalue", "flip_distance")
BASELINES = (
    "entropy",
    "uncertainty",
    "margin",
    "mahalanobis",
    "mean",
    "log_deviation",
    "log_gradient",
)
PREDICTORS = ("flip_distance", "largest_eigenvalue", "trace", "margin", "gradient_norm")
WORDS = {
    "wrong": "wrong predictions",
    "corrupted": "corrupted images",
    "foreign": "foreign images",
}


def use_findings(blocks: Sequence[Block], results: Sequence[Result]) -> Iterator[Finding]:
    """What the method finds, predicts and chooses, against baselines.

    Args:
        blocks: that count; those without ``uses`` are left out.
        results: all experiments of several trainings, for ``labelling``.

    Yields:
        One finding for each kind of thing to be found, for the smallest norms, for labelling.
    """
    cases = [
        Case(each, found, f"{kind} {score}")
        for kind in WORDS
        for each in blocks
        for score in OWN
        if (found := _per_network(each, kind, "above_best_baseline", score))
    ]
    if cases:
        yield _found(blocks, cases)
    flips = [
        Case(each, found, name)
        for each in blocks
        for name, found in (block(each.numbers, "uses", "flips", "above") or {}).items()
        if bounded(found)
    ]
    if flips:
        yield _smallest_norm([each for each in blocks if _flips(each)], flips)
    chosen = [
        Case(each, found, strategy)
        for each, labelling in _labelled(results)
        for strategy, found in (labelling.get("less_entropy") or {}).items()
        if strategy in OWN and bounded(found)
    ]
    if chosen:
        yield _labelling(chosen, results)


def _per_network(each: Block, kind: str, *keys: str) -> Interval | None:
    """One number for a network: the mean over its cases of a kind, as if they varied together."""
    cases = block(each.numbers, "uses", "cases") or []
    found = [block(case, *keys) for case in cases if case["kind"] == kind]
    found = [number for number in found if bounded(number)]
    return together(found) if found else None


def _found(blocks: Sequence[Block], cases: Sequence[Case]) -> Finding:
    texts = []
    for kind, words in WORDS.items():
        some = [case.difference for case in cases if case.what.startswith(kind)]
        if some:
            aucs = {score: _auc(blocks, kind, score) for score in (*OWN, *BASELINES)}
            own, best = (_best(aucs, scores) for scores in (OWN, BASELINES))
            texts.append(
                f"{words}: {tally(some).answer.lower()}, best of ours {own}, best baseline {best}"
            )
    return Finding(
        "Do our scores find wrong predictions, corrupted or foreign images better than the best of "
        f"{len(BASELINES)} baselines?",
        cases,
        f"AUC, mean over networks, of {'; of '.join(texts)}.",
        "Each of ours less the best baseline",
    )


def _auc(blocks: Sequence[Block], kind: str, score: str) -> Interval | None:
    found = [f for each in blocks if (f := _per_network(each, kind, "auc", score))]
    return mean(found) if found else None


def _best(aucs: dict[str, Interval | None], scores: Sequence[str]) -> str:
    """The largest of the means, and whose it is."""
    found = {name: auc for name in scores if (auc := aucs[name])}
    if not found:
        return "not measured"
    best = max(found, key=lambda name: found[name]["value"])
    return f"{style(best).label} {interval(found[best])}"


def _flips(each: Block) -> Any:
    return block(each.numbers, "uses", "flips")


def _smallest_norm(blocks: Sequence[Block], cases: Sequence[Case]) -> Finding:
    texts = []
    for name in PREDICTORS:
        found = [block(_flips(each), "spearman", name) for each in blocks]
        found = [number for number in found if bounded(number)]
        if found:
            texts.append(f"{style(name).label} {interval(mean(found))}")
    shares = spread([100 * _flips(each)["found"] for each in blocks])
    return Finding(
        "Does the flip distance predict the smallest change to another answer best?",
        cases,
        f"Rank correlation with the smallest norm that a search found (for {shares} % of the "
        f"images): {listed(texts)}.",
        "Flip distance less another predictor",
    )


def _labelled(results: Sequence[Result]) -> Iterator[tuple[Block, dict[str, Any]]]:
    """What labelling was tried with; with its few labels no bar is asked for."""
    for result in results:
        labelling = result.get("labelling")
        if labelling:
            numbers = {"trainings": [{}] * labelling["trainings"], "recipe": {"images": 0}}
            yield Block(result, labelling["network"], numbers), labelling


def _labelling(cases: Sequence[Case], results: Sequence[Result]) -> Finding:
    texts = []
    for who, labelling in _labelled(results):
        last = {name: rounds[-1] for name, rounds in labelling["auc"].items() if rounds}
        aucs = [f"{_strategy(name)} {interval(found)}" for name, found in last.items()]
        random = {n: f for n, f in (labelling.get("less_random") or {}).items() if bounded(f)}
        less = [f"{_strategy(name)} {interval(found)}" for name, found in random.items()]
        texts.append(
            f"AUC with {labelling['labelled'][-1]} labelled images of `{who.task}` ({who.name}): "
            f"{listed(aucs)}; mean over the rounds less that at random: {listed(less)}."
        )
    return Finding(
        "Does labelling the images that our scores choose help more than those of the entropy?",
        cases,
        " ".join(texts),
        "Mean AUC over the rounds, ours less the entropy's",
    )


def _strategy(name: str) -> str:
    return "at random" if name == "random" else style(name).label


def use_panels(blocks: Sequence[Block]) -> list[Panel]:
    """AUC of each score by kind, and how well they predict the smallest change."""
    panels = []
    for kind, words in WORDS.items():
        rows = [
            (score, each.label, found)
            for score in (*OWN, *BASELINES)
            for each in blocks
            if (found := _per_network(each, kind, "auc", score))
        ]
        if rows:
            panels.append(Panel(f"AUC, {words}", stacked(rows), 0.5))
    rows = [
        (name, each.label, found)
        for name in PREDICTORS
        for each in blocks
        if bounded(found := block(_flips(each), "spearman", name))
    ]
    if rows:
        panels.append(Panel("rank correlation with the\nsmallest norm of a flip", stacked(rows)))
    return panels


def flip_sentence(blocks: Sequence[Block]) -> str:
    """How small the smallest changes are."""
    parts = [
        f"{interval(_flips(each)['norm'])} of the image's norm for {each.label} (found for "
        f"{percent(_flips(each)['found'])})"
        for each in blocks
        if _flips(each)
    ]
    return f"Median smallest norm: {listed(parts)}." if parts else ""
