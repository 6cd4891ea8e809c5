"""Commands that show a run or hand it on: report, server on this machine, DICOM objects."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("output_dir", type=Path, help="of the run: ifim.csv and volumes")
    parser.add_argument(
        "--most",
        type=int,
        default=100,
        help="images with pictures and volumes, the most sensitive ones (%(default)s)",
    )
    parser.add_argument("--labels", type=Path, help="CSV table of the true classes: file,label")
    parser.add_argument(
        "--slices",
        choices=["sensitivity", "middle"],
        default="sensitivity",
        help="of the pictures: those with most sensitivity, or the middle ones (%(default)s)",
    )


def _report(options: Namespace) -> None:
    from monai_ifim.report.assets import asset
    from monai_ifim.report.cases import Style
    from monai_ifim.report.cases.folder import read_labels
    from monai_ifim.report.html import write_report

    labels = read_labels(options.labels) if options.labels else None
    style = Style(slices=options.slices)
    print(write_report(options.output_dir, most=options.most, labels=labels, style=style))
    if asset("niivue.js") is None:
        print("without slices to scroll: this installation was built without `make assets`")


def _view_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("output_dir", type=Path, help="of the run: ifim.csv and volumes")
    parser.add_argument("--port", type=int, default=0, help="of this machine (any free one)")


def _view(options: Namespace) -> None:
    from monai_ifim.report.html import ReportServer, write_report

    if not (options.output_dir / "report" / "index.html").is_file():
        write_report(options.output_dir, most=0)
    with ReportServer(options.output_dir, options.port) as server:
        print(f"open {server.address}\nfor this machine alone; Ctrl+C ends it", flush=True)
        server.serve_forever()


_OBJECTS = ("maps", "picture", "numbers")


def _dicom_arguments(parser: ArgumentParser) -> None:
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


def _dicom(options: Namespace) -> int:
    from monai_ifim.dicom.results import write_results

    export = write_results(
        options.output_dir,
        sources=options.source,
        folder=options.output,
        objects=options.objects,
    )
    print(export)
    return 0 if export.complete else 1


def _pooled_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="such as ifim_pooled.safetensors")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="of the eigenvectors: PNG, PDF or SVG"
    )
    parser.add_argument(
        "--blur", type=float, default=2.0, help="of the filter and the angles, in voxels (2)"
    )
    parser.add_argument(
        "--most", type=int, default=3, help="eigenvectors in the picture (%(default)s)"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="FILE", help="another one, to which angles are printed"
    )


def _pooled(options: Namespace) -> None:
    from monai_ifim.core import PooledEigenspace

    space = PooledEigenspace.load(options.file)
    print(space)
    for name, text in sorted(space.about.items()):
        print(f"{name}: {text}")
    shares = (space.eigenvalues / space.trace).tolist()
    print("shares of the trace:", " ".join(f"{share:.4f}" for share in shares))
    print("agreement of halves:", " ".join(f"{each:.4f}" for each in space.stability.tolist()))
    if options.reference:
        angles = space.angles(PooledEigenspace.load(options.reference), options.blur).rad2deg()
        told = " ".join(f"{angle:.2f}" for angle in angles.tolist())
        print(f"angles to {options.reference}, filtered by {options.blur:g} voxels: {told} degrees")
    if options.picture:
        from monai_ifim.report.pooled import show_pooled

        show_pooled(space, blur=options.blur, most=options.most).savefig(options.picture, dpi=150)
        print(options.picture)


COMMANDS = (
    Command(
        "report",
        "write pages that show a run in any browser: OUT/report/index.html",
        "report results --most 20",
        _report_arguments,
        _report,
        extra="report",
    ),
    Command(
        "view",
        "show a run and its full volumes in the browser, for this machine alone",
        "view results",
        _view_arguments,
        _view,
        extra="report",
    ),
    Command(
        "dicom",
        "write the results of a run as DICOM objects, in the studies of their series",
        "dicom results",
        _dicom_arguments,
        _dicom,
        extra="dicom",
    ),
    Command(
        "pooled",
        "show a pooled eigenspace: its numbers, a picture, angles to another one",
        "pooled results/ifim_pooled.safetensors --picture pooled.png",
        _pooled_arguments,
        _pooled,
        extra="report",
    ),
)
