"""The command that says what is there and what fits."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="folder of a MONAI bundle to look at"
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="images or folders; the first image is tried (a random one of the metadata's shape)",
    )
    parser.add_argument("--device", help="where to try it: cpu or cuda:0 (the bundle's own choice)")


def _doctor(options: Namespace) -> int:
    from monai_ifim.cli.quiet import messages_of_package
    from monai_ifim.runs import RunOptions
    from monai_ifim.runs.doctor import examine_bundle, machine_lines, reader_lines

    if options.bundle is None and (options.input or options.device):
        raise ValueError(
            "expected --bundle with --input and --device, got none; name the bundle to try"
        )
    with messages_of_package(options.debug):
        print("\n".join([*machine_lines(), *reader_lines()]))
        if options.bundle is None:
            return 0
        print(f"\nbundle: {options.bundle}")
        chosen = RunOptions(device=options.device)
        found = examine_bundle(options.bundle, options.input, chosen)
    print(found)
    return 1 if found.problems else 0


COMMANDS = (
    Command(
        "doctor",
        "tell what is installed, and whether a bundle fits",
        "doctor --bundle bundles/ifim_signal_2d --input images",
        _arguments,
        _doctor,
    ),
)
