"""The page of tables behind the page of results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.evidence import tables
from monai_ifim.report.evidence.blocks import METRICS, Block
from monai_ifim.report.evidence.finding import Finding
from monai_ifim.report.evidence.pictures import draw_pictures
from monai_ifim.report.markdown import rendered
from monai_ifim.report.results.figures import save_figure
from monai_ifim.report.results.measured import Result, bar_of, block
from monai_ifim.report.results.numbers import plural
from monai_ifim.report.results.style import settings


def write_tables(
    blocks: Sequence[Block],
    results: Sequence[Result],
    findings: Sequence[Finding],
    drift: dict[str, Any] | None,
    places: Mapping[str, Path],
    path: Path,
    main: str,
    command: str,
) -> Path:
    """Write the tables of several trainings.

    Args:
        blocks: all of them.
        results: the experiments that they are from.
        findings: of the page.
        drift: of ``benchmarks.drift``, if it was run.
        places: the folder of each experiment; its pictures are written there.
        path: of the Markdown file.
        main: name of the page of results beside it.
        command: that writes both.

    Returns:
        The path.
    """
    good = [each for each in blocks if each.competent]
    below = [each for each in blocks if not each.competent]
    values = {
        "research_only": RESEARCH_ONLY,
        "main": main,
        "comparisons": tables.finding_table(findings),
        "networks": tables.network_table(blocks),
        "recipes": tables.recipe_table(blocks),
        "bars": list(bars(results)),
        "answer": tables.answer_table(good),
        "counts": tables.count_table(good),
        "metrics": [
            {"words": words, "all": tables.agreement_table(good, metric, "all")}
            for metric, words in METRICS.items()
        ],
        "leading": tables.agreement_table(
            [each for each in good if each.numbers["directions"] > 1], "low_pass", "leading"
        ),
        "across": tables.across_table(results),
        "moves": tables.moves_table(good),
        "pooled": tables.pooled_table(blocks),
        "below": below
        and {
            "answer": tables.answer_table(below),
            "agreement": tables.agreement_table(below, "low_pass", "all"),
        },
        "drift": drift
        and [
            {"words": METRICS[name], "table": tables.drift_table(drift, name)}
            for name in next(iter(drift["networks"].values()))["angles"]
        ],
        "pictures": list(_pictures(good, places, path)),
        "command": command,
    }
    return rendered("evidence", "tables.md.j2", values, path)


def bars(results: Sequence[Result]) -> Iterator[str]:
    """Where the bar of each task comes from, once for each value: test sets may differ."""
    lines: dict[str, None] = {}
    for result in results:
        name, bar = block(result, "task", "name"), bar_of(result)
        if name and bar:
            source = block(result, "task", "bar", "source")
            test = block(result, "task", "test")
            of = f"; {plural(test, 'test image')}" if test else ""
            lines[f"`{name}`: {tables.bar_words(bar)} ({source}{of})."] = None
        elif name:
            lines[f"`{name}`: no bar was stated, no network counts."] = None
    yield from lines


def _pictures(
    good: Sequence[Block], places: Mapping[str, Path], path: Path
) -> Iterator[dict[str, str]]:
    """One for each experiment, of its networks above the bar."""
    for name in dict.fromkeys(each.result["experiment"] for each in good):
        own = [each for each in good if each.result["experiment"] == name]
        with settings():
            figure = draw_pictures(own)
            if figure is not None:
                file = save_figure(figure, places[name] / "pooled.png")
                yield {
                    "title": own[0].task,
                    "alt": "Leading eigenvectors of one image and pooled ones, of two trainings",
                    "path": Path(os.path.relpath(file, path.parent)).as_posix(),
                }
