"""Commands around bundles: their configurations, the picture of a run, the demonstration."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib.resources import files
from pathlib import Path

from monai_ifim.cli.command import Command


def configurations(folder: str = "") -> dict[str, Path]:
    """Configuration files that are installed with the package.

    Args:
        folder: subfolder of ``configs``, empty for the overlays of bundles.

    Returns:
        Path of each file by its name without extension.
    """
    place = Path(str(files("monai_ifim.configs"))) / folder
    return {path.stem: path for path in sorted(place.glob("*.yaml"))}


def _config_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", choices=list(configurations()), help="which one")


def _config(options: Namespace) -> None:
    print(configurations()[options.name])


def _sheet_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("output_dir", type=Path, help="of the run: ifim.csv and volumes")
    parser.add_argument("--most", type=int, default=4, help="images at the most (%(default)s)")
    parser.add_argument(
        "--slices",
        choices=["sensitivity", "middle"],
        default="sensitivity",
        help="the slices with most sensitivity, or the middle ones (%(default)s)",
    )
    parser.add_argument(
        "--channel", type=int, help="to show, from 0 (the one with most sensitivity)"
    )


def _sheet(options: Namespace) -> None:
    from monai_ifim.report.cases import Style
    from monai_ifim.report.sheet import write_sheet

    style = Style(slices=options.slices, channel=options.channel)
    path = options.output_dir / "sheet.png"
    print(write_sheet(options.output_dir, path, most=options.most, style=style))


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder (%(default)s)")
    parser.add_argument(
        "--bundles", type=Path, default=Path("bundles"), help="folder of a clone (%(default)s)"
    )
    parser.add_argument("--data", type=Path, help="folder with mednist6_64 and hippo3d_dev")


def _demo(options: Namespace) -> int:
    from monai_ifim.report.demo import run_demo

    return run_demo(options.output, options.bundles, options.data)


COMMANDS = (
    Command(
        "config",
        "print where a configuration file lies",
        "config ifim",
        _config_arguments,
        _config,
    ),
    Command(
        "sheet",
        "draw the results of a run as one PNG",
        "sheet results --most 8",
        _sheet_arguments,
        _sheet,
        extra="report",
    ),
    Command(
        "demo",
        "run the bundles of a clone and draw the results",
        "demo --output demo",
        _demo_arguments,
        _demo,
        extra="report",
    ),
)
