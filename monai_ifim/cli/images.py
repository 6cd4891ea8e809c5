"""Commands that write images with known answers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.command import Command


def _signal_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("task", choices=["2d", "3d"], help="flat images or volumes")
    parser.add_argument("directory", type=Path, help="where to write")
    parser.add_argument("--count", type=int, default=12, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the background (%(default)s)")


def _signal(options: Namespace) -> None:
    from monai_ifim.experiments import signal_task, write_signal_images

    task = signal_task(options.task)
    write_signal_images(task, options.directory, options.count, options.seed)
    print(f"{options.count} images and labels.csv in {options.directory}")


def _hippocampus_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("task_directory", type=Path, help="holds imagesTr and labelsTr")
    parser.add_argument("directory", type=Path, help="where to write")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (%(default)s)")


def _hippocampus(options: Namespace) -> None:
    from monai_ifim.experiments import write_hippocampus_patches

    write_hippocampus_patches(options.task_directory, options.directory, options.seed)
    print(f"patches and labels.csv in {options.directory}")


COMMANDS = (
    Command(
        "signal-images",
        "write images of the controlled signal task as NIfTI",
        "signal-images 2d images --count 4",
        _signal_arguments,
        _signal,
    ),
    Command(
        "hippocampus-patches",
        "cut the patches of ifim_hippocampus_3d from Task04_Hippocampus",
        "hippocampus-patches DATA/Task04_Hippocampus DATA/hippocampus",
        _hippocampus_arguments,
        _hippocampus,
    ),
)
