"""The command that writes the results of a run as DICOM objects."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command

_OBJECTS = ("maps", "picture", "numbers")


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("output_dir", type=Path, help="of the run: ifim.csv and volumes")
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATH",
        help="series, or folders with some, in the place of those that the run has read",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="of the objects (dicom, in the run's folder)"
    )
    parser.add_argument(
        "--objects",
        nargs="+",
        choices=_OBJECTS,
        default=_OBJECTS,
        help="Parametric Maps, Secondary Captures, structured reports (all)",
    )


def _write(options: Namespace) -> int:
    from monai_ifim.dicom.results import write_results

    export = write_results(
        options.output_dir,
        sources=options.source,
        folder=options.output,
        objects=options.objects,
    )
    print(export)
    return 0 if export.complete else 1


COMMANDS = (
    Command(
        "dicom",
        "write the results of a run as DICOM objects, in the studies of their series",
        "dicom results",
        _arguments,
        _write,
        extra="dicom",
    ),
)
