"""The command that runs a network over files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="folder of a MONAI bundle", required=True
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, or folders that are searched: NIfTI, DICOM, PNG, JPEG, TIFF, NRRD, MetaImage",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the results"
    )
    eigenspace = parser.add_argument_group("the components")
    eigenspace.add_argument("--rank", type=int, help="keep at most so many eigenpairs")
    eigenspace.add_argument(
        "--energy", type=float, help="keep the fewest eigenpairs with this share of the trace"
    )
    eigenspace.add_argument(
        "--volumes",
        nargs="+",
        choices=["high", "orth", "sensitivity"],
        help="which to write (high orth)",
    )
    eigenspace.add_argument(
        "--likelihood",
        choices=["categorical", "bernoulli"],
        help="softmax, or sigmoids (recognised in the bundle when left out)",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", help="cpu or cuda:0 (a GPU where there is one)")
    machine.add_argument("--batch-size", type=int, metavar="N", help="images in one batch")
    machine.add_argument("--workers", type=int, metavar="N", help="processes that load images")


def _run(options: Namespace) -> int:
    from monai_ifim.cli.quiet import messages_of_package
    from monai_ifim.runs import RunOptions, run_bundle
    from monai_ifim.runs.progress import Progress

    chosen = RunOptions(
        rank=options.rank,
        energy=options.energy,
        volumes=options.volumes,
        likelihood=options.likelihood,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    with messages_of_package(options.debug):
        summary = run_bundle(options.bundle, options.input, options.output, chosen, Progress)
    print(summary)
    return 0 if summary.complete else 1


COMMANDS = (
    Command(
        "run",
        "write the components of every image of a folder",
        "run --bundle bundles/ifim_signal_2d --input images --output results",
        _arguments,
        _run,
    ),
)
