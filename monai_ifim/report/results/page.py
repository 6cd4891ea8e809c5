"""The page of results: written from the measured numbers, never by hand."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import complete_file
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.markdown import folded
from monai_ifim.report.results.claims import (
    KINDS,
    claim_sentence,
    claims,
    counted,
    figure_sentences,
    untaught_claims,
)
from monai_ifim.report.results.measured import (
    Result,
    block,
    known,
    map_methods,
    network_name,
    networks_with,
    read_results,
)
from monai_ifim.report.results.numbers import listed, number
from monai_ifim.report.results.plots import FIGURES, write_plots
from monai_ifim.report.results.tables import (
    METHODS,
    agreement_table,
    corruption_table,
    detection_table,
    law_table,
    map_table,
    network_table,
    number_of,
    ratio_table,
    untaught_table,
)

INTRODUCTION = """\
F(x), the input-dependent Fisher information matrix of a classifier, says which small changes of an
image x change the prediction: KL(p(x) ‖ p(x+d)) ≈ ½ dᵀF(x)d. Its eigenvectors with nonzero
eigenvalues span the eigenspace, which splits every image into a high-sensitivity and an orthogonal
component. The experiments below test on trained networks whether this split predicts how much a
prediction moves, and compare it with known ideal templates, with attribution and with controls."""

EVIDENCE = """\
- **Arithmetic, no evidence.** The leading eigenvector maximises ½ dᵀFd by definition, and outside
  the eigenspace ½ dᵀFd is 0 by definition. That the one moves the prediction most at small norms,
  and the other hardly at all, follows from the definitions, whatever the network.
- **Evidence that F describes the network.** Random directions inside against outside the
  eigenspace, and parts of the components taken away, at norms beyond the quadratic regime, where no
  identity decides the outcome; and pixels that attribution selects, moved towards the image's mean
  by the same norm. Networks that have learned nothing pass this too (a table below): it says that
  F describes the function, not that the function is right.
- **Evidence that the eigenspace means something.** Its angle with a known template, where the task
  has one, beside networks with random weights and networks trained on shuffled labels. These
  controls can fail.
- **Two classes.** F then has rank one: a random direction inside the eigenspace is ± the leading
  eigenvector, the trace is the largest eigenvalue, and entropy ranks as the probability does.

The claim tested (S. Sengupta and M. A. Anastasio, arXiv 2606.16362): at equal norm, changes of the
high-sensitivity component move the prediction more than changes of the orthogonal one. By rule it
**holds** where the 95 % bootstrap interval of the ratio of the mean KL divergences lies entirely
above 1, is **undecided** where the interval holds 1 or rests on fewer than 8 images, and **fails**
where it lies entirely below 1. Numbers are given as `value [interval]`; comparisons are not
corrected for their number. Intervals are over images (paired where two means are compared) and hold
for the one training that was measured, with one random direction for each image; only those of the
random weights are over networks. A few images carry most of a mean divergence, and percentile
intervals of such ratios are too narrow."""

ALT = {
    "perturbation": "Divergence, flips and AUC under changes of equal norm",
    "law": "Error and reach of the quadratic law",
    "detection": "AUC for wrong predictions and changed images",
    "agreement": "Cosines with the known template",
    "controls": "Angles between eigenspaces and AUC of the controls",
    "maps": "Maps of sensitivity beside attribution",
}


def write_results_page(results: Path, page: Path) -> Path:
    """Draw the figures of all experiments and write the page that shows them.

    The same results give the same bytes.

    Args:
        results: folder with one sub-folder an experiment, each with ``results.json``; the figures
            are written beside it.
        page: the Markdown file; it links the figures relatively.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: no results there.
    """
    found = read_results(results)
    linked = Path(os.path.relpath(results, page.parent))
    sections = []
    for result in found:
        folder = results / result["experiment"]
        drawn = {path.stem for path in write_plots(result, folder)}
        sections.append("\n\n".join(_section(result, linked / result["experiment"], drawn)))
    text = "\n\n".join([*_top(found), *sections, _last_line(results, page)]) + "\n"
    with complete_file(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def summary_text(results: Path) -> str:
    """The outcome in a few lines, for the terminal.

    Args:
        results: folder with one sub-folder an experiment.

    Returns:
        A line an experiment, and what the comparisons say altogether.

    Raises:
        FileNotFoundError: no results there.
    """
    found = read_results(results)
    lines = []
    for result in found:
        names = listed(list(map(network_name, result["networks"]))) or "no network"
        state = "" if result.get("complete") else " (incomplete)"
        lines.append(f"{result['experiment']}: {names}{state}")
        if result.get("missing"):
            lines.append(f"  missing: {result['missing']}")
    lines += [f"{line}." for line in _verdicts(found)]
    return "\n".join(lines)


def _verdicts(found: list[Result]) -> Iterator[str]:
    for kind, words in KINDS.items():
        made = [claim for result in found for claim in claims(result, kind)]
        if made:
            far = [claim.outcome for claim in made if claim.beyond]
            regime = counted(far) if far else "was not tested"
            yield (
                f"For {words}, the claim {counted(claim.outcome for claim in made)}; beyond the "
                f"quadratic regime, where no identity decides, it {regime}"
            )
    untaught = [claim.outcome for result in found for claim in untaught_claims(result)]
    if untaught:
        yield (
            "At networks with random weights or shuffled labels, the claim for random directions "
            f"{counted(untaught)}: it is about the network as it is, not about what it learned"
        )


def _top(found: list[Result]) -> Iterator[str]:
    yield "# Results"
    yield "*This page is generated from the measured numbers; no number in it is typed.*"
    yield INTRODUCTION
    yield f"> {RESEARCH_ONLY}"
    yield "## What was run"
    yield "\n".join(_environments(found))
    yield "\n".join(_absences(found)) or "No experiment is absent or incomplete."
    yield "## What counts as evidence"
    yield EVIDENCE
    yield "## Does the claim hold?"
    yield "\n".join(f"- {line}." for line in _verdicts(found)) or "Nothing was measured."
    yield (
        "The last column has the mean KL inside by what the quadratic law predicts for it, at the "
        "same norms: more than 10 % off 1 is beyond the quadratic regime."
    )
    yield "Mean KL of random changes inside the eigenspace by that of random changes outside it:"
    yield ratio_table(found, "random")
    yield (
        "Mean KL of x − αx_h by that of x − βx_o, with β such that both changes have the same norm:"
    )
    yield ratio_table(found, "attenuation")
    yield "The first ratio again, at networks that have learned nothing:"
    yield untaught_table(found)
    yield "## Trained networks"
    yield network_table(found)
    yield "## The quadratic law"
    yield (
        "Relative difference between KL and ½ dᵀFd at small norms in float64, and the radius along "
        "the leading eigenvector: the largest norm, on a grid with steps of a third, up to which "
        "they differ by at most 10 %, in input units and as a share of the images' norm."
    )
    yield law_table(found)
    yield "## Agreement with the known template"
    yield "\n".join(_template_note(found))
    yield agreement_table(found)
    yield "## Telling wrong predictions"
    yield "AUC for wrong against right predictions; 0.5 is no information."
    yield detection_table(found)


def _template_note(found: list[Result]) -> Iterator[str]:
    yield (
        "Smallest principal cosine between eigenspace and template, median over images. “Ideal” "
        "is the ideal observer's; “best linear” the Hotelling template, a reference only. Chance "
        "is the median for directions drawn at random; the interval of the random weights is over "
        "networks, that of the shuffled labels over the images of one network."
    )
    unknown = [r["title"] for r in found if r["networks"] and not block(r, "task", "known_answer")]
    if unknown:
        yield f"No answer is known for {listed(unknown)}."


def _environments(found: list[Result]) -> Iterator[str]:
    """Experiments by the environment that they ran in."""
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


def _absences(found: list[Result]) -> Iterator[str]:
    for result in found:
        if not result["networks"]:
            yield f"- **Absent: {result['title']}.** {_reason(result)}."
        elif result.get("missing") or not result.get("complete"):
            yield f"- **Incomplete: {result['title']}.** {_reason(result)}."


def _reason(result: Result) -> str:
    """Why there is not everything."""
    failures = result.get("failures") or {}
    reasons = [str(result.get("missing") or "").rstrip(".")]
    reasons += [f"{network_name(name)}: {why}".rstrip(".") for name, why in failures.items()]
    return "; ".join(filter(None, reasons)) or "The run did not finish"


def _section(result: Result, linked: Path, drawn: set[str]) -> Iterator[str]:
    yield f"## {result['title']}"
    yield "\n".join(_task(result))
    if not result["networks"]:
        yield f"Nothing was measured: {_reason(result)}."
        return
    for figure in FIGURES:
        if figure not in drawn:
            continue
        yield f"### {figure.capitalize()}"
        yield f"![{ALT[figure]}]({(linked / f'{figure}.png').as_posix()})"
        yield figure_sentences(result, figure) or "The figure has the numbers."
        if figure == "perturbation":
            told = [f"- {claim_sentence(result, kind)}" for kind in KINDS if claims(result, kind)]
            yield "\n".join(told) or "No ratios were measured."
        if figure == "detection" and networks_with(result, "detection", "corruption_auc"):
            yield folded("AUC for changed against unchanged images", corruption_table(result))
        if figure == "maps":
            yield folded("The maps in numbers", map_table(result))
    gaps = "; ".join(_gaps(result))
    if gaps:
        yield f"Not measured here: {gaps}."


VERBS = (("train", "train on"), ("test", "test on"))


def _task(result: Result) -> Iterator[str]:
    task: dict[str, Any] = block(result, "task") or {}
    classes, shape = task.get("classes") or [], task.get("shape") or []
    facts = [f"{len(classes)} classes ({', '.join(map(str, classes))})"] if classes else []
    facts += [f"images of {' × '.join(map(str, shape))}"] if shape else []
    facts += [f"{number_of(task[k])} images to {verb}" for k, verb in VERBS if known(task.get(k))]
    if facts:
        yield f"{', '.join(facts)}."
    if task.get("source"):
        yield f"Source: {str(task['source']).rstrip('.')}."
    if result.get("command"):
        yield f"\n```\n{result['command']}\n```"


def _gaps(result: Result) -> Iterator[str]:
    """Blocks that no network, or not every network, has."""
    for figure in FIGURES:
        if figure == "agreement" and not block(result, "task", "known_answer"):
            continue  # said above the table: there is nothing to agree with
        there = networks_with(result, figure)
        lacking = [network_name(name) for name in result["networks"] if name not in there]
        if lacking:
            yield figure if not there else f"{figure} ({listed(lacking)})"
    detected = networks_with(result, "detection")
    silent = [network_name(name) for name, part in detected.items() if not part.get("error_auc")]
    if silent:
        yield f"wrong predictions by the trace ({listed(silent)})"
    maps = map_methods(result)
    for method, words in METHODS.items():
        lacking = [network_name(name) for name, part in maps.items() if not part.get(method)]
        if 0 < len(lacking) < len(maps):
            yield f"the map of {words} ({listed(lacking)})"


def _last_line(results: Path, page: Path) -> str:
    paths = " ".join(shlex.quote(path.as_posix()) for path in (results, page))
    return f"This page is generated by `python -m monai_ifim evidence-page {paths}`"
