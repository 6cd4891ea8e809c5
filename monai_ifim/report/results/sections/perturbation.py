"""Perturbation: what changes of equal norm do to the predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from monai_ifim.report.results.claims import KINDS, claim_sentence, claims
from monai_ifim.report.results.measured import (
    Result,
    block,
    comparisons,
    known,
    measured,
    networks_with,
    scaled,
)
from monai_ifim.report.results.numbers import each, listed, spread
from monai_ifim.report.results.panels import (
    curve,
    dots,
    grid,
    heading,
    legend,
    level,
    logarithmic,
    share_axis,
)
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import ATTRIBUTIONS, NEUTRAL, style
from monai_ifim.report.results.verdicts import off_the_law

MASKS = tuple(f"{name}_mask" for name in ATTRIBUTIONS)
SPACES = (
    "leading",
    "leading_reversed",
    "random_in_eigenspace",
    "random",
    "band_limited",
    "random_in_complement",
)
REMOVED = ("attenuate_high", "attenuate_orth", *MASKS)
PAIRS = ("random_in_eigenspace", "random_in_complement", "attenuate_high", "attenuate_orth")
PREDICTED = ("leading", "random_in_eigenspace")  # by the quadratic law, drawn beside the measured


@dataclass(frozen=True)
class _Directions:
    """A row of panels with one quantity along some directions."""

    quantity: str
    label: str
    names: tuple[str, ...]
    factor: float = 1
    height: float = 1.25

    def there(self, part: Any) -> bool:
        """Whether a network has such numbers."""
        return bool(self.shown([part]))

    def shown(self, parts: Sequence[Any]) -> list[str]:
        """The directions that any network has."""
        found = [
            [block(p, "directions", name, self.quantity) for p in parts] for name in self.names
        ]
        return [name for name, values in zip(self.names, found, strict=True) if any(values)]

    def draw(self, axis: Axes, part: Any) -> None:
        """The curves of one network."""
        for name in self.names:
            self.draw_direction(axis, part, name)

    def draw_direction(self, axis: Axes, part: Any, name: str) -> None:
        """The curve of one direction."""
        values = block(part, "directions", name, self.quantity)
        if values:
            curve(axis, _shares(part), [scaled(v, self.factor) for v in values], name)

    def finish(self, axes: Sequence[Axes], empty: Axes, parts: Sequence[Any]) -> None:
        """Vertical axis and legend, when all networks are drawn."""
        legend(empty, self.shown(parts))


class _Divergences(_Directions):
    """Mean divergences, with what the quadratic law predicts for them."""

    def draw_direction(self, axis: Axes, part: Any, name: str) -> None:
        super().draw_direction(axis, part, name)
        law = block(part, "directions", name, "quadratic")
        if name in PREDICTED and law:
            colour = style(name).colour
            axis.plot(_shares(part), law, color=colour, linestyle="--", linewidth=0.9)

    def finish(self, axes: Sequence[Axes], empty: Axes, parts: Sequence[Any]) -> None:
        logarithmic(axes, 9)
        shown = self.shown(parts)
        predicted = {"½ dᵀFd (predicted)": (NEUTRAL, "--")} if set(PREDICTED) & set(shown) else {}
        legend(empty, shown, predicted)


class _Changes(_Directions):
    """A quantity that may go up or down."""

    def finish(self, axes: Sequence[Axes], empty: Axes, parts: Sequence[Any]) -> None:
        for axis in axes:
            level(axis, 0)
        super().finish(axes, empty, parts)


@dataclass(frozen=True)
class _Ratios:
    """The ratios that the claim is about."""

    label: str
    height: float = 1.25

    def there(self, part: Any) -> bool:
        return bool(part.get("ratios"))

    def draw(self, axis: Axes, part: Any) -> None:
        for block_name, kind in (("ratios", "random"), ("attenuation", "attenuation")):
            mine = [step for step in part.get(block_name) or [] if measured(step.get(kind))]
            places = [100 * step["relative_norm"] for step in mine]
            if mine:
                dots(axis, places, [step[kind] for step in mine], f"ratio_{kind}")
        level(axis, 1)

    def finish(self, axes: Sequence[Axes], empty: Axes, parts: Sequence[Any]) -> None:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(numticks=5))
        if axes[0].get_ylim()[1] < 1e4:
            axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        even = {"no difference": (NEUTRAL, ":")}
        legend(empty, ["ratio_random", "ratio_attenuation"], even)


ROWS = (
    _Divergences("divergence", "mean KL, nats", SPACES, height=1.75),
    _Divergences("divergence", "mean KL, nats", REMOVED, height=1.75),
    _Ratios("ratio of the\nmean KL"),
    _Changes(
        "probability_change", "change of the\nprobability", ("leading", "leading_reversed", *PAIRS)
    ),
    _Directions("flip_rate", "predictions\nflipped, %", ("leading", *PAIRS), 100),
    _Directions("auc", "AUC of\nthese images", ("leading", *PAIRS)),
)


def _draw(result: Result) -> Figure | None:
    """Divergence, ratios, change of the probability, flips and AUC against the norm."""
    found = networks_with(result, "perturbation")
    parts = {name: part for name, part in found.items() if _shares(part)}
    rows = [row for row in ROWS if any(map(row.there, parts.values()))]
    if not rows:
        return None
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    title = f"{result['title']}: changes of equal norm inside and outside the eigenspace"
    panels = grid(title, columns, [row.height for row in rows])
    shares = [share for part in parts.values() for share in _shares(part)]
    for axes, empty, row in zip(panels.rows, panels.legends, rows, strict=True):
        last = row is rows[-1]
        for axis, part in zip(axes, parts.values(), strict=True):
            row.draw(axis, part)
            share_axis(axis, "change, % of\nthe image's norm" if last else None)
            axis.set_xlim(min(shares) / 1.3, max(shares) * 1.3)
            axis.tick_params(labelbottom=last)
        axes[0].set_ylabel(row.label)
        row.finish(axes, empty, list(parts.values()))
    return panels.figure


def _shares(part: Any) -> list[float]:
    """Norms of the changes in per cent of the images' norm."""
    norm = part.get("image_norm")
    return [100 * e / norm for e in part.get("norms") or []] if known(norm) and norm > 0 else []


def _sentences(result: Result) -> Iterator[str]:
    yield from _inside_and_outside(result)
    yield from _removed(result)


def _largest_norm(part: Any) -> Any:
    return max(part["ratios"], key=lambda step: float(step["norm"]))


def _inside_and_outside(result: Result) -> Iterator[str]:
    """Random changes inside against outside the eigenspace, at the largest norm."""
    parts = networks_with(result, "perturbation")
    last = {n: found[-1] for n, part in parts.items() if (found := comparisons(part, "random"))}
    inside = each((n, comparison.ratio) for n, comparison in last.items())
    if inside:
        yield (
            f"At {listed(list(dict.fromkeys(c.at for c in last.values())))} of the image's norm, a "
            f"random change inside the eigenspace has {inside} times the mean KL of a random "
            "change outside it."
        )
    steps = {n: _largest_norm(part) for n, part in parts.items() if part.get("ratios")}
    above = each((n, scaled(step.get("share"), 100)) for n, step in steps.items())
    few = [step["effective_images"] for step in steps.values() if step.get("effective_images")]
    if above and few:
        yield (
            f"It is larger for {above} per cent of the images; the mean outside rests on about "
            f"{spread(few)} images, the others add little."
        )
    far = [c.law for c in last.values() if c.law is not None]
    if far:
        yield (
            f"There the mean KL of random changes inside is {spread(far)} times what the quadratic "
            f"law predicts, so this norm is {_regime(far)}."
        )


def _regime(ratios: list[float]) -> str:
    off = list(map(off_the_law, ratios))
    if all(off):
        return "beyond the quadratic regime (more than 10 % off)"
    if not any(off):
        return "still within the quadratic regime (at most 10 % off)"
    return f"beyond the quadratic regime (more than 10 % off) for {sum(off)} of {len(off)} networks"


def _removed(result: Result) -> Iterator[str]:
    """Components taken away, and how the norms of the figure compare with theirs."""
    parts = networks_with(result, "perturbation")
    ends = {n: rows[-1] for n, part in parts.items() if (rows := comparisons(part, "attenuation"))}
    removed = each((n, comparison.ratio) for n, comparison in ends.items())
    if removed:
        yield (
            f"Removing the high component (α = 1) has {removed} times the mean KL of removing as "
            "much of the orthogonal one."
        )
    steps = [_largest_norm(part) for part in parts.values() if part.get("ratios")]
    alphas = [step["alpha"] for step in steps if known(step.get("alpha"))]
    if alphas:
        yield (
            f"Along the components in the figure, the largest norm is {spread(alphas)} times that "
            "of x_h (median): beyond 1 the component changes its sign."
        )


def _claims(result: Result) -> Iterator[str]:
    made = [f"- {claim_sentence(result, kind)}" for kind in KINDS if claims(result, kind)]
    yield "\n".join(made) or "No ratios were measured."


PERTURBATION = Section(
    name="perturbation",
    alt="Divergence, flips and AUC under changes of equal norm",
    draw=_draw,
    sentences=_sentences,
    below=_claims,
)
