"""The command that makes one table of what several processes have done."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command

_NAMED = 10


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="output folders of one kind of run"
    )
    parser.add_argument(
        "--table", type=Path, help="the table to write (ifim.csv in the first folder)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="see whether all volumes are as they were written"
    )


def _run(options: Namespace) -> int:
    from monai_ifim.data.run_folder.merge import merge_runs
    from monai_ifim.messages import is_failure, printable

    table = options.table or options.folders[0] / "ifim.csv"
    merged = merge_runs(options.folders, table, verify=options.verify)
    rows = {str(row["file"]): str(row["status"]) for row in merged.rows}
    failed = [file for file in rows if is_failure(rows[file])]
    print(f"{len(merged.rows)} rows, {merged.failures} of them without a result: {table}")
    lines = [f"  {file}: {rows[file]}" for file in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(f"  and {len(failed) - _NAMED} more: see the table")
    lines += [f"  not as it was written: {path}" for path in merged.damaged]
    for line in lines:
        print(printable(line))
    return 1 if failed or merged.damaged else 0


COMMANDS = (
    Command(
        "merge",
        "make one table of the journals of several processes or folders",
        "merge results",
        _arguments,
        _run,
    ),
)
