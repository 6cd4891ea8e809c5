"""The page of networks that were trained once: a section for each experiment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.markdown import rendered
from monai_ifim.report.results.claims import overall
from monai_ifim.report.results.figures import write_figures
from monai_ifim.report.results.measured import (
    Result,
    Standing,
    block,
    counting,
    known,
    network_name,
    networks_standing,
    networks_with,
)
from monai_ifim.report.results.numbers import count, listed, number, percent
from monai_ifim.report.results.sections import SECTIONS
from monai_ifim.report.results.tables import control_ratio_table, network_table, ratio_table
from monai_ifim.report.results.verdicts import FEWEST, TOLERANCE

TEMPLATE = "single.md.j2"


class Part(NamedTuple):
    """What one measure shows in one experiment.

    Attributes:
        title: of the sub-section.
        alt: the figure in words.
        picture: the link to it.
        text: what it shows.
        below: further Markdown.
    """

    title: str
    alt: str
    picture: str
    text: str
    below: list[str]


class Experiment(NamedTuple):
    """The section of one experiment.

    Attributes:
        title: its heading.
        about: task, source and command.
        nothing: why there is no number at all, empty where there are some.
        parts: one for each measure that was made.
        gaps: what is missing, empty where nothing is.
    """

    title: str
    about: str
    nothing: str
    parts: list[Part]
    gaps: str


def write_single_page(
    found: Sequence[Result], places: Mapping[str, Path], page: Path, command: str
) -> Path:
    """Draw the figures of experiments with one training a network, and write their page.

    The same results give the same bytes.

    Args:
        found: the results.
        places: the folder of each experiment; its figures are written there.
        page: the Markdown file; it links the figures relatively.
        command: that writes it.

    Returns:
        The path of the page.
    """
    experiments = []
    for result in found:
        folder = places[result["experiment"]]
        drawn = {path.stem for path in write_figures(result, folder)}
        linked = Path(os.path.relpath(folder, page.parent))
        experiments.append(_experiment(result, linked, drawn))
    values = {**_overview(found), "experiments": experiments, "command": command}
    return rendered("results", TEMPLATE, values, page)


def _overview(found: Sequence[Result]) -> dict[str, Any]:
    """What the template says of all experiments together."""
    unknown = [r["title"] for r in found if r["networks"] and not block(r, "task", "known_answer")]
    return {
        "research_only": RESEARCH_ONLY,
        "fewest": FEWEST,
        "tolerance": percent(TOLERANCE),
        "environments": list(environments(found)),
        "absences": list(absences(found)),
        "claims": list(overall(list(found))),
        "above": _standing(found, counting(found)),
        "below": _standing(found, "below"),
        "no_bar": _standing(found, "no bar") if counting(found) == "above" else None,
        "without_template": listed(unknown),
    }


def _standing(found: Sequence[Result], where: Standing) -> dict[str, str] | None:
    """The tables of the networks that stand so, None where there is none."""
    some = [networks_standing(result, where) for result in found]
    return _tables(some) if any(result["networks"] for result in some) else None


def _tables(found: list[Result]) -> dict[str, str]:
    """The tables over all experiments, of some of their networks."""
    return {
        "random": ratio_table(found, "random"),
        "attenuation": ratio_table(found, "attenuation"),
        "controls": control_ratio_table(found),
        "networks": network_table(found),
        **{s.name: s.overview(found) for s in SECTIONS if s.overview is not None},
    }


def environments(found: Sequence[Result]) -> Iterator[str]:
    """Experiments by the environment that they ran in, and how long they took."""
    groups: dict[str, list[str]] = {}
    for result in found:
        environment = dict(block(result, "environment") or {})
        date = environment.pop("date", None)
        about = ", ".join(f"{k} {v}" for k, v in environment.items() if v not in (None, ""))
        minutes = result.get("seconds")
        facts = [f"profile {result['profile']}"] if result.get("profile") else []
        facts += [str(date)] if date else []
        facts += [f"{number(minutes / 60)} min"] if known(minutes) else []
        run = f"{result['experiment']} ({', '.join(facts)})" if facts else result["experiment"]
        groups.setdefault(about or "environment not recorded", []).append(run)
    for about, runs in groups.items():
        yield f"- {listed(runs)}: {about}."


def absences(found: Sequence[Result]) -> Iterator[str]:
    """Experiments that did not run, or not to their end, and flips left out, with the reason."""
    for result in found:
        if not result["networks"]:
            yield f"- **Absent: {result['title']}.** {_reason(result)}."
        elif result.get("missing") or not result.get("complete"):
            yield f"- **Incomplete: {result['title']}.** {_reason(result)}."
        reasons: dict[str, list[str]] = {}
        for name, network in result["networks"].items():
            for numbers in network.get("trainings") or []:
                if why := block(numbers, "uses", "flips_missing"):
                    names = reasons.setdefault(str(why).rstrip("."), [])
                    names += [] if network_name(name) in names else [network_name(name)]
        for why, names in reasons.items():
            yield f"- **No smallest change: {result['title']}, {listed(names)}.** {why}."


def _reason(result: Result) -> str:
    """Why there is not everything."""
    failures = result.get("failures") or {}
    reasons = [str(result.get("missing") or "").rstrip(".")]
    reasons += [f"{network_name(name)}: {why}".rstrip(".") for name, why in failures.items()]
    return "; ".join(filter(None, reasons)) or "The run did not finish"


def _experiment(result: Result, linked: Path, drawn: set[str]) -> Experiment:
    empty = not result["networks"]
    parts = [
        Part(
            section.title or section.name.capitalize(),
            section.alt,
            (linked / f"{section.name}.png").as_posix(),
            " ".join(section.sentences(result)) or "The figure has the numbers.",
            list(section.below(result)),
        )
        for section in SECTIONS
        if section.name in drawn
    ]
    return Experiment(
        title=result["title"],
        about="\n".join(_about(result)),
        nothing=_reason(result) if empty else "",
        parts=[] if empty else parts,
        gaps="" if empty else "; ".join(_gaps(result)),
    )


def _about(result: Result) -> Iterator[str]:
    """Task, source of the images, and the command that ran the experiment."""
    task: dict[str, Any] = block(result, "task") or {}
    classes, shape = task.get("classes") or [], task.get("shape") or []
    facts = [f"{len(classes)} classes ({', '.join(map(str, classes))})"] if classes else []
    facts += [f"images of {' × '.join(map(str, shape))}"] if shape else []
    for key, words in (("train", "training images"), ("test", "test images")):
        facts += [f"{count(task[key])} {words}"] if known(task.get(key)) else []
    if facts:
        yield f"{', '.join(facts)}."
    if task.get("source"):
        yield f"Source: {str(task['source']).rstrip('.')}."
    if result.get("command"):
        yield f"\n```\n{result['command']}\n```"


def _gaps(result: Result) -> Iterator[str]:
    """Measures, and parts of them, that no network or not every network has."""
    for section in SECTIONS:
        if section.applies(result):
            there = networks_with(result, section.name)
            lacking = [network_name(name) for name in result["networks"] if name not in there]
            if lacking:
                yield f"{section.name} ({listed(lacking)})" if there else section.name
    for section in SECTIONS:
        yield from section.gaps(result)
