"""The entry points return the same numbers as those of another commit.

python -m benchmarks.same_numbers --against COMMIT
python -m benchmarks.same_numbers --against HEAD --only "one image" bundle

Every case of ``answers`` runs with both versions of the package. On the exact path each value must
have the same bits. Where the result is an approximation, values may differ by ``TOLERANCE`` of
their largest; the largest difference is printed. The status is 1 when a case differs.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
# Cases of an approximation, whose products may be summed in another order.
APPROXIMATE = ("truncated", "Krylov", "segmentation")
TOLERANCE = 1e-5
# Approximate eigenvectors are defined up to signs, and up to rotations of close eigenvalues; the
# components "high" and "orth" are not.
UNDETERMINED = ("eigenvectors", "coefficients")
# Comes before any way in which the package is installed, and knows where configs/ lies.
FINDER = """
import importlib.util, sys
from pathlib import Path

ROOT = Path({root!r})
PLACES = {{"monai_ifim": ROOT / "monai_ifim", "monai_ifim.configs": ROOT / "configs"}}


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in PLACES:
            place = PLACES[name]
            return importlib.util.spec_from_file_location(
                name, place / "__init__.py", submodule_search_locations=[str(place)]
            )


sys.meta_path.insert(0, Finder)
"""


def extract(commit: str, folder: Path) -> None:
    """The files of a commit, without a trace in the repository.

    Args:
        commit: any name that git knows.
        folder: where they are put.

    Raises:
        ValueError: git does not know the commit.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"expected a commit, got {commit!r}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def start(root: Path, folder: Path, cases: Sequence[str]) -> subprocess.Popen[str]:
    """Answer the cases in a process that has the package below ``root``.

    Args:
        root: holds ``monai_ifim`` and ``configs``.
        folder: of ``answers.pt``, and of what makes Python find that package.
        cases: parts of their names; all cases when empty.

    Returns:
        The running process.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FINDER.format(root=str(root)))
    # Away from this folder, so that its modules are not on the path.
    script = shutil.copy(Path(__file__).with_name("answers.py"), folder)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(script), str(folder / "answers.pt"), *cases]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], root: Path, folder: Path) -> dict[str, Any]:
    """The answers of a process.

    Args:
        process: what ``start`` has returned.
        root: given to ``start``.
        folder: given to ``start``.

    Returns:
        Values by case, entry point and name.

    Raises:
        RuntimeError: the process failed, or found another copy of the package.
    """
    log, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"expected the cases of {root} to run, got:\n{log[-3000:]}")
    saved = torch.load(folder / "answers.pt", weights_only=True)
    if Path(saved["package"]) != root / "monai_ifim":
        raise RuntimeError(f"expected the package below {root}, got {saved['package']}")
    return saved["answers"]


def columns(table: str) -> dict[str, Tensor | tuple[str, ...]]:
    """The columns of a CSV file; those of numbers as tensors in float64."""
    rows = list(csv.DictReader(io.StringIO(table)))
    found: dict[str, Tensor | tuple[str, ...]] = {}
    for name in rows[0]:
        cells = tuple(row[name] for row in rows)
        try:
            found[name] = torch.tensor([float(cell) for cell in cells], dtype=torch.float64)
        except ValueError:
            found[name] = cells
    return found


def difference(one: Any, other: Any) -> float:
    """How far two values are apart.

    Args:
        one: a tensor, or anything that can be compared.
        other: of the same kind.

    Returns:
        0 for the same bits; the largest difference, relative to the largest value; infinity for
        another shape or type, other texts, or NaN in other places.

    >>> difference(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 3.0]))
    0.25
    >>> difference(torch.tensor([math.nan]), torch.tensor([math.nan]))
    0.0
    >>> difference(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))
    inf
    """
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return 0.0 if type(one) is type(other) and one == other else math.inf
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    same = (one == other) | (one.isnan() & other.isnan())
    if same.all():
        return 0.0
    apart = (one[~same].double() - other[~same].double()).abs().max()
    relative = float(apart / one.double().abs().nan_to_num(0.0).max())
    return relative if math.isfinite(relative) else math.inf


def differences(
    case: str, one: dict[str, Any], other: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Each value of an entry point, and how far it is from that of the other version."""
    approximate = any(word in case for word in APPROXIMATE)
    for name in {**one, **other}:
        if approximate and name in UNDETERMINED:
            continue
        pair = one.get(name), other.get(name)
        if approximate and name.endswith(".csv") and None not in pair:
            first, second = map(columns, pair)
            for column in {**first, **second}:
                yield f"{name}, {column}", difference(first.get(column), second.get(column))
        else:
            yield name, difference(*pair)


def compare(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Print a line for each case and entry point.

    Args:
        before: answers of the other commit.
        now: answers of this version.

    Returns:
        Whether every value is the same, or within the tolerance of an approximation.
    """
    equal = True
    print(f"{'case':37} {'entry point':24} values  largest difference")
    for case in {**before, **now}:
        allowed = TOLERANCE if any(word in case for word in APPROXIMATE) else 0.0
        for point in {**before.get(case, {}), **now.get(case, {})}:
            one, other = (side.get(case, {}).get(point, {}) for side in (before, now))
            found = dict(differences(case, one, other))
            largest = max(found.values(), default=math.inf)
            wrong = [name for name, value in found.items() if value > allowed]
            text = "same bits" if largest == 0 else f"{largest:.0e} of {allowed:.0e} allowed"
            verdict = f"; DIFFERENT: {', '.join(wrong)}" if wrong or not found else ""
            print(f"{case:37} {point:24} {len(found):6}  {text}{verdict}")
            equal &= not verdict
    return equal


def main(argv: Sequence[str] | None = None) -> int:
    """Compare this version with a commit.

    Args:
        argv: arguments of the command.

    Returns:
        0, or 1 when a value differs.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="of a case's name")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        extract(options.against, folder / "commit")
        roots = folder / "commit", ROOT.resolve()
        places = folder / "before", folder / "now"
        # Side by side: both have one thread.
        processes = [start(*pair, options.only) for pair in zip(roots, places, strict=True)]
        parts = zip(processes, roots, places, strict=True)
        before, now = [finish(*part) for part in parts]
    if not before:
        parser.error(f"expected parts of the names of cases, got --only {options.only}")
    equal = compare(before, now)
    print(f"\n{len(now)} cases: " + ("the same" if equal else f"not those of {options.against}"))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
