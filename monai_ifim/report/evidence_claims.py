"""What the numbers say, in sentences that follow from the intervals by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from monai_ifim.report.evidence_numbers import (
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
from monai_ifim.report.evidence_results import (
    Result,
    at_norm,
    block,
    known,
    law_ratio,
    map_methods,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.evidence_tables import METHODS

KINDS = {
    "random": "random directions inside against outside the eigenspace",
    "attenuation": "attenuating the high against the orthogonal component",
}


TOLERANCE = 0.1  # relative error of the quadratic law beyond which no identity decides


class Claim(NamedTuple):
    """One comparison: where it was made, its outcome, and whether the quadratic law fails there."""

    network: str
    relative_norm: float
    outcome: str
    beyond: bool | None


def claims(result: Result, kind: str) -> list[Claim]:
    """Whether changes of the eigenspace move the prediction more, at every network and norm.

    Args:
        result: of one experiment.
        kind: ``random`` or ``attenuation``.

    Returns:
        One claim for each ratio that was measured; its outcome is that of ``verdict``.
    """
    found = [
        _claim(network, part, step, kind, verdict(step.get(kind)))
        for network, part in networks_with(result, "perturbation").items()
        for step in part.get("ratios") or []
    ]
    return [claim for claim in found if claim.outcome != ABSENT]


def _claim(network: str, part: Any, step: Any, kind: str, outcome: str) -> Claim:
    ratio = law_ratio(part, kind, step["norm"])
    beyond = None if ratio is None else abs(ratio - 1) > TOLERANCE
    return Claim(network, step["relative_norm"], outcome, beyond)


def mask_claims(result: Result) -> list[tuple[str, Claim]]:
    """Whether attenuating the high component moves the prediction more than chosen pixels do.

    Returns:
        Name of the method that chose the pixels, and the claim, at the norms of the ratios.
    """
    found = []
    for network, part in networks_with(result, "perturbation").items():
        for step in part.get("ratios") or []:
            high = at_norm(part, "attenuate_high", "divergence", step["norm"])
            for name in part.get("directions") or {}:
                if name.endswith("_mask"):
                    outcome = compare(high, at_norm(part, name, "divergence", step["norm"]))
                    claim = _claim(network, part, step, "attenuation", outcome)
                    found.append((name.removesuffix("_mask"), claim))
    return [(method, claim) for method, claim in found if claim.outcome != ABSENT]


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
        norms.setdefault(claim.network, []).append(percent(claim.relative_norm))
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
    steps = {n: max(part["ratios"], key=_norm) for n, part in parts.items() if part.get("ratios")}
    if not steps:
        return
    shares = listed(list(dict.fromkeys(percent(s["relative_norm"]) for s in steps.values())))
    inside = _each((n, step.get("random")) for n, step in steps.items())
    taken = _each((n, step.get("attenuation")) for n, step in steps.items())
    leading = _each((n, step.get("leading")) for n, step in steps.items())
    if inside:
        yield (
            f"At {shares} of the image's norm, a random change inside the eigenspace has {inside} "
            "times the mean KL of a random change outside it."
        )
    if taken:
        yield f"Attenuating the high component has {taken} times that of the orthogonal one."
    if leading:
        yield f"For the leading eigenvector against random changes outside it is {leading}."
    far = [law_ratio(parts[n], "random", step["norm"]) for n, step in steps.items()]
    known_far = [ratio for ratio in far if ratio is not None]
    if known_far:
        yield (
            f"There the mean KL of random changes inside is {spread(known_far)} times what "
            f"the quadratic law says, so this norm is {_regime(known_far)}."
        )
    masks = mask_claims(result)
    if masks:
        yield (
            "That the high component moves the prediction more than the pixels that attribution "
            f"ranks highest, at equal norm, {counted(claim.outcome for _, claim in masks)}."
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
    shares = [block(law, "radius", "relative_to_image_norm") for law in laws.values()]
    middle = [share[2] for share in shares if share and known(share[2])]
    if middle:
        low, high = percent(min(middle)), percent(max(middle))
        reach = low if low == high else f"{low} to {high}"
        yield (
            "The KL divergence is first 10 % off the law at a change of (median over the images) "
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
    events = [
        aucs for part in parts.values() for aucs in (part.get("corruption_auc") or {}).values()
    ]
    both = [compare(block(a, "trace"), block(a, "entropy")) for a in [*errors.values(), *events]]
    both = [outcome for outcome in both if outcome != ABSENT]
    if both:
        yield f"That the trace of F tells more than the entropy {counted(both)}."


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
            yield f"The AUC with {words} is {_each(aucs)}; its interval {says}."
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
