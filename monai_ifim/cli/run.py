"""The commands that run a bundle or a plain network over files, alone or in many processes."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ifim.cli.command import Command

if TYPE_CHECKING:
    from monai_ifim.runs import RunOptions, RunSummary

_NAMED = 10  # images without a result that are named
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
        "--dicom",
        action="store_true",
        help="write the results of DICOM series as DICOM objects as well: OUTPUT/dicom",
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
    group.add_argument(
        "--space",
        metavar="FILE",
        help="take the components in this pooled eigenspace (PooledEigenspace.save), in its --rank "
        "leading directions (those in which two halves of its images agree)",
    )
    group.add_argument(
        "--nuisances",
        nargs="+",
        metavar="NAME",
        help="measure how much of each a prediction tolerates: rotation shift scale gain offset "
        "gamma bias_field blur noise",
    )
    group.add_argument(
        "--verify",
        choices=["ddn", "pgd"],
        help="search the smallest change to another answer, and write the image just beyond it "
        "(pip install 'monai_ifim[adversarial]')",
    )


def _machine_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument("--device", help="cpu or cuda:0 (a GPU where there is one)")
    group.add_argument("--batch-size", type=int, metavar="N", help="images in one batch")
    group.add_argument("--workers", type=int, metavar="N", help="processes that load images")

    group = parser.add_argument_group("many machines (--bundle)")
    group.add_argument(
        "--engine", choices=["ray"], help="hand out the images to processes of a Ray cluster"
    )
    group.add_argument(
        "--address", help="of the cluster, or auto (none: processes on this machine alone)"
    )
    group.add_argument(
        "--processes", type=int, metavar="N", help="that do the work (one for each GPU, else CPU)"
    )


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

    if options.shard == "":
        raise ValueError(
            "expected --shard I/N, got an empty text; is the variable that it comes from set?"
        )
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
        space=options.space,
        nuisances=options.nuisances,
        verify=options.verify,
    )
    if options.dicom:
        import_module("monai_ifim.dicom.results").check_highdicom()  # not after a night of work
    with messages_of_package(options.debug):
        summary = (_run_bundle if options.bundle else _run_network)(options, chosen)
    print(summary)
    exported = not options.dicom or _write_dicom(options.output, summary)
    if summary.failed and not summary.error and _by_torchrun(options.shard):
        print(
            "status 0: torchrun would start all processes again; monai-ifim merge "
            f"{options.output} ends with the status of the run",
            file=sys.stderr,
        )
        return 0
    return 0 if summary.complete and exported else 1


def _write_dicom(output: Path, summary: RunSummary) -> bool:
    """The results as DICOM objects; whether all of them were written."""
    from monai_ifim.dicom.results import write_results

    if not summary.written:
        print(f"DICOM objects: with the table of all parts; then monai-ifim dicom {output}")
        return True
    try:
        export = write_results(output)
    except ValueError as error:  # none of the images was DICOM
        print(f"DICOM objects: {error}", file=sys.stderr)
        return False
    print(export)
    return export.complete


def _by_torchrun(shard: str | None) -> bool:
    """Whether torchrun watches this shard, to which any status but 0 is a dead process."""
    return shard is not None and "TORCHELASTIC_RUN_ID" in os.environ


def _run_bundle(options: Namespace, chosen: RunOptions) -> RunSummary:
    from monai_ifim.runs import run_bundle

    _check_engine(options)
    for name in ("weights", "arguments", *_PREPROCESSING):
        if getattr(options, name) is not None:
            raise ValueError(
                f"expected --{name} with --network alone, got it with --bundle, whose own "
                "configuration says it; leave it out"
            )
    ids = dict(options.set or ())
    if options.engine == "ray":
        from monai_ifim.cluster import run_on_ray

        return run_on_ray(
            options.bundle,
            options.input,
            options.output,
            chosen,
            ids,
            address=options.address,
            processes=options.processes,
        )
    return run_bundle(options.bundle, options.input, options.output, chosen, ids, progress=True)


def _run_network(options: Namespace, chosen: RunOptions) -> RunSummary:
    from monai_ifim.runs import image_preprocessing
    from monai_ifim.runs.network import run_named_network

    if options.engine is not None:
        raise ValueError(
            "expected --engine with --bundle alone, got it with --network; make a bundle of it, or "
            "use --shard"
        )
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


def _check_engine(options: Namespace) -> None:
    alone = [name for name in ("address", "processes") if getattr(options, name) is not None]
    if options.engine is None and alone:
        raise ValueError(f"expected --{alone[0]} with --engine ray alone; add that")
    if options.engine is not None and options.shard is not None:
        raise ValueError(
            "expected --shard or --engine, which divide the images each in its own way, got both; "
            "leave out one"
        )


def _merge_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="output folders of one kind of run"
    )
    parser.add_argument(
        "--table", type=Path, help="the table to write (that of the folder, where there is one)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="see whether all volumes are as they were written"
    )


def _merge(options: Namespace) -> int:
    from monai_ifim.data.run_folder.merge import merge_runs, table_of
    from monai_ifim.messages import is_failure, printable

    table = options.table or table_of(options.folders)
    try:
        merged = merge_runs(options.folders, table, verify=options.verify)
    except OSError as error:
        raise ValueError(
            f"expected a table that can be written, got {table} ({error}); name another one with "
            "--table"
        ) from error
    print(f"{len(merged.rows)} rows, {merged.failures} of them without a result: {table}")
    failed = [row for row in merged.rows if is_failure(row["status"])]
    lines = [f"  {row['file']}: {row['status']}" for row in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(f"  and {len(failed) - _NAMED} more: see the table")
    if merged.dropped:
        lines.append(f"  {merged.dropped} images that are no longer in the list are left out")
    lines += [f"  not as it was written: {path}" for path in merged.damaged]
    for line in lines:
        print(printable(line))
    return 1 if failed or merged.damaged else 0


COMMANDS = (
    Command(
        "run",
        "write the components of every image of a folder",
        "run --bundle bundles/ifim_signal_2d --input images --output results",
        _arguments,
        _run,
    ),
    Command(
        "merge",
        "make one table of the journals of several processes or folders",
        "merge results",
        _merge_arguments,
        _merge,
    ),
)
