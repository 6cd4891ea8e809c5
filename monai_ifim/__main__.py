"""Command line: ``python -m monai_ifim``."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from nibabel.filebasedimages import ImageFileError


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command line without the program's name; ``sys.argv`` when None.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m monai_ifim", description="Tools around the bundles."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_config,
        _add_signal_images,
        _add_hippocampus_patches,
        _add_sheet,
        _add_demo,
        _add_experiment,
        _add_evidence,
        _add_label_app,
        _add_label_server,
    ):
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except ModuleNotFoundError as error:
        extra = "experiments" if error.name in ("captum", "scipy") else "report"
        parser.exit(
            2,
            f"{parser.prog}: expected the package {error.name}, got none; it comes with "
            f"pip install 'monai_ifim[{extra}]'\n",
        )
    except (ValueError, OSError, ImageFileError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _add_config(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("config", help="print where a configuration file lies")
    command.add_argument("name", choices=sorted(_configs()), help="which one")
    command.set_defaults(run=lambda options: print(_configs()[options.name]))


def _configs() -> dict[str, Path]:
    folder = Path(str(files("monai_ifim.configs")))
    return {path.stem: path for path in folder.glob("*.yaml")}


def _add_signal_images(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "signal-images", help="write images of the controlled signal task as NIfTI"
    )
    command.add_argument("task", choices=["2d", "3d"])
    command.add_argument("directory", type=Path)
    command.add_argument("--count", type=int, default=12, help="how many (default 12)")
    command.add_argument("--seed", type=int, default=0, help="of the background (default 0)")
    command.set_defaults(run=_signal_images)


def _signal_images(options: argparse.Namespace) -> None:
    from monai_ifim.experiments import signal_task, write_signal_images

    task = signal_task(options.task)
    write_signal_images(task, options.directory, options.count, options.seed)
    print(f"{options.count} images and labels.csv in {options.directory}")


def _add_hippocampus_patches(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "hippocampus-patches", help="cut the patches of ifim_hippocampus_3d from Task04_Hippocampus"
    )
    command.add_argument("task_directory", type=Path, help="holds imagesTr and labelsTr")
    command.add_argument("directory", type=Path, help="where to write")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_hippocampus_patches)


def _hippocampus_patches(options: argparse.Namespace) -> None:
    from monai_ifim.experiments import write_hippocampus_patches

    write_hippocampus_patches(options.task_directory, options.directory, options.seed)
    print(f"patches and labels.csv in {options.directory}")


def _add_sheet(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("sheet", help="draw the results of a run as one PNG")
    command.add_argument("output_dir", type=Path, help="of the run: ifim.csv and volumes")
    command.add_argument("--most", type=int, default=4, help="images at the most (default 4)")
    command.set_defaults(run=_sheet)


def _sheet(options: argparse.Namespace) -> None:
    from monai_ifim.report.sheet import write_sheet

    print(write_sheet(options.output_dir, options.output_dir / "sheet.png", most=options.most))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("demo", help="run the bundles of a clone and draw the results")
    command.add_argument("--output", type=Path, default=Path("demo"))
    command.add_argument("--bundles", type=Path, default=Path("bundles"))
    command.add_argument("--data", type=Path, help="folder with mednist6_64 and hippo3d_dev")
    command.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from monai_ifim.report.demo import run_demo

    return run_demo(options.output, options.bundles, options.data)


def _add_experiment(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "experiment", help="train and measure networks: numbers, plots and a page of results"
    )
    command.add_argument(
        "config", nargs="+", help="files, folders of them, or names of configs/experiments"
    )
    command.add_argument("--output", type=Path, required=True, help="folder of the results")
    command.add_argument("--profile", choices=["quick", "standard", "full"], default="standard")
    command.add_argument("--data", type=Path, help="clinical data sets, or the bundle's images")
    command.add_argument("--bundle", type=Path, help="measure this bundle; task: bundle")
    command.add_argument("--likelihood", choices=["categorical", "bernoulli"], default="")
    command.add_argument("--cache", type=Path, help="of finished steps (default OUTPUT/cache)")
    command.set_defaults(run=_experiment)


def _experiment(options: argparse.Namespace) -> int:
    from monai_ifim.report.results.run import run_evidence

    folder = Path(str(files("monai_ifim.configs"))) / "experiments"
    known = {path.stem: path for path in folder.glob("*.yaml")}
    return run_evidence(
        [known.get(name, Path(name)) for name in options.config],
        options.output,
        profile=options.profile,
        data=options.data,
        bundle=options.bundle,
        likelihood=options.likelihood,
        cache=options.cache,
    )


def _add_evidence(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("evidence-page", help="draw the page of results anew")
    command.add_argument("results", type=Path, help="folder that experiment has filled")
    command.add_argument("page", type=Path, help="Markdown file to write")
    command.set_defaults(run=_evidence)


def _evidence(options: argparse.Namespace) -> None:
    from monai_ifim.report.results.page import write_results_page

    print(write_results_page(options.results, options.page))


def _add_label_app(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("label-app", help="write an app folder for MONAI Label")
    command.add_argument("directory", type=Path)
    command.add_argument("--bundle", type=Path, action="append", default=[], help="to copy in")
    command.set_defaults(run=_label_app)


def _label_app(options: argparse.Namespace) -> None:
    from monai_ifim.label.app_folder import write_app

    print(write_app(options.directory, options.bundle))


def _add_label_server(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("label-server", help="start MONAI Label with such an app")
    command.add_argument("app", type=Path, help="written by label-app")
    command.add_argument("studies", help="folder with the images")
    command.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000)
    command.add_argument("--conf", action="append", default=[], metavar="NAME=VALUE")
    command.set_defaults(run=_label_server)


def _label_server(options: argparse.Namespace) -> None:
    from monai_ifim.label.app_folder import start_server

    start_server(options.app, options.studies, options.host, options.port, options.conf)


if __name__ == "__main__":
    sys.exit(main())
