"""The measured results of the experiments, read from their files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeGuard

Result = dict[str, Any]  # one results.json
Interval = dict[str, Any]  # {"value", "low", "high", "n"}: a 95 % bootstrap interval
Standing = Literal["above", "below", "no bar"]  # of a network, against the bar of its task

NETWORKS = {
    "cnn": "CNN",
    "resnet18": "ResNet-18",
    "densenet121": "DenseNet-121",
    "densenet41": "DenseNet-41",
    "efficientnet_b0": "EfficientNet-B0",
    "vit": "ViT",
}
CONTROL_NETWORKS = {"random_weights": "random weights", "shuffled_labels": "shuffled labels"}
NEEDED = ("experiment", "title", "networks")


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, in the order of their sub-folders' names.

    Args:
        folder: with one sub-folder an experiment, each with ``results.json``.

    Returns:
        The results, one an experiment, whether complete or not.

    Raises:
        FileNotFoundError: no ``results.json`` there.
    """
    files = sorted(folder.glob("*/results.json"))
    if not files:
        raise FileNotFoundError(
            f"expected {folder / '*' / 'results.json'} of the experiments, got none; run an "
            f"experiment with --output {folder} first"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Result:
    """One file; a damaged one becomes a result that says why, and the others are unaffected."""
    name = file.parent.name
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        absent = [key for key in NEEDED if not isinstance(result, dict) or key not in result]
        problem = f"it has no {', '.join(absent)}" if absent else ""
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        problem = str(error)
    if problem:
        reason = f"results.json is damaged ({problem}); delete it and run the experiment again"
        return {"experiment": name, "title": name, "networks": {}, "missing": reason}
    # The folder counts: a copied one must not draw over the other's figures.
    return {**result, "experiment": name, "networks": result["networks"] or {}}


def block(source: Any, *keys: str) -> Any:
    """The value under nested keys, or None where one of them is null or absent.

    >>> block({"law": {"images": 32}}, "law", "images"), block({"law": None}, "law", "images")
    (32, None)
    """
    for key in keys:
        if not isinstance(source, dict):
            return None
        source = source.get(key)
    return source


def known(number: Any) -> TypeGuard[float]:
    """Whether it is a finite number.

    >>> known(0.5), known(None), known(float("inf"))
    (True, False, False)
    """
    return isinstance(number, int | float) and math.isfinite(number)


def measured(interval: Any) -> bool:
    """Whether it is an interval with a finite value."""
    return known(block(interval, "value"))


def bounded(interval: Any) -> TypeGuard[Interval]:
    """Whether it is an interval with a finite value and finite ends."""
    return all(known(block(interval, key)) for key in ("value", "low", "high"))


def scaled(interval: Any, factor: float) -> Interval | None:
    """The interval of a multiple, such as a share in per cent.

    >>> scaled({"value": 0.5, "low": 0.25, "high": None}, 100)
    {'value': 50.0, 'low': 25.0}
    """
    if not measured(interval):
        return None
    return {k: factor * interval[k] for k in ("value", "low", "high") if known(interval.get(k))}


class Bar(NamedTuple):
    """What a network must reach to count in a claim.

    Attributes:
        score: ``auc`` or ``accuracy``.
        least: of it.
    """

    score: str
    least: float


def bar_of(result: Result) -> Bar | None:
    """The bar of the experiment's task; None where none was stated.

    >>> bar_of({"task": {"bar": {"accuracy": 0.99, "source": "a tutorial"}}})
    Bar(score='accuracy', least=0.99)
    """
    for score in ("auc", "accuracy"):
        least = block(result, "task", "bar", score)
        if known(least):
            return Bar(score, least)
    return None


def standing(result: Result, scores: Mapping[str, Any]) -> Standing:
    """Whether a network learned its task.

    Args:
        result: of its experiment.
        scores: its ``auc`` and ``accuracy``; a mean where it was trained several times.

    Returns:
        ``above`` where it reaches the bar and has an accuracy above the share of the largest
        class, which needs no learning; ``no bar`` where none was stated, ``below`` otherwise.
    """
    bar = bar_of(result)
    if bar is None:
        return "no bar"
    reached, accuracy = scores.get(bar.score), scores.get("accuracy")
    guess = block(result, "task", "majority")
    if not (known(reached) and known(accuracy) and known(guess)):
        return "below"
    return "above" if reached >= bar.least and accuracy > guess else "below"


def standing_once(result: Result, network: Any) -> Standing:
    """The same of a network that was trained once, from its blocks."""
    names = ("auc", "accuracy")
    return standing(result, {name: block(network, "training", name, "value") for name in names})


def counting(results: Iterable[Result]) -> Standing:
    """Which networks count: those above their bar, and all where none of the tasks has one.

    A bundle of one's own has none: by itself it counts, beside tasks with a bar it does not.
    """
    return "above" if any(bar_of(result) for result in results) else "no bar"


def networks_standing(result: Result, where: Standing) -> Result:
    """The result with those networks alone that stand so against the bar of its task."""
    found = {
        name: network
        for name, network in result["networks"].items()
        if standing_once(result, network) == where
    }
    return {**result, "networks": found}


def one_ratio(ratios: Iterable[Any]) -> Interval | None:
    """One number for a network from its ratios at several norms: their geometric mean.

    The ends are averaged as the values are, because all ratios are of the same images; an end at 0
    counts as a thousandth of its value.

    >>> one_ratio([{"value": 4, "low": 2, "high": 8, "n": 9}, {"value": 1, "low": 0.5, "high": 2}])
    {'value': 2.0, 'low': 1.0, 'high': 4.0, 'n': 9}
    """
    found = [each for each in ratios if measured(each) and each["value"] > 0]
    found = [each for each in found if known(each.get("low")) and known(each.get("high"))]
    if not found:
        return None
    means: Interval = {
        end: math.exp(fmean(math.log(max(each[end], 1e-3 * each["value"])) for each in found))
        for end in ("value", "low", "high")
    }
    counts = [each["n"] for each in found if known(each.get("n"))]
    return means | ({"n": min(counts)} if counts else {})


def networks_with(result: Result, *keys: str) -> dict[str, Any]:
    """The blocks under nested keys, by network, for the networks that have it."""
    found = {name: block(network, *keys) for name, network in (result["networks"] or {}).items()}
    return {name: part for name, part in found.items() if part}


def network_name(name: str) -> str:
    """How a network is called in text.

    >>> network_name("resnet18"), network_name("my_net")
    ('ResNet-18', 'my_net')
    """
    return NETWORKS.get(name, name)


def cells(results: list[Result], *keys: str) -> Iterator[tuple[Result, str, Any]]:
    """Result, network's name and block of every experiment and network that has the block."""
    for result in results:
        for name, part in networks_with(result, *keys).items():
            yield result, name, part


def entry(numbers: Any, index: int) -> Any:
    """An entry of a list, or None where there is no such list or entry.

    >>> entry([0.1, 0.2], 1), entry([0.1], 1), entry(None, 0)
    (0.2, None, None)
    """
    return numbers[index] if isinstance(numbers, list) and len(numbers) > index else None


def at_norm(part: Any, direction: str, quantity: str, norm: float) -> Any:
    """What was measured for a direction at the nearest norm of the grid.

    Args:
        part: the perturbation block of a network.
        direction: its name.
        quantity: ``divergence``, ``quadratic`` and so on.
        norm: in input units.

    Returns:
        The number or interval, or None with no norm of the grid within a tenth of that norm.
    """
    norms, values = part.get("norms") or [], block(part, "directions", direction, quantity)
    if not norms or not values:
        return None
    index = min(range(len(norms)), key=lambda i: abs(norms[i] - norm))
    return values[index] if abs(norms[index] - norm) <= 0.1 * norm else None


class Comparison(NamedTuple):
    """One ratio of mean divergences at equal norm.

    Attributes:
        at: the norm, as the page writes it.
        ratio: with its interval.
        law: the mean divergence in the numerator divided by what the quadratic law predicts.
    """

    at: str
    ratio: Interval | None
    law: float | None


def comparisons(part: Any, kind: str) -> list[Comparison]:
    """The ratios of a network, in the order of the norms.

    Args:
        part: its perturbation block.
        kind: ``random`` (inside to outside), ``attenuation`` (of the high to the orthogonal
            component), or ``masks`` (random inside to pixels that attribution selects).

    Returns:
        One for each norm (and attribution method); a ratio that could not be formed is None.
    """
    if kind == "attenuation":
        rows = block(part, "attenuation") or []
        return [Comparison(f"α = {r['alpha']:g}", r[kind], r.get("law")) for r in rows]
    found = []
    for step in block(part, "ratios") or []:
        at, law = f"{100 * step['relative_norm']:.3g} %", law_ratio(part, step["norm"])
        if kind == "masks":
            found += [Comparison(at, ratio, law) for ratio in (step.get("masks") or {}).values()]
        else:
            found.append(Comparison(at, step.get(kind), law))
    return found


def law_ratio(part: Any, norm: float) -> float | None:
    """Mean KL of random changes inside divided by the quadratic law's prediction, at a norm."""
    found = block(at_norm(part, "random_in_eigenspace", "divergence", norm), "value")
    law = at_norm(part, "random_in_eigenspace", "quadratic", norm)
    return found / law if known(found) and known(law) and law > 0 else None
