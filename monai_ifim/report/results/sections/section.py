"""What the page shows of one measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from monai_ifim.report.results.measured import Result


def _nothing(result: Result) -> Iterable[str]:
    return ()


def _always(result: Result) -> bool:
    return True


@dataclass(frozen=True)
class Section:
    """One measure: its figure, what the figure says, and its tables.

    All functions take results whose entries may be null or absent, and leave those out.

    Attributes:
        name: of the measure's block in ``results.json``, of its heading and of its figure's file.
        alt: the figure in a few words, for who cannot see it.
        draw: the figure of one experiment, one column for each network; None where nothing was
            measured, and the section is then left out.
        sentences: what the figure shows in one experiment, with its numbers.
        below: Markdown under the sentences, such as a table of one experiment.
        overview: the table over all experiments; the template says where it stands.
        gaps: parts of the measure that are missing although its block is there.
        title: of its heading; the name where it is empty.
        applies: whether an experiment can have this measure at all; one that can and has not is
            named as a gap.
    """

    name: str
    alt: str
    draw: Callable[[Result], Figure | None]
    sentences: Callable[[Result], Iterable[str]]
    below: Callable[[Result], Iterable[str]] = _nothing
    overview: Callable[[list[Result]], str] | None = None
    gaps: Callable[[Result], Iterable[str]] = _nothing
    applies: Callable[[Result], bool] = _always
    title: str = ""
