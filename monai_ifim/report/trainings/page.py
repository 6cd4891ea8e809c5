"""The page about several trainings: the template's text, filled in from the measured numbers."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from monai_ifim.data.atomic import complete_file
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.results.figures import save_figure
from monai_ifim.report.results.measured import Result, block, read_results
from monai_ifim.report.results.numbers import count, number, percent
from monai_ifim.report.results.style import settings
from monai_ifim.report.trainings import tables
from monai_ifim.report.trainings.blocks import METRICS, Block, read_blocks
from monai_ifim.report.trainings.figure import draw_pictures
from monai_ifim.report.trainings.findings import drift_findings, findings


def write_trainings_page(results: Path, page: Path) -> Path:
    """Draw the pictures and write the page that shows them.

    Args:
        results: folder with one sub-folder an experiment, each with ``results.json``, and perhaps
            ``drift.json`` of ``benchmarks.drift``; pictures are written beside the results.
        page: the Markdown file; it links the pictures relatively.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: no results of several trainings there.
    """
    blocks, drift = read_blocks(results), _drift(results / "drift.json")
    good = [each for each in blocks if each.competent]
    below = [each for each in blocks if not each.competent]
    measured = [
        r
        for r in read_results(results)
        if any(b.result["experiment"] == r["experiment"] for b in blocks)
    ]
    paths = " ".join(shlex.quote(path.as_posix()) for path in (results, page))
    text = _rendered(
        {
            "research_only": RESEARCH_ONLY,
            "bars": list(_bars(measured)),
            "networks": tables.network_table(blocks),
            "findings": [*findings(blocks), *(drift_findings(drift) if drift else ())],
            "pictures": list(_pictures(blocks, results, page)),
            "answer": tables.answer_table(good),
            "counts": tables.count_table(good),
            "metrics": [
                {"words": words, "all": tables.agreement_table(good, metric, "all")}
                for metric, words in METRICS.items()
            ],
            "leading": tables.agreement_table(
                [each for each in good if each.numbers["directions"] > 1], "low_pass", "leading"
            ),
            "across": tables.across_table(measured),
            "moves": tables.moves_table(good),
            "pooled": tables.pooled_table(blocks),
            "below": {
                "answer": tables.answer_table(below),
                "agreement": tables.agreement_table(below, "low_pass", "all"),
            }
            if below
            else None,
            "drift": [
                {"words": METRICS[name], "table": tables.drift_table(drift, name)}
                for name in next(iter(drift["networks"].values()))["angles"]
            ]
            if drift
            else None,
            "runs": list(_runs(measured)),
            "command": f"python -m monai_ifim evidence-page --trainings {paths}",
        }
    )
    with complete_file(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def _rendered(values: dict[str, Any]) -> str:
    environment = Environment(  # Markdown, so nothing is escaped for HTML
        loader=PackageLoader("monai_ifim.report", "trainings"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.md.j2").render(values)


def _pictures(blocks: Sequence[Block], results: Path, page: Path) -> Iterator[dict[str, str]]:
    """One for each experiment, of its networks above the bar; exactly known answers first."""
    linked = Path(os.path.relpath(results, page.parent))
    order = ("exact", "reference", None)
    ordered = sorted(blocks, key=lambda b: order.index(block(b.result, "task", "known_answer")))
    for name in dict.fromkeys(each.result["experiment"] for each in ordered):
        own = [each for each in blocks if each.result["experiment"] == name and each.competent]
        with settings():
            figure = draw_pictures(own)
            if figure is not None:
                save_figure(figure, results / name / "pooled.png")
                yield {
                    "title": own[0].task,
                    "alt": "Leading eigenvectors of single images and pooled ones, of two "
                    "trainings, raw and low-pass filtered",
                    "path": (linked / name / "pooled.png").as_posix(),
                }


def _drift(file: Path) -> dict[str, Any] | None:
    """What ``benchmarks.drift`` measured, if it did."""
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found["networks"] else None


def _bars(measured: Sequence[Result]) -> Iterator[str]:
    for result in measured:
        bar = block(result, "task", "bar")
        if bar:
            majority, classes = result["task"]["majority"], len(result["task"]["classes"])
            images = count(result["task"]["test"])
            yield (
                f"`{result['task']['name']}`: AUC {number(bar['auc'])} ({bar['source']}); the "
                f"largest class has {percent(round(majority, 3))} of the {images} test images, "
                f"chance is {percent(round(1 / classes, 3))}."
            )


def _runs(measured: Sequence[Result]) -> Iterator[str]:
    for result in measured:
        where, minutes = result["environment"], number(result["seconds"] / 60)
        unfinished = "" if result.get("complete") else "; not finished"
        yield (
            f"{result['title']}: `{result['command']}`, {minutes} min of one core "
            f"({where['processor']}, torch {where['torch']}, {where['date']}){unfinished}"
        )
