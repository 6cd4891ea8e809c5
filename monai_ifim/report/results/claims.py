"""What the numbers say, in sentences that follow from the intervals by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from monai_ifim.report.results.measured import (
    CONTROLS,
    Result,
    block,
    comparisons,
    known,
    map_methods,
    measured,
    network_name,
    networks_with,
    scaled,
)
from monai_ifim.report.results.numbers import (
    ABSENT,
    FAILS,
    HOLDS,
    UNDECIDED,
    compare,
    interval,
    listed,
    percent,
    spread,
    verdict,
)
from monai_ifim.report.results.tables import METHODS

KINDS = {
    "random": "random directions inside against outside the eigenspace",
    "attenuation": "attenuating the high component (x − αx_h) against the orthogonal one",
    "masks": "random directions inside the eigenspace against the pixels that attribution selects",
}


TOLERANCE = 0.1  # relative error of the quadratic law beyond which no identity decides


class Claim(NamedTuple):
    """One comparison: where it was made, its outcome, and whether the quadratic law fails there."""

    network: str
    at: str
    outcome: str
    beyond: bool | None


def claims(result: Result, kind: str) -> list[Claim]:
    """Whether changes of the eigenspace move the prediction more, at every network and norm.

    Args:
        result: of one experiment.
        kind: in ``KINDS``.

    Returns:
        One claim for each ratio that was measured; its outcome is that of ``verdict``.
    """
    found = [
        Claim(
            network,
            comparison.at,
            verdict(comparison.ratio),
            None if comparison.law is None else abs(comparison.law - 1) > TOLERANCE,
        )
        for network, part in networks_with(result, "perturbation").items()
        for comparison in comparisons(part, kind)
    ]
    return [claim for claim in found if claim.outcome != ABSENT]


def untaught_claims(result: Result) -> list[Claim]:
    """The claim for random directions at networks that have learned nothing."""
    return [
        Claim(network, comparison.at, outcome, None)
        for control in CONTROLS
        for network, part in networks_with(result, "controls", control).items()
        for comparison in comparisons(part, "random")
        if (outcome := verdict(comparison.ratio)) != ABSENT
    ]


def counted(outcomes: Iterable[str]) -> str:
    """How many comparisons hold, are undecided and fail.

    >>> counted(["holds", "holds", "fails"])
    'holds in 2 of 3 comparisons, is undecided in 0 and fails in 1'
    """
    count = Counter(outcomes)
    return (
        f"holds in {count[HOLDS]} of {count.total()} comparisons, is undecided in "
        f"{count[UNDECIDED]} and fails in {count[FAILS]}"
    )


def claim_sentence(result: Result, kind: str) -> str:
    """Where the claim holds, where it is undecided and where it fails, in one experiment."""
    found = claims(result, kind)
    if not found:
        return f"For {KINDS[kind]} nothing was measured."
    texts = []
    for outcome, words in ((HOLDS, "holds"), (UNDECIDED, "is **undecided**"), (FAILS, "**fails**")):
        where = _where(claim for claim in found if claim.outcome == outcome)
        if where:
            texts.append(f"{words} for {where}")
    return f"For {KINDS[kind]} the claim {'; it '.join(texts)}."


def _where(found: Iterable[Claim]) -> str:
    norms: dict[str, list[str]] = {}
    for claim in found:
        at = norms.setdefault(claim.network, [])
        at += [] if claim.at in at else [claim.at]
    names: dict[str, list[str]] = {}  # the networks with the same norms together
    for network, at in norms.items():
        names.setdefault(listed(at), []).append(network_name(network))
    return ", and for ".join(f"{listed(networks)} at {at}" for at, networks in names.items())


def figure_sentences(result: Result, figure: str) -> str:
    """What a figure shows, with its numbers.

    Args:
        result: of one experiment.
        figure: name of the figure.

    Returns:
        The sentences, or nothing where there are no numbers for them.
    """
    return " ".join(SENTENCES[figure](result))


def _each(pairs: Iterable[tuple[str, Any]], unit: str = "") -> str:
    """Values of the networks as an enumeration."""
    return listed([f"{interval(v, unit)} ({network_name(n)})" for n, v in pairs if measured(v)])


def _norm(step: Any) -> float:
    return float(step["norm"])


def _perturbation(result: Result) -> Iterator[str]:
    parts = networks_with(result, "perturbation")
    last = {n: found[-1] for n, part in parts.items() if (found := comparisons(part, "random"))}
    inside = _each((n, comparison.ratio) for n, comparison in last.items())
    if inside:
        yield (
            f"At {listed(list(dict.fromkeys(c.at for c in last.values())))} of the image's norm, a "
            f"random change inside the eigenspace has {inside} times the mean KL of a random "
            "change outside it."
        )
    shares = {n: max(part["ratios"], key=_norm) for n, part in parts.items() if part.get("ratios")}
    above = _each((n, scaled(step.get("share"), 100)) for n, step in shares.items())
    few = [step["effective_images"] for step in shares.values() if step.get("effective_images")]
    if above and few:
        yield (
            f"It is larger for {above} per cent of the images; the mean outside rests on some "
            f"{spread(few)} images, the others add little."
        )
    far = [c.law for c in last.values() if c.law is not None]
    if far:
        yield (
            f"There the mean KL of random changes inside is {spread(far)} times what the quadratic "
            f"law says, so this norm is {_regime(far)}."
        )
    ends = {n: rows[-1] for n, part in parts.items() if (rows := comparisons(part, "attenuation"))}
    taken = _each((n, comparison.ratio) for n, comparison in ends.items())
    if taken:
        yield (
            f"Taking the high component away (α = 1) has {taken} times the mean KL of taking away "
            "as much of the orthogonal one."
        )
    alphas = [step["alpha"] for step in shares.values() if known(step.get("alpha"))]
    if alphas:
        yield (
            f"Along the components in the figure, that norm is {spread(alphas)} times that of x_h "
            "(median): beyond 1 the component is turned round, not taken away."
        )


def _regime(ratios: list[float]) -> str:
    off = [abs(ratio - 1) > TOLERANCE for ratio in ratios]
    if all(off):
        return "beyond the quadratic regime (more than 10 % off)"
    if not any(off):
        return "still within the quadratic regime (at most 10 % off)"
    return f"beyond the quadratic regime (more than 10 % off) for {sum(off)} of {len(off)} networks"


def _law(result: Result) -> Iterator[str]:
    laws = networks_with(result, "law")
    worst = [w for law in laws.values() if known(w := block(law, "float64_error", "worst"))]
    if worst:
        yield f"In float64 the worst relative error of the law at small norms is {spread(worst)}."
    pairs = {n: block(law, "float64_error") or {} for n, law in laws.items()}
    off = [
        f"{network_name(n)} {part['above_one_percent']} of {part['eigenpairs']}"
        for n, part in pairs.items()
        if part.get("above_one_percent")
    ]
    if off:
        yield (
            f"More than 1 % off are, of the eigenpairs, {listed(off)}: images on a kink of the "
            "network, where one gradient does not describe it (entries that tie in max-pooling, as "
            "in constant regions, or a ReLU at 0), or curvature that counts even at this step."
        )
    shares = [block(law, "radius", "relative_to_image_norm") for law in laws.values()]
    middle = [share[2] for share in shares if share and known(share[2])]
    if middle:
        low, high = percent(min(middle)), percent(max(middle))
        reach = low if low == high else f"{low} to {high}"
        yield (
            "The law holds to 10 % up to a change of (median over the images) "
            f"{reach} of the image's norm."
        )
    sure = _each((n, law.get("radius_confidence")) for n, law in laws.items())
    if sure:
        yield f"Spearman's correlation of this radius with the largest probability is {sure}."


def _detection(result: Result) -> Iterator[str]:
    parts = networks_with(result, "detection")
    errors = {n: part["error_auc"] for n, part in parts.items() if part.get("error_auc")}
    scores = {"the trace of F": "trace", "1 − the largest probability": "uncertainty"}
    found = {w: _each((n, block(part, s)) for n, part in errors.items()) for w, s in scores.items()}
    texts = [f"by {words} with an AUC of {aucs}" for words, aucs in found.items() if aucs]
    if texts:
        yield f"Wrong predictions are told from right ones {'; '.join(texts)}."
    for aucs, words in (
        (list(errors.values()), "wrong predictions"),
        (
            [a for part in parts.values() for a in (part.get("corruption_auc") or {}).values()],
            "corrupted images",
        ),
    ):
        both = [_tells_more(block(a, "trace"), block(a, "entropy")) for a in aucs]
        both = [outcome for outcome in both if outcome != ABSENT]
        if both:
            yield f"That the trace of F tells {words} better than the entropy {counted(both)}."


def _tells_more(first: Any, second: Any) -> str:
    """Whether an AUC is further from 0.5, on either side, than another; by intervals apart."""
    return compare(_distance(first), _distance(second))


def _distance(auc: Any) -> dict[str, float] | None:
    """Interval of the distance of an AUC from 0.5."""
    if not measured(auc) or not (known(auc.get("low")) and known(auc.get("high"))):
        return None
    low, high = auc["low"] - 0.5, auc["high"] - 0.5
    nearest = 0.0 if low < 0 < high else min(abs(low), abs(high))
    return {"value": abs(auc["value"] - 0.5), "low": nearest, "high": max(abs(low), abs(high))}


def _agreement(result: Result) -> Iterator[str]:
    parts = networks_with(result, "agreement")
    exact = block(result, "task", "known_answer") == "exact"
    template = "ideal observer's templates" if exact else "best linear template (not the ideal one)"
    cosines = _each((n, part.get("cosine")) for n, part in parts.items())
    chance = [part["chance"] for part in parts.values() if known(part.get("chance"))]
    if cosines:
        at_random = f"; chance is {spread(chance)}" if chance else ""
        yield f"The median smallest principal cosine with the {template} is {cosines}{at_random}."
    for network, part in parts.items():
        steps = [s for s in part.get("by_training_size") or [] if measured(s.get("cosine"))]
        if len(steps) > 1:
            first, last = steps[0], steps[-1]
            yield (
                f"{network_name(network)}: {interval(first['cosine'])} with {first['images']} "
                f"training images, {interval(last['cosine'])} with {last['images']}."
            )


def _controls(result: Result) -> Iterator[str]:
    parts = networks_with(result, "controls")
    angles = _each(((n, block(p, "two_seeds", "angle")) for n, p in parts.items()), "°")
    if angles:
        yield f"Two trainings that differ in the seed have eigenspaces {angles} apart."
    tops = {n: part["layers"][-1] for n, part in parts.items() if part.get("layers")}
    ends = _each(((n, top.get("angle")) for n, top in tops.items()), "°")
    if ends:
        shares = spread([100 * top["share"] for top in tops.values()])
        yield f"With {shares} % of the parameters randomised the eigenspace has turned by {ends}."
    for name, words in (
        ("random_weights", "random weights"),
        ("shuffled_labels", "shuffled labels"),
    ):
        aucs = [(n, p[name]["auc"]) for n, p in parts.items() if measured(block(p, name, "auc"))]
        if aucs:
            odd = [network_name(n) for n, auc in aucs if verdict(auc, 0.5) != UNDECIDED]
            says = f"**does not hold 0.5 for {listed(odd)}**" if odd else "holds 0.5 everywhere"
            over = "networks" if name == "random_weights" else "test images"
            yield f"The AUC with {words} is {_each(aucs)} (over {over}); its interval {says}."
    exact = [a for p in parts.values() if known(a := block(p, "float64", "angle"))]
    if exact:
        yield f"Between float32 and float64 the eigenspace turns by {spread(exact)}° (median)."


def _maps(result: Result) -> Iterator[str]:
    for network, methods in map_methods(result).items():
        same = {
            m: n["rank_correlation"]
            for m, n in methods.items()
            if measured(n.get("rank_correlation"))
        }
        texts = []
        if same:
            best = max(same, key=lambda m: same[m]["value"])
            texts.append(
                f"closest to the iFIM map is {METHODS.get(best, best)}, {interval(same[best])}"
            )
        areas = {m: n["deletion"] for m, n in methods.items() if measured(n.get("deletion"))}
        if areas:
            best = min(areas, key=lambda m: areas[m]["value"])
            own = (
                f", that of the iFIM {interval(areas['ifim'])}"
                if "ifim" in areas and best != "ifim"
                else ""
            )
            texts.append(
                f"the smallest deletion area is that of {METHODS.get(best, best)}, "
                f"{interval(areas[best])}{own}"
            )
        if texts:
            yield f"{network_name(network)}: {'; '.join(texts)}."


SENTENCES = {
    "perturbation": _perturbation,
    "law": _law,
    "detection": _detection,
    "agreement": _agreement,
    "controls": _controls,
    "maps": _maps,
}
