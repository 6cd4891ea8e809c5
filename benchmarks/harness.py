"""What every benchmark needs: options, interleaved times, the environment, a file of results.

A benchmark is a module with ``main(argv: Sequence[str] | None = None) -> None`` that measures what
settles one sentence and hands it to ``report``:

    def main(argv: Sequence[str] | None = None) -> None:
        options = read_options(__doc__, argv)  # --quick --repeats --seconds --device --output
        case = tiny(32, 3, 2) if options.quick else densenet(224, 10, 8)
        network, images = case.build(options.device)
        times = interleave(  # seconds by name, and failures
            {
                "lower bound": lambda: lower_bound(network, images),
                "ours": lambda: eigenspace(network, images),
            },
            options,
        )
        row = [case.name, times.spread("lower bound"), times.ratio("ours", "lower bound")]
        report(
            options, "name of this module", title=..., claim=..., columns=[...], rows=[row],
            notes=[...],
        )

``benchmarks/cases.py`` has networks, the lower bound and a float64 reference;
``benchmarks/memory.py`` has ``peak_memory``. A name in ``benchmarks/__main__.py`` puts the
benchmark into ``make bench``; ``benchmarks/page.py`` needs nothing new.

The file is JSON:

    title        heading of the section
    claim        the sentence that the numbers settle
    command      how to measure it again
    environment  processor, cores, threads, versions, device, date
    columns      list of headings
    rows         lists of as many cells: a text, a number, null (shown as a dash), or
                 [median, smallest, largest]
    notes        list of sentences: how it was measured, what failed, what was left out
    tables       optional, further tables: lists of {"heading", "columns", "rows"}
    figure       optional, name of a picture beside the file
    quick        true for a smoke test; such a file is no result
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from monai_ifim.experiments.environment import processor

Cell = str | float | None | list[float]
Function = Callable[[], object]


def read_options(
    about: str | None, argv: Sequence[str] | None, *, repeats: int = 5, seconds: float = 30
) -> argparse.Namespace:
    """The options that all benchmarks have.

    Args:
        about: the module's docstring.
        argv: the command line without the program; None for that of the process.
        repeats: how many rounds at most.
        seconds: how long the rounds of one case may take; there are two at least.

    Returns:
        ``quick``, ``repeats``, ``seconds``, ``device`` (a ``torch.device``),
        ``output`` (a path or None) and ``argv`` (a list of texts).
    """
    return finish_options(option_parser(about, repeats=repeats, seconds=seconds), argv)


def option_parser(
    about: str | None, *, repeats: int = 5, seconds: float = 30
) -> argparse.ArgumentParser:
    """The parser of ``read_options``, for benchmarks with an option of their own."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds of a case, at most")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="stop a case's rounds after these, from two"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser


def finish_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parsed options; see ``read_options``."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(argv)
    options.argv = argv
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none; leave --device out to measure the CPU")
    return options


@dataclass
class Times:
    """Seconds of every round by function, and why others could not run.

    Attributes:
        rounds: seconds by name, one a round, in the order of the rounds.
        failures: by name, the error of a function that failed in the warm-up.
    """

    rounds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def spread(self, name: str) -> Cell:
        """[median, smallest, largest] seconds; the reason when it failed."""
        return spread(self.rounds[name]) if name in self.rounds else self.failures.get(name)

    def ratio(self, name: str, base: str) -> Cell:
        """Ratio of the times within a round.

        Both sides of a ratio were measured seconds apart, so other tenants of the machine and its
        clock move the ratio less than they move the seconds.

        Args:
            name: of the function above.
            base: of the function below.

        Returns:
            [median, smallest, largest]; the reason when one of them failed.
        """
        if name not in self.rounds or base not in self.rounds:
            return self.failures.get(name, self.failures.get(base))
        pairs = zip(self.rounds[name], self.rounds[base], strict=True)
        return spread([a / b for a, b in pairs])


def interleave(functions: Mapping[str, Function], options: argparse.Namespace) -> Times:
    """Time all functions in turn in one process, after one warm-up of each.

    Every other round runs in reverse order, so that none always follows the same neighbour.

    Args:
        functions: what to time, by name.
        options: those of ``read_options``.

    Returns:
        The times. A function that raises in its warm-up is left out, with the reason. A smoke
        test takes the warm-up for its only round.
    """
    gc.collect()
    gc.freeze()  # so that the collections between calls look at what the calls left, not at torch
    try:
        return _interleave(functions, options)
    finally:
        gc.unfreeze()


def _interleave(functions: Mapping[str, Function], options: argparse.Namespace) -> Times:
    times = Times()
    expected = 0.0
    for name, function in functions.items():
        try:
            seconds = timed(function, options.device)
        except Exception as error:
            times.failures[name] = reason(error)
        else:
            expected += seconds
            times.rounds[name] = [seconds] if options.quick else []
    if options.quick:
        return times
    spent = 0.0
    for number in range(options.repeats):
        if number >= 2 and spent + expected > options.seconds:
            break
        names = list(times.rounds)
        for name in names if number % 2 == 0 else reversed(names):
            times.rounds[name].append(timed(functions[name], options.device))
        expected = sum(values[-1] for values in times.rounds.values())
        spent += expected
    return times


def timed(function: Function, device: torch.device) -> float:
    """Wall-clock seconds of one call, until the device has finished."""
    gc.collect()  # a peer's reference cycles are not the next one's time
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> list[float]:
    """[median, smallest, largest]."""
    return [statistics.median(values), min(values), max(values)]


def reason(error: BaseException) -> str:
    """The kind and the first line of an error, short enough for a table."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"failed: {type(error).__name__}: {first}"[:200]


def environment(device: torch.device, packages: Sequence[str] = ()) -> dict[str, str | int]:
    """Where it was measured.

    Args:
        device: what was measured.
        packages: distributions whose version matters besides torch, MONAI and this one.

    Returns:
        Texts and numbers ready for JSON.
    """
    about: dict[str, str | int] = {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    for name in ("torch", "monai", "monai-ifim", *packages):
        with suppress(PackageNotFoundError):
            about[name] = version(name)
    about["device"] = device.type
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
        about["cuda"] = str(torch.version.cuda)
        about["cudnn"] = str(torch.backends.cudnn.version())
        # TF32 rounds the gradients to ten bits: errors are read with this in mind.
        about["tf32 in convolutions"] = str(torch.backends.cudnn.allow_tf32)
        about["tf32 in products"] = str(torch.backends.cuda.matmul.allow_tf32)
    about["date"] = datetime.date.today().isoformat()
    return about


def _rounded(value: Any) -> Any:
    """Lists and dictionaries with four digits of every number: the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(part) for part in value]
    return value


def report(  # noqa: PLR0913 - the parts of a section, all by name
    options: argparse.Namespace,
    module: str,
    *,
    title: str,
    claim: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    notes: Sequence[str] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    packages: Sequence[str] = (),
    **further: Any,
) -> dict[str, Any]:
    """Print the tables, and write the file that ``--output`` names.

    Args:
        options: those of ``read_options``.
        module: name of the benchmark, for the command.
        title: heading of its section.
        claim: one sentence.
        columns: headings.
        rows: cells as the module's docstring has them.
        notes: sentences.
        tables: further tables.
        packages: see ``environment``.
        further: more entries of the file.

    Returns:
        What the file holds.
    """
    from benchmarks.page import table

    record: dict[str, Any] = {
        "title": title,
        "claim": claim,
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *options.argv]),
        "environment": environment(options.device, packages),
        "columns": list(columns),
        "rows": _rounded(rows),
        "notes": list(notes),
        **({"tables": _rounded(tables)} if tables else {}),
        **further,
        **({"quick": True} if options.quick else {}),
    }
    print(f"{title}: {claim}\n\n{table(record['columns'], record['rows'])}")
    for part in record.get("tables", ()):
        print(f"\n{part['heading']}\n\n{table(part['columns'], part['rows'])}")
    print("\n".join(["", *record["notes"]]), flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        options.output.write_text(text + "\n", encoding="utf-8")
    return record
