"""What is asked of several trainings, and what their numbers say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from monai_ifim.report.evidence.blocks import Block
from monai_ifim.report.evidence.comparisons import (
    geometric_mean,
    inverse,
    logarithm,
    network_mean,
    shifted,
)
from monai_ifim.report.evidence.finding import Case, Finding
from monai_ifim.report.results.measured import Interval, Result, block, bounded
from monai_ifim.report.results.numbers import interval, listed, number, plural, spread

Get = Callable[[Block], Any]


def findings(blocks: Sequence[Block]) -> Iterator[Finding]:
    """What follows from networks above the bar.

    Args:
        blocks: that count, see ``counted``.

    Yields:
        One finding for each question that was measured.
    """
    clinical = [each for each in blocks if not each.numbers["template"]]
    exact = [each for each in blocks if _exact(each)]
    if clinical:
        yield _pixels(clinical, [each for each in blocks if each.numbers["template"]])
    if blocks:
        yield _baseline(blocks)
    if exact:
        yield _known_answer(exact)
    if blocks:
        yield _shared(blocks)


def _exact(each: Block) -> bool:
    """Whether the template of its task is the ideal observer's."""
    return bool(block(each.result, "task", "known_answer") == "exact")


def told(finding: Finding, answer: str, words: str) -> Finding:
    """The finding with a further sentence, where this is its answer."""
    given = finding.tally.answer == answer
    return replace(finding, text=f"{finding.text} {words}") if given else finding


def average(blocks: Sequence[Block], get: Get) -> str:
    """Mean of cosines or their squares over the networks that have the number."""
    found = [each for each in map(get, blocks) if bounded(each)]
    return interval(network_mean(found, (0.0, 1.0))) if found else "not measured"


def cosine(kind: str, *, of: str = "cosine") -> Get:
    """Cosine with the template in pixels."""
    return lambda each: block(each.numbers, "template", of, "pixels", kind)


def agreement(metric: str, *kind: str) -> Get:
    """Mean cos² between two trainings, of all K - 1 directions."""

    def get(each: Block) -> Any:
        found = each.numbers["agreement"][metric]
        return block(found.get("all") or found["leading"], *kind)

    return get


def _cases(blocks: Sequence[Block], get: Get) -> list[Case]:
    return [Case(each, found) for each in blocks if bounded(found := get(each))]


def _known_answer(blocks: Sequence[Block]) -> Finding:
    untrained = average(
        blocks, lambda each: block(each.numbers, "untrained_template", "pixels", "unit_trace")
    )
    return Finding(
        "Does the eigenspace pooled over many images find the known answer better than that of one "
        "image?",
        _cases(blocks, lambda each: block(each.numbers, "template", "unit_trace_less", "single")),
        f"Cosine with the ideal template: one image {average(blocks, cosine('single'))}, pooled "
        f"{average(blocks, cosine('unit_trace'))}, mean Jacobian, without F, "
        f"{average(blocks, cosine('mean_jacobian'))}, random weights pooled {untrained}.",
        "Pooled less one image",
    )


def answer_findings(blocks: Sequence[Block]) -> Iterator[Finding]:
    """Whether F finds the known answer better than the gradients alone, where it is exact."""
    exact = [each for each in blocks if _exact(each)]
    rival = ("template", "unit_trace_less", "mean_jacobian")
    cases = _cases(exact, lambda each: block(each.numbers, *rival))
    if cases:
        yield Finding(
            "Does the pooled eigenspace find the known answer better than the mean Jacobian "
            "(without F)?",
            cases,
            f"Cosine with the ideal template: {average(exact, cosine('unit_trace'))} against "
            f"{average(exact, cosine('mean_jacobian'))}.",
            "Pooled less mean Jacobian",
        )


def _shared(blocks: Sequence[Block]) -> Finding:
    def get(kind: str) -> str:
        return average(blocks, agreement("low_pass", kind))

    alike = sum(
        agreement("low_pass", "random_weights")(each)["high"]
        >= agreement("low_pass", "unit_trace")(each)["value"]
        for each in blocks
    )
    return Finding(
        "Low-pass filtered, do trainings share more of the pooled eigenspace than of one image's?",
        _cases(blocks, agreement("low_pass", "unit_trace_less", "single")),
        f"Mean cos² between two trainings: one image {get('single')}, pooled {get('unit_trace')}, "
        f"two networks of random weights pooled {get('random_weights')}; of {alike} of "
        f"{plural(len(blocks), 'network')} their interval reaches the pooled value.",
        "Pooled less one image",
    )


def _pixels(clinical: Sequence[Block], known: Sequence[Block]) -> Finding:
    tasks = listed(list(dict.fromkeys(f"`{each.task}`{_size(each)}" for each in clinical)))
    other = average(known, agreement("pixels", "unit_trace")) if known else ""
    finding = Finding(
        "On clinical images, do two trainings share half of the eigenspace in single pixels?",
        _cases(clinical, lambda each: shifted(agreement("pixels", "unit_trace")(each), -0.5)),
        f"Mean cos² in pixels on {tasks}: one image "
        f"{average(clinical, agreement('pixels', 'single'))}, pooled "
        f"{average(clinical, agreement('pixels', 'unit_trace'))}"
        + (f" (pooled on tasks with a template: {other})" if other else "")
        + ".",
        "Pooled less one half",
    )
    return told(finding, "No", "No single pixel of such a map should be read.")


def _size(each: Block) -> str:
    """Of its images, in brackets."""
    shape = block(each.result, "task", "shape")
    return f" ({' × '.join(map(str, shape))})" if shape else ""


def _baseline(blocks: Sequence[Block]) -> Finding:
    return Finding(
        "Do trainings share more of the pooled eigenspace than of the mean Jacobian (without F)?",
        _cases(blocks, agreement("low_pass", "unit_trace_less", "mean_jacobian")),
        f"Mean cos², low-pass filtered: {average(blocks, agreement('low_pass', 'unit_trace'))} "
        f"against {average(blocks, agreement('low_pass', 'mean_jacobian'))}.",
        "Pooled less mean Jacobian",
    )


def moved_ratio(each: Block, name: str) -> Interval | None:
    """KL along a direction divided by that along the image's own one, at equal norm."""
    found = block(each.numbers, "moves", "own_ratios", name)
    return found if bounded(found) else None


def moves_findings(blocks: Sequence[Block]) -> Iterator[Finding]:
    """How far the pooled direction moves a prediction, where that was measured."""
    moved = [each for each in blocks if moved_ratio(each, "pooled")]
    if moved:
        yield _moves(moved, sum(bool(each.numbers["moves"]) for each in blocks) - len(moved))


def _moves(blocks: Sequence[Block], earlier: int) -> Finding:
    def times(name: str) -> str:
        found = [inverse(r) for each in blocks if (r := moved_ratio(each, name))]
        return f"{interval(geometric_mean(found))} times" if found else "not measured against"

    ratios = [(each, moved_ratio(each, "pooled")) for each in blocks]
    return Finding(
        "Does the pooled direction move an image's prediction as far as the image's own direction?",
        [Case(each, logarithm(ratio)) for each, ratio in ratios if ratio],
        f"At equal norm, KL along the image's own direction is {times('pooled')} that along the "
        f"pooled one, and {times('other_own')} that along another training's own direction at the "
        "same image."
        + (f" Left out: {plural(earlier, 'network')} of an earlier version." if earlier else ""),
        "Pooled divided by own",
        ratio=True,
    )


def picture_sentence(blocks: Sequence[Block]) -> str:
    """How much the trainings of the networks in the pictures share, without the filter and with."""
    parts = []
    for task in dict.fromkeys(each.task for each in blocks):
        some = [each for each in blocks if each.task == task]
        raw, filtered = (
            average(some, agreement(metric, "unit_trace")) for metric in ("pixels", "low_pass")
        )
        parts.append(f"`{task}` {raw} in pixels, {filtered} filtered")
    return f"Mean cos² of the pooled ones of the networks shown: {'; '.join(parts)}."


def enough_images(blocks: Sequence[Block]) -> str:
    """How many pooled images bring nine tenths of what pooling all of them brings."""
    needed = []
    for each in blocks:
        rows = block(each.numbers, "template", "by_count") or []
        if len(rows) > 1:
            first, last = (rows[i]["unit_trace"]["value"] for i in (0, -1))
            reached = [
                row["images"]
                for row in rows
                if row["unit_trace"]["value"] - first >= 0.9 * (last - first)
            ]
            needed.append(reached[0])
    if not needed:
        return ""
    return (
        f"Nine tenths of what all images together add to one image are reached with "
        f"{_range(needed)} images."
    )


def smoothing(blocks: Sequence[Block]) -> Iterator[str]:
    """Whether smoothing does what pooling does, by the number of classes."""
    for words, some in (
        ("two classes", [b for b in blocks if b.numbers["directions"] == 1]),
        ("more classes", [b for b in blocks if b.numbers["directions"] > 1]),
    ):
        if some:
            yield (
                f"With {words} ({plural(len(some), 'network')}) low-pass filtered agreement is "
                f"{average(some, agreement('low_pass', 'single'))} for one image, "
                f"{average(some, agreement('low_pass', 'smoothed'))} smoothed and "
                f"{average(some, agreement('low_pass', 'unit_trace'))} pooled."
            )


def untrained_agreement(blocks: Sequence[Block]) -> str:
    """The network whose random weights agree most: what agreement alone does not show."""
    found = {
        each.label: value
        for each in blocks
        if bounded(value := agreement("low_pass", "random_weights")(each))
    }
    if not found:
        return ""
    most = max(found, key=lambda label: found[label]["value"])
    return (
        f"Networks of random weights agree most for {most}: {interval(found[most])}; where that is "
        "high, agreement is no evidence of learning."
    )


def trained_twice(blocks: Sequence[Block]) -> str:
    """How many networks have a single pair of trainings, and what that means."""
    twice = sum(len(each.trainings) == 2 for each in blocks)
    if not twice:
        return ""
    return (
        f"Trained twice: {plural(twice, 'network')} of {len(blocks)}; what their trainings share "
        "is that of one pair, with an interval over images alone."
    )


def weighting(blocks: Sequence[Block]) -> str:
    """Unit traces against equal weights."""
    shares = [
        training["pooled"]["equal"]["effective_count"] / each.numbers["images"]
        for each in blocks
        for training in each.trainings
    ]
    return (
        f"With equal weights only {spread([100 * s for s in shares])} % of the images count; "
        f"agreement is {average(blocks, agreement('low_pass', 'equal'))} then, "
        f"{average(blocks, agreement('low_pass', 'unit_trace'))} with unit traces."
    )


def other_architectures(results: Sequence[Result]) -> str:
    """Agreement between trainings of different networks, low-pass filtered and pooled.

    These pairs are of all networks of a task, whether above the bar or not.
    """
    found: list[Interval] = []
    for result in results:
        kinds = block(result, "across", "low_pass")
        if kinds:
            found += (kinds.get("all") or kinds["leading"])["unit_trace"]
    if not found:
        return ""
    values = [each["value"] for each in found]
    return (
        f"Pooled eigenspaces of different architectures agree by {spread(values)} ({len(values)} "
        "pairs, whether above the bar or not)."
    )


def moved_sentence(blocks: Sequence[Block]) -> str:
    """How far each direction moves the prediction, against random ones."""
    parts = []
    for name, words in (
        ("own", "the image's own direction"),
        ("pooled", "the pooled one"),
        ("mean_jacobian", "the mean Jacobian"),
        ("class_means", "the difference of the class means"),
        ("complement", "the rest of the image, x_o"),
    ):
        found = [block(each.numbers, "moves", "ratios", name) for each in blocks]
        found = [each for each in found if bounded(each)]
        if found:
            parts.append(f"{words} {interval(geometric_mean(found))}")
    return f"Geometric means over {plural(len(blocks), 'network')}: {listed(parts)}."


def drift_sentences(drift: dict[str, Any]) -> Iterator[str]:
    """What the angles of ``benchmarks.drift`` say, after low-pass filtering.

    Args:
        drift: of ``drift.json``.

    Yields:
        A sentence: the angles of the leading direction, and how many of each kind are above those
        of two halves of the images (their intervals do not overlap).
    """
    tables = [network["angles"]["low_pass"]["1"] for network in drift["networks"].values()]
    halves = "other half of the images"
    parts = []
    for kind in tables[0]:
        if kind != halves:
            above = sum(row[kind]["low"] > row[halves]["high"] for row in tables)
            parts.append(f"{kind} {_angles(tables, kind)} ({above} of {len(tables)} above that)")
    yield f"Two halves of the images differ by {_angles(tables, halves)}; {'; '.join(parts)}."


def _angles(rows: Sequence[dict[str, Any]], kind: str) -> str:
    return f"{spread([row[kind]['value'] for row in rows])}°"


def _range(values: Sequence[int]) -> str:
    low, high = number(min(values)).split(".")[0], number(max(values)).split(".")[0]
    return low if low == high else f"{low} to {high}"
