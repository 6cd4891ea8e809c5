"""A question, the numbers of the networks that answer it, and the answer in words, by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from monai_ifim.report.evidence.blocks import Block, Single
from monai_ifim.report.evidence.comparisons import Tally, power, tally
from monai_ifim.report.results.measured import Interval
from monai_ifim.report.results.numbers import interval, plural

ANSWERS = ("No", "Not shown", "In part", "Yes")  # what the method does not do comes first


class Case(NamedTuple):
    """One comparison, the only one of its network in a finding: copies would count as evidence.

    Attributes:
        who: the network's trainings.
        difference: above 0 where the answer is yes.
    """

    who: Block | Single
    difference: Interval


@dataclass(frozen=True, eq=False)
class Finding:
    """One finding of the page.

    Attributes:
        question: with its question mark.
        cases: what answers it; at least one.
        text: the numbers behind it, as sentences.
        quantity: what the differences are.
        ratio: whether they are logarithms of ratios.
        trained: False where they are of the networks' copies with random weights.
        beside: a number that belongs beside the average, with its name.
    """

    question: str
    cases: Sequence[Case]
    text: str
    quantity: str
    ratio: bool = False
    trained: bool = True
    beside: str = ""

    @cached_property
    def tally(self) -> Tally:
        """Mean of the differences, and how many stand after the correction."""
        return tally([case.difference for case in self.cases])

    @property
    def sentence(self) -> str:
        """Question, answer, numbers, and how many networks and trainings are behind them."""
        found = self.tally
        return (
            f"**{self.question} {found.answer}.** {self.text} {self.quantity}: {self._average} on "
            f"average, above {self._border} in {found.above} and below in {found.below} of "
            f"{self._networks}.{self._decided}{self._trained_twice}"
        )

    @property
    def row(self) -> list[str]:
        """The same at a glance: question, answer, the average and what it is, networks."""
        beside = f"; {self.beside}" if self.beside else ""
        measured = f"{self.quantity}: {self._average}{beside}"
        return [self.question, f"**{self.tally.answer}**", measured, self._networks]

    @property
    def _decided(self) -> str:
        """Which networks are above and which below, where the answer is not for all."""
        if self.tally.answer != "In part":
            return ""
        return "".join(self._named(words, sign) for words, sign in (("Above", 1), ("Below", -1)))

    def _named(self, words: str, sign: int) -> str:
        named = [
            f"`{case.who.task}`, {case.who.name}, {self._written(case.difference)}"
            for case, found in zip(self.cases, self.tally.signs, strict=True)
            if found == sign
        ]
        return f" {words}: {'; '.join(named)}." if named else ""

    @property
    def _trained_twice(self) -> str:
        """How many of the undecided networks have a pair of trainings alone, if half or more."""
        signs = self.tally.signs
        undecided = [case for case, sign in zip(self.cases, signs, strict=True) if not sign]
        twice = sum(len(case.who.trainings) == 2 for case in undecided)
        if not twice or 2 * twice < len(undecided):
            return ""
        if len(undecided) == 1:
            return " 1 is neither, and was trained only twice."
        were = "was" if twice == 1 else "were"
        return f" Of the {len(undecided)} that are neither, {twice} {were} trained only twice."

    @property
    def _average(self) -> str:
        return self._written(self.tally.mean)

    def _written(self, difference: Interval) -> str:
        return interval(power(difference) if self.ratio else difference)

    @property
    def _border(self) -> int:
        return 1 if self.ratio else 0

    @property
    def _networks(self) -> str:
        trained = plural(self.trainings, "training") if self.trained else "with random weights"
        return f"{plural(self.tally.count, 'network')} ({trained})"

    @property
    def trainings(self) -> int:
        """Of all networks together."""
        return sum(len(case.who.trainings) for case in self.cases)


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Negative answers first, otherwise as they come."""
    return sorted(findings, key=lambda each: ANSWERS.index(each.tally.answer))
