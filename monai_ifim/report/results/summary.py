"""The outcome of the experiments in a few lines."""

from __future__ import annotations

from pathlib import Path

from monai_ifim.report.results.claims import overall
from monai_ifim.report.results.measured import network_name, read_results
from monai_ifim.report.results.numbers import listed


def summary_text(results: Path) -> str:
    """The outcome in a few lines, for the terminal.

    Args:
        results: folder with one sub-folder an experiment.

    Returns:
        A line for each experiment, and what the comparisons say altogether.

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
    return "\n".join([*lines, *overall(found)])
