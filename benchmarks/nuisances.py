"""How much of each nuisance predictions on real images tolerate: by the law, and as measured.

    python -m benchmarks.nuisances --output docs/nuisances/measured.json \
        --data ifim_hippocampus_3d=FOLDER ifim_mednist_2d=FOLDER
    python -m benchmarks.nuisances --output docs/nuisances/measured.json  # the table of the page

Each bundle runs as a user runs it, with the columns ``nuisance_*``. Without --data the table of
docs/guides/nuisances.md is written of what was measured before: the images are real ones, which are
not in this repository.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from monai_ifim.data.tables import read_table
from monai_ifim.experiments.environment import environment

ROOT = Path(__file__).parents[1]
NAMES = ("rotation", "shift", "scale", "gain", "offset", "gamma", "bias_field", "blur", "noise")
IMAGES = 60
LEVELS = (0.1, 0.01)
PAGE = ROOT / "docs" / "guides" / "nuisances.md"
MARKS = ("<!-- measured -->", "<!-- end of measured -->")
HEAD = (
    "change",
    "plausible range",
    "answer changes",
    "0.1 nat is reached",
    "at θ\\*",
    "0.01 nat is reached",
    "θ\\*/θ there",
    "AUC",
)


def run(bundle: str, images: Sequence[Path], level: float, folder: Path) -> Path:
    """One run with all nuisances.

    Returns:
        Its folder of results.

    Raises:
        RuntimeError: it failed.
    """
    output = folder / f"{bundle}_{level:g}"
    command = [
        sys.executable,
        "-m",
        "monai_ifim",
        "run",
        "--bundle",
        str(ROOT / "bundles" / bundle),
    ]
    command += ["--input", *map(str, images), "--output", str(output), "--batch-size", "10"]
    command += ["--nuisances", *NAMES, "--set", "ifim_volumes=[]"]
    command += [f"handlers::1::questions::level={level}"]  # the second of our bundles' handlers
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no results from {command}:\n{done.stderr[-2000:]}")
    return output


def summary(output: Path) -> list[dict[str, Any]]:
    """One line for each nuisance of a run: the law against what was measured, over the images."""
    ranges = json.loads((output / "run.json").read_text())["identity"]["settings"]["questions"][0][
        "ranges"
    ]
    rows = [row for row in read_table(output / "ifim.csv") if row["status"] == "ok"]
    lines = []
    for name, known in ranges.items():
        measured = [_number(row[f"nuisance_{name}"]) for row in rows]
        law = [_number(row[f"nuisance_{name}_law"]) for row in rows]
        flips = [row[f"nuisance_{name}_flip"] != "" for row in rows]
        pairs = zip(measured, law, strict=True)
        ratios = [abs(m) / s for m, s in pairs if m is not None and s is not None]
        reached = [m is not None for m in measured]
        lines.append(
            {
                "name": name,
                "unit": known["unit"],
                "reach": known["reach"],
                "one_sided": known["one_sided"],
                "images": len(rows),
                "reached": sum(reached) / len(rows),
                "changed": sum(flips) / len(rows),
                "measured": _spread([abs(m) for m in measured if m is not None]),
                "ratio": _spread(ratios),
                "auc": _auc([float("inf") if s is None else s for s in law], reached),
            }
        )
    return lines


def _number(text: str) -> float | None:
    return float(text) if text else None


def _spread(values: Sequence[float]) -> list[float] | None:
    """10 %, median and 90 %; None of fewer than five."""
    if len(values) < 5:
        return None
    tenths = quantiles(values, n=10, method="inclusive")
    return [tenths[0], tenths[4], tenths[8]]


def _auc(law: Sequence[float], reached: Sequence[bool]) -> float | None:
    """How often an image that reaches the level has the smaller amount by the law."""
    inside = [s for s, hit in zip(law, reached, strict=True) if hit]
    outside = [s for s, hit in zip(law, reached, strict=True) if not hit]
    if min(len(inside), len(outside)) < 5:
        return None
    wins = sum((a < b) + 0.5 * (a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


def markdown(result: dict[str, Any]) -> str:
    """The tables of the page.

    Args:
        result: content of the file.

    Returns:
        Markdown.
    """
    lines = []
    for bundle, levels in result["bundles"].items():
        changed, small = levels["0.1"], levels["0.01"]
        lines += [f"**`{bundle}`**, {changed[0]['images']} images:", ""]
        lines += [f"| {' | '.join(HEAD)} |", f"| {' | '.join(['---'] * len(HEAD))} |"]
        for one, other in zip(changed, small, strict=True):
            cells = (
                one["name"].replace("_", " "),
                f"{'0 to ' if one['one_sided'] else '±'}{one['reach']:g} {one['unit']}",
                f"{100 * one['changed']:.0f} %",
                f"{100 * one['reached']:.0f} %",
                _in_words(one["measured"]),
                f"{100 * other['reached']:.0f} %",
                _in_words(other["ratio"]),
                "–" if other["auc"] is None else f"{other['auc']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    made = result["environment"]
    lines.append(
        f"(`python -m benchmarks.nuisances`, {made['date']}, torch {made['torch']}, "
        f"MONAI {made['monai']}.)"
    )
    return "\n".join(lines)


def _in_words(spread: Sequence[float] | None) -> str:
    if spread is None:
        return "–"
    low, middle, high = (f"{value:.2g}" for value in spread)
    return f"{middle} ({low} to {high})"


def write_page(result: dict[str, Any], page: Path = PAGE) -> None:
    """Put the tables between the marks of the page."""
    head, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    text = f"{head}{MARKS[0]}\n{markdown(result)}\n{MARKS[1]}{tail}"
    page.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write.

    Returns:
        0.
    """
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=(), metavar="BUNDLE=FOLDER")
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args(argv)
    if not options.data:
        write_page(json.loads(options.output.read_text(encoding="utf-8")))
        return 0
    result: dict[str, Any] = {"environment": environment(), "bundles": {}}
    for text in options.data:
        bundle, _, folder = text.partition("=")
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        images = sorted(random.Random(0).sample(files, min(options.images, len(files))))
        with tempfile.TemporaryDirectory() as place:
            levels = {
                f"{level:g}": summary(run(bundle, images, level, Path(place))) for level in LEVELS
            }
        result["bundles"][bundle] = levels
        print(json.dumps(levels, indent=1))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
