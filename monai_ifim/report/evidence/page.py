"""The page of results: findings, one figure a question, and links to the tables."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.evidence import findings as trainings
from monai_ifim.report.evidence import singles as once
from monai_ifim.report.evidence import uses
from monai_ifim.report.evidence.appendix import bars, write_tables
from monai_ifim.report.evidence.blocks import (
    KINDS,
    METRICS,
    Block,
    Single,
    blocks_of,
    counted,
    groups,
    other_recipes,
    singles_of,
    untried,
)
from monai_ifim.report.evidence.figures import (
    Panel,
    by_network,
    by_row,
    counts_figure,
    learning_figure,
    stacked,
)
from monai_ifim.report.evidence.finding import Finding, ordered
from monai_ifim.report.evidence.pictures import draw_maps, draw_pictures
from monai_ifim.report.evidence.tables import MOVES, network_table
from monai_ifim.report.markdown import rendered, table
from monai_ifim.report.results.figures import save_figure
from monai_ifim.report.results.measured import (
    Result,
    block,
    bounded,
    counting,
    known,
    read_results,
)
from monai_ifim.report.results.numbers import listed, number, plural
from monai_ifim.report.results.single import absences, environments, write_single_page
from monai_ifim.report.results.style import settings

FIGURES = (
    *("pictures", "learning", "answer", "shared", "moves"),
    *("uses", "examples", "maps", "drift", "controls"),
)


@dataclass(frozen=True, eq=False)
class _Found:
    """What all folders hold.

    Attributes:
        several: experiments of several trainings.
        once: the others.
        blocks: of the first.
        good: of them, those that count.
        every: networks trained once.
        singles: of them, those above the bar.
        drift: of ``benchmarks.drift``, if it was run.
    """

    several: list[Result]
    once: list[Result]
    blocks: list[Block]
    good: list[Block]
    every: list[Single]
    singles: list[Single]
    drift: dict[str, Any] | None

    @classmethod
    def read(cls, folders: Sequence[Path]) -> _Found:
        """From the results in some folders."""
        results = [result for folder in folders for result in read_results(folder)]
        several = [r for r in results if any(n.get("trainings") for n in r["networks"].values())]
        others = [r for r in results if r not in several]
        blocks = blocks_of(several)
        every = singles_of(results)
        singles = [each for each in every if each.standing == counting(results)]
        drift = [found for folder in folders if (found := _drift(folder / "drift.json"))]
        good = counted(blocks)
        return cls(several, others, blocks, good, every, singles, drift[0] if drift else None)


def write_results_page(folders: Sequence[Path], page: Path) -> Path:
    """Draw all figures and write the page, its tables and that of single trainings.

    The same results give the same bytes.

    Args:
        folders: each with one sub-folder an experiment, with ``results.json``, and perhaps
            ``drift.json``; an experiment's figures are written beside it, those of the page into
            the first folder.
        page: the Markdown file; ``NAME_tables.md`` and ``NAME_single.md`` are written beside it
            where there is something for them. Figures are linked relatively.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: no results in one of the folders.
    """
    found = _Found.read(folders)
    paths = " ".join(shlex.quote(path.as_posix()) for path in (*folders, page))
    command = f"python -m monai_ifim results-page {paths}"
    single = page.with_name(f"{page.stem}_single.md")
    tables = page.with_name(f"{page.stem}_tables.md")
    measures = _findings(found)
    values: dict[str, Any] = {
        "research_only": RESEARCH_ONLY,
        "findings": [each.sentence for each in measures],
        "glance": table(
            ["Question", "Answer", "Mean over networks", "Behind it"],
            [each.row for each in measures],
        ),
        "tables": tables.name if found.blocks else "",
        "single": single.name if found.once else "",
        "runs": list(environments([*found.several, *found.once])),
        "hours": _hours([*found.several, *found.once]),
        "absences": list(absences([*found.several, *found.once])),
        "command": command,
        "further": listed(_further(found)),
        "picture_text": trainings.picture_sentence(_examples(found.good)),
        **_networks(found),
        **_texts(found),
        **{
            name: _saved(figure, folders[0] / f"{name}.png", page)
            for name, figure in _figures(found).items()
        },
    }
    files = [file for folder in folders for file in folder.glob("*/results.json")]
    places = {file.parent.name: file.parent for file in files}
    if found.blocks:
        shown = [*measures, *_moved(found), *once.map_findings(found.singles)]
        parts = (found.blocks, found.several, shown, found.drift)
        write_tables(*parts, places, tables, page.name, command)
    if found.once:
        write_single_page(found.once, places, single, command)
    return rendered("evidence", "results.md.j2", values, page)


def _findings(found: _Found) -> list[Finding]:
    used = list(uses.use_findings(found.good, found.several))
    return ordered(
        [
            *used,
            *once.single_findings(found.singles, alarm=not used),
            *trainings.findings(found.good),
        ]
    )


def _moved(found: _Found) -> list[Finding]:
    return list(trainings.moves_findings(found.good))


def _further(found: _Found) -> list[str]:
    """Questions that are answered in their sections alone."""
    place = "#does-the-pooled-eigenspace-find-the-known-answer"
    alone = f"[what gradients alone find, without F]({place})"
    answer = alone if any(trainings.answer_findings(found.good)) else ""
    place = "#how-far-does-the-prediction-move-along-which-direction"
    moved = f"[how far the pooled direction moves a prediction]({place})" if _moved(found) else ""
    maps = list(once.map_findings(found.singles))
    beside = "[how the sensitivity map stands beside attribution](#beside-attribution-maps)"
    return [each for each in (answer, moved, beside if maps else "") if each]


def _hours(results: Sequence[Result]) -> str:
    """Of all experiments whose time is known, empty where there is none."""
    seconds = [s for result in results if known(s := result.get("seconds"))]
    return number(sum(seconds) / 3600) if seconds else ""


def _drift(file: Path) -> dict[str, Any] | None:
    """What ``benchmarks.drift`` measured, if it did."""
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if found["networks"] else None


def _networks(found: _Found) -> dict[str, Any]:
    """Tables of the networks by whether they count, and how many of those trained once do."""
    stand = [each.standing for each in found.every]
    names = [*(each.network for each in found.every), *(each.network for each in found.blocks)]
    return {
        "stated": counting([*found.several, *found.once]) == "above",
        "networks": [
            {"words": words, "table": network_table(some) if some else "No network."}
            for words, some in groups(found.blocks).items()
        ]
        if found.blocks
        else [],
        "untried": "; ".join(
            f"`{task}`: {listed(absent)}" for task, absent in untried(found.blocks, names).items()
        ),
        "other_recipes": other_recipes(found.blocks),
        "bars": list(bars([*found.once, *found.several])),
        "single_count": f"Of {plural(len(stand), 'network')} measured on one training alone, "
        f"{stand.count('above')} count where such networks are asked; "
        f"{stand.count('below')} are below the bar, for {stand.count('no bar')} none was stated."
        if stand and set(stand) != {"no bar"}
        else "",
    }


def _texts(found: _Found) -> dict[str, str]:
    good, singles = found.good, found.singles
    return {
        "answer_text": " ".join(
            [
                trainings.enough_images(good),
                *(each.sentence for each in trainings.answer_findings(good)),
            ]
        ),
        "shared_text": " ".join(
            [
                *trainings.smoothing(good),
                trainings.untrained_agreement(good),
                trainings.weighting(good),
                trainings.other_architectures(found.several),
            ]
        )
        if good
        else "",
        "moves_text": " ".join(
            [
                *(each.sentence for each in _moved(found)),
                trainings.moved_sentence([each for each in good if each.numbers["moves"]]),
            ]
        ),
        "inside": once.inside_sentence(singles),
        "twice": trainings.trained_twice(good),
        "uses_text": uses.flip_sentence(good),
        "maps_text": " ".join(once.map_sentences(singles)),
        "drift_text": " ".join(trainings.drift_sentences(found.drift)) if found.drift else "",
        "controls_text": " ".join(once.control_sentences(singles)),
    }


def _figures(found: _Found) -> dict[str, Figure | None]:
    good, singles = found.good, found.singles
    drift = [_drift_panel(found.drift)] if found.drift else []
    with settings():
        drawn = (
            draw_pictures(_examples(good)),
            learning_figure(found.blocks),
            counts_figure(good),
            _network_figure(_shared_panels(good)),
            _network_figure([_moves_panel(good)]),
            _row_figure(uses.use_panels(good)),
            draw_maps(_mapped(singles, _examples(good))),
            _row_figure(once.map_panels(singles)),
            _row_figure(drift),
            _row_figure(once.control_panels(singles)),
        )
    return dict(zip(FIGURES, drawn, strict=True))


def _network_figure(panels: Sequence[Panel]) -> Figure | None:
    return by_network(panels) if any(panel.rows for panel in panels) else None


def _row_figure(panels: Sequence[Panel]) -> Figure | None:
    return by_row(panels) if panels else None


def _saved(figure: Figure | None, path: Path, page: Path) -> str:
    """The link to a figure, empty where there is none."""
    if figure is None:
        return ""
    with settings():
        save_figure(figure, path)
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _examples(good: Sequence[Block]) -> list[Block]:
    """Networks of one task with a known answer and of one without, both of one direction."""
    rows: list[Block] = []
    single = [e for e in good if e.numbers["directions"] == 1 and e.numbers.get("pictures")]
    for exact in (True, False):
        some = [
            each
            for each in single
            if block(each.result, "task", "known_answer") == ("exact" if exact else None)
        ]
        rows += [each for each in some if each.task == some[0].task][: 3 if exact else 2]
    return rows or list(good[:4])


def _mapped(singles: Sequence[Single], shown: Sequence[Block]) -> list[Single]:
    """Two networks of a task with a known answer, two of one without; first of ``shown`` tasks."""
    tasks = {each.task for each in shown}
    kept = [each for each in singles if block(each.numbers, "maps", "pictures")]
    kept.sort(key=lambda each: each.task not in tasks)
    rows: list[Single] = []
    for known_answer in (True, False):
        some = [e for e in kept if bool(block(e.result, "task", "known_answer")) == known_answer]
        rows += [each for each in some if each.task == some[0].task][:2]
    return rows


def _shared_panels(good: Sequence[Block]) -> list[Panel]:
    kinds = {**{kind: kind for kind in KINDS}, "untrained": "random_weights"}
    return [
        Panel(
            f"mean cos², {words}",
            stacked(
                [
                    (each.label, name, trainings.agreement(metric, kind)(each))
                    for each in good
                    for name, kind in kinds.items()
                    if name != "equal"
                ]
            ),
        )
        for metric, words in METRICS.items()
    ]


def _moves_panel(good: Sequence[Block]) -> Panel:
    rows = [
        (each.label, name, ratio)
        for each in good
        for name in MOVES
        if bounded(ratio := block(each.numbers, "moves", "ratios", name))
    ]
    return Panel("KL along the direction / KL along random ones", stacked(rows), 1, log=True)


def _drift_panel(drift: dict[str, Any]) -> Panel:
    rows = [
        (kind, name, angle)
        for name, network in drift["networks"].items()
        for kind, angle in network["angles"]["low_pass"]["1"].items()
    ]
    return Panel("angle of the leading direction, degrees", stacked(rows))
