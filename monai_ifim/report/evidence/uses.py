"""What the method is good for: the blocks ``uses`` and ``labelling`` of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from monai_ifim.report.evidence.blocks import Block
from monai_ifim.report.evidence.comparisons import network_mean, together
from monai_ifim.report.evidence.figures import Panel, stacked
from monai_ifim.report.evidence.finding import Case, Finding
from monai_ifim.report.results.measured import Interval, Result, block, bounded
from monai_ifim.report.results.numbers import interval, listed, plural, spread
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
CHOICES = ("entropy", "random")  # of images to label, without F
_WITHOUT_F = {"flip_distance": " (gradients, not F)"}
_SHARE = (0.0, 1.0)
_CORRELATION = (-1.0, 1.0)

Get = Callable[[dict[str, Any]], Any]  # a number of a case
Row = tuple[str, Block, Interval]  # score, network, number


class Kind(NamedTuple):
    """What is to be found.

    Attributes:
        words: for people.
        absent: why a network has none.
    """

    words: str
    absent: str


KINDS = {
    "wrong": Kind("wrong predictions", "with fewer than 5 wrong or 5 correct ones in a training"),
    "corrupted": Kind("corrupted images", "without such images"),
    "foreign": Kind("foreign images", "without such images"),
}


def use_findings(blocks: Sequence[Block], results: Sequence[Result]) -> Iterator[Finding]:
    """What the method finds, predicts and chooses, against baselines.

    Every network gives one difference to a finding: of our score with the highest mean over the
    networks, less the best that there is without it for that network.

    Args:
        blocks: that count; those without ``uses`` are left out.
        results: all experiments of several trainings, for ``labelling``.

    Yields:
        One finding for each kind of thing to be found, for the smallest norms, for labelling.
    """
    used = [each for each in blocks if block(each.numbers, "uses")]
    for kind in KINDS:
        yield from _found(used, kind)
    earlier = [e for e in used if block(e.numbers, "uses", "flips") and not _flips(e)]
    yield from _smallest_norm([each for each in used if _flips(each)], len(earlier))
    yield from _labelling(list(_labelled(results)))


def _auc(score: str) -> Get:
    return lambda case: block(case, "auc", score)


def _less(score: str) -> Get:
    return lambda case: block(case, "above_best_baseline", score)


def _baseline(score: str) -> Get:
    """The AUC of the baseline that a score of ours was compared with."""
    return lambda case: block(case, "auc", block(_less(score)(case), "baseline"))


def _per_network(each: Block, kind: str, get: Get) -> Interval | None:
    """One number for a network: the mean over its cases of a kind, as if they varied together."""
    cases = block(each.numbers, "uses", "cases") or []
    found = [get(case) for case in cases if case["kind"] == kind]
    found = [number for number in found if bounded(number)]
    return together(found) if found else None


def _best(rows: Sequence[Row]) -> str:
    """Whose mean over the networks is the highest; of equal ones the first."""
    values: dict[str, list[float]] = {}
    for name, _, found in rows:
        values.setdefault(name, []).append(found["value"])
    return max(values, key=lambda name: fmean(values[name]))


def _found(used: Sequence[Block], kind: str) -> Iterator[Finding]:
    words, absent = KINDS[kind]
    ours: list[Row] = [
        (score, each, found)
        for score in OWN
        for each in used
        if (found := _per_network(each, kind, _less(score)))
    ]
    if not ours:
        return
    score = _best(ours)
    asked = {each: found for name, each, found in ours if name == score}
    own, rival = (
        interval(
            network_mean(
                [n for each in asked if (n := _per_network(each, kind, get(score)))], _SHARE
            )
        )
        for get in (_auc, _baseline)
    )
    left = len(used) - len(asked)
    rows = stacked([(name, id(each), less) for name, each, less in ours])
    others = {
        name: f"{style(name).label} {interval(network_mean(list(found.values())))}"
        for name, found in rows.items()
        if name != score
    }
    yield Finding(
        f"Do our scores find {words} better than the best of {len(BASELINES)} baselines?",
        [Case(each, found) for each, found in asked.items()],
        f"AUC, mean over networks: {style(score).label}, best of ours, {own}; best baseline in "
        f"each case, chosen on the same images, {rival}."
        + (
            f" The same difference of the others: {listed(list(others.values()))}."
            if others
            else ""
        )
        + (f" Left out: {plural(left, 'network')} {absent}." if left else ""),
        f"AUC for {words}, {style(score).label}{_WITHOUT_F.get(score, '')} less best baseline",
        beside=others.get("trace", ""),
    )


def _flips(each: Block) -> Any:
    """What predicts the smallest change; None where the search had started from the predictor."""
    found = block(each.numbers, "uses", "flips")
    return found if block(found, "search") else None


def _correlations(blocks: Sequence[Block]) -> list[Row]:
    """Of every predictor with the smallest norm."""
    return [
        (name, each, found)
        for name in PREDICTORS
        for each in blocks
        if bounded(found := block(_flips(each), "spearman", name))
    ]


def _smallest_norm(blocks: Sequence[Block], earlier: int) -> Iterator[Finding]:
    rows = _correlations(blocks)
    cases = [Case(each, _flips(each)["above"][rival]) for each in blocks if (rival := _rival(each))]
    if not cases:
        return
    means = [
        f"{style(name).label} {interval(network_mean(list(found.values()), _CORRELATION))}"
        for name, found in stacked([(name, id(each), found) for name, each, found in rows]).items()
    ]
    left = len(blocks) - len(cases)
    yield Finding(
        "Does the flip distance predict the smallest change to another answer best?",
        cases,
        "Rank correlation with the smallest norm that a search found (for "
        f"{spread([100 * _flips(each)['found'] for each in blocks])} % of the images): "
        f"{listed(means)}."
        + (f" Left out: {plural(left, 'network')} with fewer than 5 found." if left else "")
        + (f" Left out: {plural(earlier, 'network')} of an earlier search." if earlier else "")
        + f" The flip distance takes the gradients alone, not F. "
        f"{listed(sorted({str(_flips(each)['images']) for each in blocks}))} images a task.",
        "Flip distance less the best other predictor of each network",
        beside=_less_trace(blocks),
    )


def _less_trace(blocks: Sequence[Block]) -> str:
    """What the flip distance is ahead of F itself."""
    found = [n for each in blocks if bounded(n := block(_flips(each), "above", "trace"))]
    return f"less the trace of F {interval(network_mean(found))}" if found else ""


def _rival(each: Block) -> str:
    """The best other predictor of a network's smallest norms; empty where there is none."""
    found = {
        name: block(_flips(each), "spearman", name)
        for name in PREDICTORS
        if bounded(block(_flips(each), "above", name))
    }
    return max(found, key=lambda name: found[name]["value"]) if found else ""


def _labelled(results: Sequence[Result]) -> Iterator[tuple[Block, dict[str, Any]]]:
    """What labelling was tried with; with its few labels no bar is asked for."""
    for result in results:
        labelling = result.get("labelling")
        if labelling:
            numbers = {"trainings": [{}] * labelling["trainings"], "recipe": {"images": 0}}
            yield Block(result, labelling["network"], numbers), labelling


def _choice(labelling: dict[str, Any]) -> str:
    """The better choice without F, after the first round, which all have in common."""

    def auc(name: str) -> float:
        rounds = labelling["auc"][name]
        return fmean(found["value"] for found in rounds[1:] or rounds)

    return max(CHOICES, key=auc)


def _labelling(tried: Sequence[tuple[Block, dict[str, Any]]]) -> Iterator[Finding]:
    rows: list[Row] = [
        (name, each, found)
        for name in OWN
        for each, labelling in tried
        if bounded(found := block(labelling, f"less_{_choice(labelling)}", name))
    ]
    if not rows:
        return
    best = _best(rows)
    texts = []
    for each, labelling in tried:
        last = {name: rounds[-1] for name, rounds in labelling["auc"].items() if rounds}
        aucs = [f"{_strategy(name)} {interval(found)}" for name, found in last.items()]
        texts.append(
            f"AUC with {labelling['labelled'][-1]} labelled images of `{each.task}` ({each.name}): "
            f"{listed(aucs)}; better of entropy and random on average over the rounds after the "
            f"first: {_strategy(_choice(labelling))}."
        )
    yield Finding(
        "Does labelling the images that our scores choose help more than random ones and those of "
        "the entropy?",
        [Case(each, found) for name, each, found in rows if name == best],
        f"{' '.join(texts)} No bar applies to networks trained on so few images.",
        f"Mean AUC after the first round, {style(best).label}, best of ours, less the better of "
        "both",
    )


def _strategy(name: str) -> str:
    return "at random" if name == "random" else style(name).label


def use_panels(blocks: Sequence[Block]) -> list[Panel]:
    """AUC of each score by kind, and how well they predict the smallest change."""
    panels = []
    for kind, (words, _) in KINDS.items():
        rows = [
            (score, each.label, found)
            for score in (*OWN, *BASELINES)
            for each in blocks
            if (found := _per_network(each, kind, _auc(score)))
        ]
        if rows:
            panels.append(Panel(f"AUC, {words}", stacked(rows), 0.5, limits=_SHARE))
    rows = [(name, each.label, found) for name, each, found in _correlations(blocks)]
    if rows:
        label = "rank correlation with the\nsmallest norm of a flip"
        panels.append(Panel(label, stacked(rows), limits=_CORRELATION))
    return panels


def flip_sentence(blocks: Sequence[Block]) -> str:
    """How small the smallest changes are."""
    found = [_flips(each) for each in blocks if bounded(block(_flips(each), "norm"))]
    if not found:
        return ""
    norms = spread([each["norm"]["value"] for each in found])
    return (
        f"The smallest change to another answer has {norms} of the image's norm (median over "
        f"images; {plural(len(found), 'network')})."
    )
