"""The command that runs a bundle or a plain network over files."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ifim.cli.command import Command

if TYPE_CHECKING:
    from monai_ifim.runs import RunOptions, RunSummary

_PREPROCESSING = ("dims", "channels", "orientation", "spacing", "size", "intensity")


def _arguments(parser: ArgumentParser) -> None:
    what = parser.add_argument_group("the network").add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, metavar="DIR", help="folder of a MONAI bundle")
    what.add_argument(
        "--network",
        metavar="MODULE:FACTORY",
        help="class or function that makes a PyTorch network: package.module:name or file.py:name",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, or folders that are searched: NIfTI, DICOM, PNG, JPEG, TIFF, NRRD, MetaImage",
    )
    files.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the results"
    )
    parser.add_argument_group("a bundle (--bundle)").add_argument(
        "--set",
        nargs="+",
        type=_argument,
        metavar="ID=VALUE",
        help="ids of its configuration or of the overlay, for example ifim_tolerance=0.001",
    )
    files.add_argument(
        "--resume", action="store_true", help="go on with the run that the folder of results holds"
    )
    files.add_argument(
        "--existing",
        choices=["refuse", "move"],
        help="results of another run there: refuse them, or move them into earlier-DATE (refuse)",
    )
    files.add_argument(
        "--shard",
        nargs="?",
        const="auto",
        metavar="I/N",
        help="do the I-th of N parts of the images, counted from 0: 3/100. auto, auto/100: that of "
        "this task of a SLURM array or a Kubernetes Indexed Job, or of this process of torchrun",
    )
    _eigenspace_arguments(parser)
    _machine_arguments(parser)
    _network_arguments(parser)


def _eigenspace_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the components")
    group.add_argument("--rank", type=int, metavar="N", help="keep at most so many eigenpairs")
    group.add_argument(
        "--energy",
        type=float,
        metavar="SHARE",
        help="keep the fewest eigenpairs with this share of the trace",
    )
    group.add_argument(
        "--volumes",
        nargs="+",
        choices=["high", "orth", "sensitivity"],
        help="which to write (high orth)",
    )
    group.add_argument(
        "--likelihood",
        choices=["categorical", "bernoulli"],
        help="softmax, or sigmoids (recognised in a bundle when left out; else categorical)",
    )


def _machine_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument("--device", help="cpu or cuda:0 (a GPU where there is one)")
    group.add_argument("--batch-size", type=int, metavar="N", help="images in one batch")
    group.add_argument("--workers", type=int, metavar="N", help="processes that load images")


def _network_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group(
        "a plain network (--network)", "what is left out is not done; the summary says what was"
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="state dictionary, alone or in a checkpoint (those that the factory gave)",
    )
    group.add_argument(
        "--arguments",
        nargs="+",
        type=_argument,
        metavar="NAME=VALUE",
        help="of the factory, for example out_channels=3",
    )
    group.add_argument("--dims", type=int, help="spatial axes of its images (length of --size)")
    group.add_argument("--channels", type=int, help="channels of its images; others are refused")
    group.add_argument("--orientation", metavar="AXES", help="turn volumes, for example to RAS")
    group.add_argument(
        "--spacing", type=float, nargs="+", metavar="MM", help="resample, one number for each axis"
    )
    group.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="resize, one number for each axis"
    )
    group.add_argument(
        "--intensity",
        choices=["none", "range", "zscore"],
        help="leave the values, scale each image to 0 to 1, or to mean 0 and deviation 1 (none)",
    )


def _argument(text: str) -> tuple[str, Any]:
    """Name and value; a value that is no Python literal is a text."""
    import ast

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _run(options: Namespace) -> int:
    from monai_ifim.cli.quiet import messages_of_package
    from monai_ifim.runs import RunOptions

    chosen = RunOptions(
        rank=options.rank,
        energy=options.energy,
        volumes=options.volumes,
        likelihood=options.likelihood,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        resume=options.resume or None,
        existing=options.existing,
        shard=options.shard,
    )
    with messages_of_package(options.debug):
        summary = (_run_bundle if options.bundle else _run_network)(options, chosen)
    print(summary)
    return 0 if summary.complete else 1


def _run_bundle(options: Namespace, chosen: RunOptions) -> RunSummary:
    from monai_ifim.runs import run_bundle

    for name in ("weights", "arguments", *_PREPROCESSING):
        if getattr(options, name) is not None:
            raise ValueError(
                f"expected --{name} with --network alone, got it with --bundle, whose own "
                "configuration says it; leave it out"
            )
    ids = dict(options.set or ())
    return run_bundle(options.bundle, options.input, options.output, chosen, ids, progress=True)


def _run_network(options: Namespace, chosen: RunOptions) -> RunSummary:
    from monai_ifim.runs import image_preprocessing
    from monai_ifim.runs.network import run_named_network

    if options.set is not None:
        raise ValueError(
            "expected --set with --bundle alone, got it with --network, which has no "
            "configuration; leave it out"
        )
    steps = {name: getattr(options, name) for name in _PREPROCESSING}
    preprocessing = image_preprocessing(**{k: v for k, v in steps.items() if v is not None})
    return run_named_network(
        options.network,
        options.weights,
        dict(options.arguments or ()),
        options.input,
        options.output,
        preprocessing,
        chosen,
    )


COMMANDS = (
    Command(
        "run",
        "write the components of every image of a folder",
        "run --bundle bundles/ifim_signal_2d --input images --output results",
        _arguments,
        _run,
    ),
)
